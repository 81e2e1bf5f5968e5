"""The trainer for `nnUNetv2_train -tr nnUNetTrainerFastmed`: nnU-Net's own, with the fused losses."""

from __future__ import annotations

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from . import DC_and_BCE_loss, DC_and_CE_loss, DeepSupervisionWrapper, MemoryEfficientSoftDiceLoss

__all__ = ["nnUNetTrainerFastmed"]


class nnUNetTrainerFastmed(nnUNetTrainer):  # noqa: N801
    """nnU-Net's trainer, whose loss is one pass over the voxels of each output.

    Regions, an ignore label, deep supervision and the Dice of all ranks are as in nnU-Net. The loss is not compiled:
    it is one operator already. nnU-Net finds the trainer where `nnUNet_extTrainer` names the folder that
    `python -m fastmed.compat.nnunet` prints.
    """

    def _build_loss(self) -> nn.Module:
        has_regions = self.label_manager.has_regions
        ignore_label = self.label_manager.ignore_label
        dice = {
            "batch_dice": self.configuration_manager.batch_dice,
            "do_bg": has_regions,
            "smooth": 1e-5,
            "ddp": self.is_ddp,
        }
        loss = (
            DC_and_BCE_loss({}, dice, use_ignore_label=ignore_label is not None)
            if has_regions
            else DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)
        )
        return DeepSupervisionWrapper(loss, self._level_weights()) if self.enable_deep_supervision else loss

    def _level_weights(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        weights = 0.5 ** np.arange(len(self._get_deep_supervision_scales()))
        # DistributedDataParallel takes no parameter without a gradient, unless the network is compiled.
        weights[-1] = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
        return weights / weights.sum()
