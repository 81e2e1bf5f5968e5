"""Counting the scores of binary tasks, by bins for sums over patches and ranks, or by their exact order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops, validation
from ..contract import Bins, RankStatistics, ScoreHistogram

_ACTIVATIONS = (None, "sigmoid")
_SPACINGS = ("uniform", "logit")
_TRANSFORMS = {
    (None, "uniform"): "identity",
    ("sigmoid", "uniform"): "sigmoid",
    (None, "logit"): "logit",
    ("sigmoid", "logit"): "identity",
}
_DEFAULT_LIMITS = {"uniform": (0.0, 1.0), "logit": (-16.0, 16.0)}
# Beyond, the probability of a logit is 0 or 1 also in float64.
_MAX_LOGIT = 36.0
_MAX_BINS = 1 << 16
_MAX_CELLS = 1 << 28


def _limits(limits: tuple[float, float] | None, spacing: str, bins: int) -> tuple[float, float]:
    given = _DEFAULT_LIMITS[spacing] if limits is None else limits
    if not isinstance(given, Sequence) or len(given) != 2 or not all(map(validation.is_number, given)):
        raise ValueError(f"limits: got {given!r}, allowed are two numbers, the lower one first")
    low, high = map(float, given)
    furthest = 1e30 if spacing == "uniform" else _MAX_LOGIT
    if not -furthest <= low < high <= furthest:
        allowed = f"two numbers from {-furthest:g} to {furthest:g}"
        raise ValueError(f"limits: got ({low}, {high}), allowed are {allowed}, the lower one first")
    if high - low < 1e-30 or (high - low) / bins < 2.0**-24 * max(abs(low), abs(high)):
        raise ValueError(f"limits: got ({low}, {high}) for {bins} bins, allowed are bins no narrower than float32 is")
    return low, high


def score_histogram(
    scores: Tensor,
    target: Tensor,
    bins: int = 1024,
    *,
    activation: str | None = None,
    spacing: str = "uniform",
    limits: tuple[float, float] | None = None,
    mask: Tensor | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> ScoreHistogram:
    """Counts the scores of every binary task by label and bin, in one pass.

    The ROC curve, the precision-recall curve, every threshold sweep and the calibration follow from these counts:
    see `fastmed.metrics.functional`. Counts of patches, batches and ranks add, as long as the bins are the same.

    Scores are rounded to float32 and binned in its arithmetic. Where the score itself is binned, all backends count
    alike; where a sigmoid or a logit is computed first, a score next to an edge may fall on either side of it.

    Args:
        scores: (N, T) or (N, T, *spatial) in float16, bfloat16, float32 or float64, any strides: probabilities, or
            logits with an activation, or any number with limits.
        target: labels of the same shape in any dtype: 0, 1, and NaN or -1 for a missing one, which is left out.
        bins: number of bins, 1 to 65,536.
        activation: "sigmoid" for logits, None for scores that are counted as they are.
        spacing: "uniform" for bins of equal width, or "logit" for bins of equal width in the logit of a probability,
            which resolve scores next to 0 and 1, as those of findings below some percent in prevalence are. With
            activation="sigmoid" these bin the input itself.
        limits: lowest and highest edge, in units of the (activated) score, (0, 1) by default; for spacing="logit"
            they are logits, (-16, 16) by default. A score equal to the upper limit belongs to the last bin.
        mask: bool, (N, *spatial), (N, 1, *spatial), (N, T) or of the scores' shape: False leaves a label out.
        validate: whether a label that is neither 0 nor 1 nor missing raises. None raises where looking needs no
            device synchronisation (on the CPU); elsewhere such a label is left out.
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Returns:
        The counts, with scores below and above the limits and NaN scores apart.

    Raises:
        ValueError: for an argument or a label out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> scores = torch.tensor([[0.1], [0.2], [0.7], [1.0]])
        >>> histogram = score_histogram(scores, torch.tensor([[0], [1], [1], [-1]]), bins=4)
        >>> histogram.counts.tolist(), histogram.edges.tolist()
        ([[[1, 0, 0, 0], [1, 0, 1, 0]]], [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    operands = validation.scored(scores, target, mask)
    validation.choice("activation", activation, _ACTIVATIONS)
    validation.choice("spacing", spacing, _SPACINGS)
    validation.whole("bins", bins)
    tasks = scores.shape[1]
    if not 1 <= bins <= _MAX_BINS:
        raise ValueError(f"bins: got {bins}, allowed are 1 to {_MAX_BINS}")
    if tasks * bins > _MAX_CELLS:
        raise ValueError(f"bins: got {bins} for {tasks} tasks, allowed are at most {_MAX_CELLS // tasks}")
    low, high = _limits(limits, spacing, bins)
    counts = ops.score_histogram(operands, Bins(_TRANSFORMS[activation, spacing], bins, low, high), validate, backend)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64, device=scores.device)
    if spacing == "logit":
        edges = edges.sigmoid()
    below, inside, above, nan = counts.split((1, bins, 1, 1), dim=-1)
    return ScoreHistogram(inside, below.squeeze(-1), above.squeeze(-1), nan.squeeze(-1), edges)


def rank_statistics(
    scores: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> RankStatistics:
    """Ranks the scores of every binary task: what the exact area under the ROC curve and its variance follow from.

    Nothing is binned, so that all scores must be there at once. Any increasing function of the scores gives the same
    result, so that logits need no activation. See `fastmed.metrics.functional.auroc`, and DeLong, DeLong and
    Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic curves", 1988,
    for the placements.

    Args:
        scores: (N, T) or (N, T, *spatial) in float16, bfloat16, float32 or float64, any strides; infinities rank
            first and last.
        target: labels of the same shape in any dtype: 0, 1, and NaN or -1 for a missing one, which is left out.
        mask: bool, (N, *spatial), (N, 1, *spatial), (N, T) or of the scores' shape: False leaves a label out.
        validate: whether a label that is neither 0 nor 1 nor missing raises, and a NaN score, which has no rank.
            None raises where looking needs no device synchronisation (on the CPU); elsewhere such a label is left
            out, and such a score makes `u` of its task NaN.
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Returns:
        Statistics of each task, (T,).

    Raises:
        ValueError: for shapes or devices that do not belong together, an unknown label, or a NaN score.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import rank_statistics
        >>> ranks = rank_statistics(torch.tensor([[0.1], [0.4], [0.4], [0.8]]), torch.tensor([[0], [0], [1], [1]]))
        >>> ranks.u.tolist(), ranks.positives.tolist(), ranks.negatives.tolist()
        ([3.5], [2], [2])
    """
    stacked = ops.rank_statistics(validation.scored(scores, target, mask), validate, backend)
    positives, negatives, *floating = stacked.unbind(0)
    return RankStatistics(positives.long(), negatives.long(), *floating)
