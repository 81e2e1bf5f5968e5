"""Public functions: check the arguments, run one pass over the voxels, apply a formula to the sums."""

from ..contract import RankStatistics, ScoreHistogram
from .classification import multitask_bce_loss
from .compound import dice_bce_loss, dice_ce_loss, dice_focal_loss, unified_focal_loss
from .counting import confusion_counts
from .entropy import cross_entropy_loss, focal_loss
from .options import RegionOptions
from .overlap import (
    generalized_dice_loss,
    jaccard_loss,
    log_cosh_dice_loss,
    mcc_loss,
    sensitivity_specificity_loss,
    soft_dice_loss,
    tversky_loss,
)
from .region import region_sums
from .scoring import rank_statistics, score_histogram

__all__ = [
    "RankStatistics",
    "RegionOptions",
    "ScoreHistogram",
    "confusion_counts",
    "cross_entropy_loss",
    "dice_bce_loss",
    "dice_ce_loss",
    "dice_focal_loss",
    "focal_loss",
    "generalized_dice_loss",
    "jaccard_loss",
    "log_cosh_dice_loss",
    "mcc_loss",
    "multitask_bce_loss",
    "rank_statistics",
    "region_sums",
    "score_histogram",
    "sensitivity_specificity_loss",
    "soft_dice_loss",
    "tversky_loss",
    "unified_focal_loss",
]
