"""Where nnU-Net finds the trainer; it imports every module of this folder by its bare name."""

from fastmed.compat.nnunet.trainer import nnUNetTrainerFastmed

__all__ = ["nnUNetTrainerFastmed"]
