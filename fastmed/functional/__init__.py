"""Public functions: check the arguments, run one pass over the voxels, apply a formula to the sums."""

from ..contract import RankStatistics, ScoreHistogram
from .classification import multitask_bce_loss
from .counting import confusion_counts
from .region import region_sums
from .scoring import rank_statistics, score_histogram
from .segmentation import dice_bce_loss, dice_ce_loss, soft_dice_loss

__all__ = [
    "RankStatistics",
    "ScoreHistogram",
    "confusion_counts",
    "dice_bce_loss",
    "dice_ce_loss",
    "multitask_bce_loss",
    "rank_statistics",
    "region_sums",
    "score_histogram",
    "soft_dice_loss",
]
