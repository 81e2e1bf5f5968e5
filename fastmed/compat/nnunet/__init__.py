"""The losses of nnU-Net by their names and with their numbers, in one pass; `trainer` has a trainer that takes them."""

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper

from .compound import DC_and_BCE_loss, DC_and_CE_loss, DC_and_topk_loss
from .dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss

__all__ = [
    "DC_and_BCE_loss",
    "DC_and_CE_loss",
    "DC_and_topk_loss",
    "DeepSupervisionWrapper",
    "MemoryEfficientSoftDiceLoss",
    "SoftDiceLoss",
]
