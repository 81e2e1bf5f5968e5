"""What passes between the layers: the statistics, the loss family, and what a backend is asked and answers."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

_Fields = TypeVar("_Fields", bound=tuple[Any, ...])


def changed(fields: _Fields, **values: object) -> _Fields:
    """`fields._replace(**values)` of a named tuple, in a form that the compiler of torch 2.6 can follow."""
    kind = type(fields)
    held = dict(zip(kind._fields, fields, strict=True))  # type: ignore[attr-defined]
    return kind(**{**held, **values})


class RegionSums(NamedTuple):
    """Sums over the voxels of one sample and one class, each of shape (N, C).

    With p the activated prediction, g the target in [0, 1] and w the voxel weight (1 by default, 0 where
    masked or ignored). They add: patches, accumulation steps and ranks combine by `+`.

    Attributes:
        tp: sum w p g.
        pred: sum w p.
        pred_sq: sum w p^2.
        target: sum w g.
        target_sq: sum w g^2.
        nll_pos: sum w s (1 - p)^gamma (-log p), with s the smoothed target and gamma 0 but for a focal loss; None
            where it was not asked for or p is not an activation of logits.
        nll_neg: sum w (1 - s) p^gamma (-log(1 - p)); defined for the sigmoid only, else None.
        weight: sum w.
        tp_sq: sum w p^2 g, or None where it was not asked for.
        difference: sum w |p - g|, or None where it was not asked for.
        counts: voxels of the hard prediction against the hard target, int64 (N, C, 4) = tn, fp, fn, tp, or None where
            they were not asked for. The hard prediction is the largest logit under softmax, of equal ones that of
            the lowest class, and p > 0.5 otherwise; the hard target g > 0.5. Weights do not count, but a voxel
            of weight 0 is left out. A voxel whose probabilities are NaN is predicted as no class.
    """

    tp: Tensor
    pred: Tensor
    pred_sq: Tensor
    target: Tensor
    target_sq: Tensor
    nll_pos: Tensor | None
    nll_neg: Tensor | None
    weight: Tensor
    tp_sq: Tensor | None = None
    difference: Tensor | None = None
    counts: Tensor | None = None

    def __add__(self, other: object) -> RegionSums:
        """The sums over the voxels of both; what one of them lacks, the result lacks."""
        if not isinstance(other, RegionSums):
            return NotImplemented
        pairs = zip(self, other, strict=True)
        return RegionSums._make(None if a is None or b is None else a + b for a, b in pairs)


# Row of each statistic in the stacked (STATISTICS, N, C) tensor that the operators pass around.
TP, PRED, PRED_SQ, TARGET, TARGET_SQ, NLL_POS, NLL_NEG, WEIGHT, TP_SQ, DIFFERENCE = range(10)
# Voxels of the hard prediction: in both it and the hard target, in it, in the target, and all that have weight.
HARD_TP, HARD_PRED, HARD_TARGET, HARD_TOTAL = range(10, 14)
STATISTICS = 14
# Rows before the optional ones: a `RatioLinear` depends on no other.
BASIC = TP_SQ


class Wanted(NamedTuple):
    """Which of the optional statistics a pass computes; the rows of the others are 0.

    Attributes:
        nll: NLL_POS and NLL_NEG, which cost a logarithm a voxel.
        soft: TP_SQ and DIFFERENCE.
        hard: HARD_TP to HARD_TOTAL, exact whole numbers that carry no gradient.
    """

    nll: bool = True
    soft: bool = False
    hard: bool = False


# What a mean of nll terms is taken over: see `RatioLinear`.
NLL_MEANS = ("elements", "voxels", "target", "task")


class RatioLinear(NamedTuple):
    """One loss of the ratio-plus-linear family: overlap ratios per region and a weighted mean of nll terms.

    With P = pred_sq and Y = target_sq when `squared`, else pred and target, the overlap loss of a region is

        1 - (numerator_tp tp + smooth_numerator)
            / (denominator_tp tp + denominator_pred P + denominator_target Y + smooth_denominator)

    and the loss is `lambda_ratio` times its mean (or sum) over regions, plus `lambda_nll` times
    `sum(v_pos nll_pos + v_neg nll_neg) / normaliser`. Dice is (2; 0, 1, 1), Tversky (1; 1-a-b, a, b).

    Attributes:
        first_class: regions below this class do not enter the ratio (1 drops the background).
        pool_batch: ratios of the sums over the batch instead of one ratio a sample.
        nll_mean: the normaliser: "elements" = sum of weights over samples and classes, "voxels" = that over the
            number of classes, "target" = sum of v_pos times target (torch's weighted mean for label maps),
            "task" = that of each class on its own, times the number of classes: the mean of one mean a class.
        mean: mean over regions and nll divided by its normaliser; otherwise plain sums of both.
        balance_pos: multiplies v_pos of each class by its share of negatives in the batch, which gives rare
            positives the weight that they lack.
        balance_neg: multiplies v_neg of each class by its share of positives in the batch.
    """

    numerator_tp: float = 2.0
    denominator_tp: float = 0.0
    denominator_pred: float = 1.0
    denominator_target: float = 1.0
    smooth_numerator: float = 1e-5
    smooth_denominator: float = 1e-5
    squared: bool = True
    first_class: int = 0
    pool_batch: bool = False
    lambda_ratio: float = 1.0
    lambda_nll: float = 0.0
    nll_mean: str = "elements"
    mean: bool = True
    balance_pos: bool = False
    balance_neg: bool = False

    def numbers(self) -> tuple[float, ...]:
        """The fields as numbers, which operators take as one list: each argument more costs each call."""
        # The compiler of torch 2.6 takes slices of a tuple, and not of a named one.
        fields: tuple[Any, ...] = tuple(self)
        at = RatioLinear._fields.index("nll_mean")
        numbers = (*fields[:at], NLL_MEANS.index(self.nll_mean), *fields[at + 1 :])
        return tuple([float(number) for number in numbers])

    @staticmethod
    @functools.lru_cache(maxsize=1024)
    def of_numbers(numbers: tuple[float, ...]) -> RatioLinear:
        """The loss that `numbers` describes."""
        # Numbers for now; those that are flags, counts and text become so below.
        fields = RatioLinear(*numbers)  # type: ignore[arg-type]
        return fields._replace(
            squared=bool(fields.squared),
            first_class=int(fields.first_class),
            pool_batch=bool(fields.pool_batch),
            nll_mean=NLL_MEANS[int(fields.nll_mean)],
            mean=bool(fields.mean),
            balance_pos=bool(fields.balance_pos),
            balance_neg=bool(fields.balance_neg),
        )


class LossWeights(NamedTuple):
    """Per-class weights of a `RatioLinear` loss, each float32 of shape (C,) or None for ones.

    Attributes:
        region: multiplies the overlap loss of each class; the mean still divides by the count.
        nll_pos: multiplies nll_pos of each class.
        nll_neg: multiplies nll_neg of each class.
    """

    region: Tensor | None = None
    nll_pos: Tensor | None = None
    nll_neg: Tensor | None = None


class RegionInput(NamedTuple):
    """The operands of a region pass, in the one layout that backends see.

    Attributes:
        input: logits or probabilities (N, C, V), any strides.
        target: labels (N, V) of any integer dtype, or a dense target (N, C, V) of any dtype.
        mask: voxel weights (N, 1, V) or (N, C, V), or None; 0 removes a voxel, also from the gradient.
        activation: "sigmoid", "softmax" or "none".
        ignore_index: label (or dense value) whose voxels are removed, or None.
        uncertain: what the value -1 of a dense target stands for in each class, (C,) float32, NaN to remove it;
            a target of NaN is removed as well, and any other value outside [0, 1] is out of range. None takes
            dense targets as they are.
        label_smoothing: the nll sees the target `(1 - label_smoothing) g + label_smoothing / K`, K being 2 for a
            sigmoid and C for a softmax.
        gamma: exponent of the focal factor of the nll.
    """

    input: Tensor
    target: Tensor
    mask: Tensor | None
    activation: str
    ignore_index: int | None = None
    uncertain: Tensor | None = None
    label_smoothing: float = 0.0
    gamma: float = 0.0

    @property
    def is_dense(self) -> bool:
        """Whether the target has a channel per class."""
        return self.target.ndim == 3


class CountInput(NamedTuple):
    """The operands of a counting pass, in the one layout that backends see.

    The input is a label map (N, V), or scores (N, C, V) whose largest gives the label: of equal ones that of the
    lowest class, and the first NaN before any number. With a threshold every class is a task of its own.

    Attributes:
        input: labels (N, V) of an integer dtype, floating scores (N, C, V), or (N, C, V) of any dtype if there is a
            threshold. Any strides.
        target: labels (N, V) of an integer dtype; with a threshold (N, C, V) of any dtype: 0, 1, or NaN or -1 for a
            missing label, which is not counted.
        mask: bool of the target's shape, or None; where it is False nothing is counted.
        num_classes: C.
        threshold: float64 (C,), contiguous, or None. A voxel is positive where input > threshold; for a floating
            input it is rounded to the input's dtype, for an integer one to the whole number below.
        ignore_index: target value whose voxels are not counted, or None.
        pooled: one table for all samples.
    """

    input: Tensor
    target: Tensor
    mask: Tensor | None
    num_classes: int
    threshold: Tensor | None = None
    ignore_index: int | None = None
    pooled: bool = False

    @property
    def counts_shape(self) -> tuple[int, ...]:
        """Shape of the counts: (N, C, C), (N, C, 4) with a threshold, and without N if pooled."""
        table = (self.num_classes, self.num_classes if self.threshold is None else 4)
        return table if self.pooled else (self.target.shape[0], *table)


class ScoreHistogram(NamedTuple):
    """Scores of T binary tasks, counted by label and bin. Fields but `edges` add over patches, batches and ranks.

    Attributes:
        counts: int64 (T, 2, bins): row 0 holds the negatives, row 1 the positives, by ascending score.
        below: int64 (T, 2): negatives and positives with a score under the first edge.
        above: int64 (T, 2): those with a score over the last edge.
        nan: int64 (T, 2): those whose score is NaN.
        edges: float64 (bins + 1,), ascending, in units of the (activated) score. A bin holds its lower edge, and the
            last bin its upper edge too.
    """

    counts: Tensor
    below: Tensor
    above: Tensor
    nan: Tensor
    edges: Tensor

    def __add__(self, other: object) -> ScoreHistogram:
        """Counts of both, not the concatenation of two tuples; that the bins are the same is seen on the host.

        Raises:
            ValueError: for another number of tasks, or other bins.
        """
        if not isinstance(other, ScoreHistogram):
            return NotImplemented
        if self.counts.shape != other.counts.shape:
            shapes = tuple(other.counts.shape), tuple(self.counts.shape)
            raise ValueError("histogram: got counts {} to add, allowed are {}: the same tasks and bins".format(*shapes))
        if not torch.compiler.is_compiling() and not torch.equal(self.edges, other.edges):
            bins = [
                f"{len(each.edges) - 1} bins from {each.edges[0]:g} to {each.edges[-1]:g}" for each in (other, self)
            ]
            raise ValueError("histogram: got {} to add, allowed are the same bins, {}".format(*bins))
        counts, below, above, nan = (mine + theirs for mine, theirs in zip(self[:-1], other[:-1], strict=True))
        return ScoreHistogram(counts, below, above, nan, self.edges)


class RankStatistics(NamedTuple):
    """What the ranks of all scores say of T binary tasks, each field of shape (T,). They do not add.

    Attributes:
        positives: int64, number of positives.
        negatives: int64, number of negatives.
        u: float64, the statistic of Mann and Whitney: pairs in which the positive scores higher, a tie counting half.
            Exact below 2^53.
        positive_squares: float64, sum over the positives of the square of how many negatives score lower, a tie
            counting half.
        negative_squares: float64, sum over the negatives of the square of how many positives score higher, likewise.

    The last three are NaN for a task with a NaN score, where that raises no error.
    """

    positives: Tensor
    negatives: Tensor
    u: Tensor
    positive_squares: Tensor
    negative_squares: Tensor


class Scored(NamedTuple):
    """Operands of a pass over scored binary labels, in the one layout that backends see.

    Attributes:
        scores: (N, T, V) of a floating dtype, any strides.
        target: (N, T, V) of any dtype: 0, 1, and NaN or -1 for a missing label.
        mask: bool (N, T, V) or None; where it is False nothing is counted.
    """

    scores: Tensor
    target: Tensor
    mask: Tensor | None


class Bins(NamedTuple):
    """Bins of equal width for scores in float32.

    A value v between the limits falls into bin `floor((v - low) * scale)`, both operations rounded to float32, and
    into the last bin where that would be `number`. So all backends agree to the bit where v is the score itself;
    where it is computed, a score next to an edge may fall on either side of it.

    Attributes:
        transform: v is "identity" = the score x, "sigmoid" = 1 / (1 + exp(-x)), or "logit" = log(x / (1 - x)), with
            a score outside [0, 1] beyond the limit on its side.
        number: number of bins.
        low: lower limit.
        high: upper limit.
    """

    transform: str
    number: int
    low: float
    high: float

    def in_float32(self) -> tuple[float, float, float]:
        """Lower limit, upper limit and scale, each a float32."""
        low, high = float(np.float32(self.low)), float(np.float32(self.high))
        return low, high, float(np.float32(self.number / (high - low)))


# Columns of the operator's histogram: below, the bins, above and NaN.
EXTRA_COLUMNS = 3


class Request(NamedTuple):
    """What a backend is asked to run; it answers with the reasons why it cannot."""

    op: str
    device: str
    dtype: torch.dtype
    target_dtype: torch.dtype
    classes: int


class Backend(Protocol):
    """A module under `fastmed.backends`; it implements the operations that its row in the table names.

    Backends raise nothing about labels out of range: they return how many there were, and never read or write
    out of bounds because of one.
    """

    def unavailable_reason(self) -> str | None:
        """Why nothing runs on this backend here, or None."""

    def unsupported_reasons(self, request: Request) -> list[str]:
        """Every reason why this request cannot run; empty if it can."""

    def region_sums(self, operands: RegionInput, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Stacked sums (STATISTICS, N, C) and the number of labels out of range, int64 (N,).

        The sums are float64 (float32 on a device without it), NaN for a sample with labels out of range; rows
        that were not asked for or are not defined hold zero.
        """

    def region_sums_backward(
        self, operands: RegionInput, gradient: Tensor, scale: Tensor | None, into: Tensor | None = None
    ) -> Tensor:
        """Gradient of the input (N, C, V), dense, from that of the stacked sums, times the scalar `scale`.

        That of the sums has BASIC rows, or HARD_TP with those of the soft statistics. The gradient of another pass,
        `into`, is added to in place, and returned.
        """

    def confusion_counts(self, operands: CountInput) -> tuple[Tensor, Tensor]:
        """Counts int64 of `counts_shape` and labels out of range, int64 (N,), or (1,) if pooled.

        Rows are the target and columns the prediction; with a threshold they are tn, fp, fn and tp of each class.
        """

    def score_histogram(self, operands: Scored, bins: Bins) -> tuple[Tensor, Tensor]:
        """Counts int64 (T, 2, EXTRA_COLUMNS + bins) by label and column, and labels out of range, int64 (T,)."""

    def rank_statistics(self, operands: Scored) -> tuple[Tensor, Tensor]:
        """Stacked float64 (5, T), rows as in `RankStatistics`, and labels out of range, int64 (T,)."""


class FusedBackend(Protocol):
    """A backend that also computes known losses without a tensor operator per step of their formula."""

    def region_loss(
        self, operands: RegionInput, loss: RatioLinear, weights: LossWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its gradient by the stacked sums, (BASIC, N, C), and labels out of range, int64 (N,).

        Loss and gradient are those of `formulas.ratio_linear`, in the dtype that users see.
        """

    def region_step(
        self, operands: RegionInput, loss: RatioLinear, weights: LossWeights
    ) -> tuple[Tensor, Tensor, int] | None:
        """The loss, the gradient of the input, and how many labels are out of range.

        None where two passes are as fast. A pooled table comes as it is, (N, C), and so does its gradient.
        """
