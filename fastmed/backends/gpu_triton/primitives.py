"""What every kernel shares: the statistics by bit, tile loads, and arithmetic that costs few instructions."""

from __future__ import annotations

import triton
import triton.language as tl

from ... import contract

TP = tl.constexpr(contract.TP)
PRED = tl.constexpr(contract.PRED)
PRED_SQ = tl.constexpr(contract.PRED_SQ)
TARGET = tl.constexpr(contract.TARGET)
TARGET_SQ = tl.constexpr(contract.TARGET_SQ)
NLL_POS = tl.constexpr(contract.NLL_POS)
NLL_NEG = tl.constexpr(contract.NLL_NEG)
WEIGHT = tl.constexpr(contract.WEIGHT)
TP_SQ = tl.constexpr(contract.TP_SQ)
DIFFERENCE = tl.constexpr(contract.DIFFERENCE)
HARD_TP = tl.constexpr(contract.HARD_TP)
HARD_PRED = tl.constexpr(contract.HARD_PRED)
HARD_TARGET = tl.constexpr(contract.HARD_TARGET)
HARD_TOTAL = tl.constexpr(contract.HARD_TOTAL)
STATISTICS = tl.constexpr(contract.STATISTICS)
# One more row of partial sums, after the statistics: labels out of range.
INVALID = tl.constexpr(contract.STATISTICS)

HAS_TP = tl.constexpr(1 << contract.TP)
HAS_PRED = tl.constexpr(1 << contract.PRED)
HAS_PRED_SQ = tl.constexpr(1 << contract.PRED_SQ)
HAS_TARGET = tl.constexpr(1 << contract.TARGET)
HAS_TARGET_SQ = tl.constexpr(1 << contract.TARGET_SQ)
HAS_NLL_POS = tl.constexpr(1 << contract.NLL_POS)
HAS_NLL_NEG = tl.constexpr(1 << contract.NLL_NEG)
HAS_WEIGHT = tl.constexpr(1 << contract.WEIGHT)
# The soft statistics come together, and so do the counts.
HAS_SOFT = tl.constexpr(1 << contract.TP_SQ)
HAS_HARD = tl.constexpr(1 << contract.HARD_TP)
HAS_INVALID = tl.constexpr(1 << contract.STATISTICS)

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def _divided_reciprocal(value):
    return 1.0 / value


@triton.jit
def _approximate_reciprocal(value):
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _library_log2(value):
    return tl.log2(value)


@triton.jit
def _approximate_log2(value):
    return tl.inline_asm_elementwise(
        "lg2.approx.ftz.f32 $0, $1;", "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1
    )


# The interpreter runs no PTX. On the GPU the library's forms guard against arguments that never occur here
# (1 <= value), for 4 and 20 instructions.
INTERPRETED = not isinstance(_divided_reciprocal, triton.JITFunction)
reciprocal = _divided_reciprocal if INTERPRETED else _approximate_reciprocal
log2 = _library_log2 if INTERPRETED else _approximate_log2


@triton.jit
def log1p(value):
    """log(1 + value) for value in [0, 1]: relative error 2e-7, without the special function unit."""
    series = value * -0.003244023537263274 + 0.019851453602313995
    series = series * value - 0.056959521025419235
    series = series * value + 0.10603653639554977
    series = series * value - 0.15305592119693756
    series = series * value + 0.1967593878507614
    series = series * value - 0.24954134225845337
    series = series * value + 0.3332996368408203
    series = series * value - 0.4999990165233612
    return (series * value + 1.0) * value


@triton.jit
def add_soft(sums, p, target, weight, WANTED: tl.constexpr):
    """Adds to the sums of p^2 g and of |p - g|, if they are wanted."""
    tp_sq, difference = sums
    if HAS_SOFT & WANTED:
        tp_sq += weight * target * p * p
        difference += weight * tl.abs(p - target)
    return tp_sq, difference


@triton.jit
def add_hard(counts, in_pred, in_target, weight, WANTED: tl.constexpr):
    """Adds to the counts of the hard prediction, if they are wanted.

    An accumulator counts the voxels of one thread of a program, far fewer than the 2^24 to which float32 counts.
    """
    both, pred, target, total = counts
    if HAS_HARD & WANTED:
        counted = weight != 0.0
        both = tl.where(counted & in_pred & in_target, both + 1.0, both)
        pred = tl.where(counted & in_pred, pred + 1.0, pred)
        target = tl.where(counted & in_target, target + 1.0, target)
        total = tl.where(counted, total + 1.0, total)
    return both, pred, target, total


@triton.jit
def store_optional(partials, rows, soft, counts, valid, AXIS: tl.constexpr, WANTED: tl.constexpr):
    """Stores the sums of the optional statistics that are wanted."""
    tp_sq, difference = soft
    if HAS_SOFT & WANTED:
        tl.store(partials + TP_SQ * rows, tl.sum(tp_sq, AXIS), mask=valid)
        tl.store(partials + DIFFERENCE * rows, tl.sum(difference, AXIS), mask=valid)
    both, pred, target, total = counts
    if HAS_HARD & WANTED:
        tl.store(partials + HARD_TP * rows, tl.sum(both, AXIS), mask=valid)
        tl.store(partials + HARD_PRED * rows, tl.sum(pred, AXIS), mask=valid)
        tl.store(partials + HARD_TARGET * rows, tl.sum(target, AXIS), mask=valid)
        tl.store(partials + HARD_TOTAL * rows, tl.sum(total, AXIS), mask=valid)


@triton.jit
def soft_slope(p, target, by_tp_sq, by_difference):
    """The derivative by p of what `add_soft` adds, for a weight of 1."""
    sign = tl.where(p > target, 1.0, tl.where(p < target, -1.0, 0.0))
    return 2.0 * by_tp_sq * p * target + by_difference * sign


@triton.jit
def spread(target, smoothing, classes):
    """The target that the nll of a softmax sees."""
    return target + smoothing * (1.0 / classes - target) if smoothing is not None else target


@triton.jit
def focal(p, surprise, gamma):
    """The factor (1 - p)^gamma, and by how much it changes the slope of log p; surprise is -log2 p."""
    others = tl.maximum(1.0 - p, 1e-30)
    factor = tl.exp2(gamma * log2(others))
    # -log p / (1 - p), by its series where the difference has few digits left.
    ratio = tl.where(others > 1e-3, surprise * LN_2 / others, 1.0 + 0.5 * others)
    return factor, factor * (1.0 + gamma * p * ratio)


@triton.jit
def load(pointer, lane, stride, inside):
    """A tile from `pointer` on; elements that are not inside read as zero."""
    return tl.load(pointer + lane * stride, mask=inside, other=0)


@triton.jit
def deal(tile, HANDS: tl.constexpr):
    """Tuple of a power of two of tiles that take the elements in turn, as players take cards.

    Moves nothing where the elements of a turn lie in one thread.
    """
    dealt = (tile,)
    for level in tl.static_range(4):
        if 2 << level <= HANDS:
            even = ()
            odd = ()
            for i in tl.static_range(1 << level):
                pairs = tl.reshape(dealt[i], dealt[i].shape[0] // 2, 2)
                first, second = tl.split(pairs)
                even += (first,)
                odd += (second,)
            dealt = even + odd
    return dealt


@triton.jit
def collect(dealt, HANDS: tl.constexpr):
    """The tile that `deal` gave out."""
    for level in tl.static_range(4):
        if 2 << level <= HANDS:
            joined = ()
            for i in tl.static_range(HANDS >> (level + 1)):
                pairs = tl.join(dealt[i], dealt[i + (HANDS >> (level + 1))])
                joined += (tl.reshape(pairs, 2 * dealt[i].shape[0]),)
            dealt = joined
    return dealt[0]


@triton.jit
def load_labels(pointer, lane, stride, inside):
    """Labels as int32, or as int64 if their type is wider."""
    labels = load(pointer, lane, stride, inside)
    stored = pointer.dtype.element_ty
    return labels.to(tl.int64) if stored == tl.int64 or stored == tl.uint32 else labels.to(tl.int32)


@triton.jit
def load_weight(pointer, lane, stride, inside, kept):
    """Voxel weights, zero where not kept; ones, which the compiler folds away, if there is no mask."""
    if pointer is None:
        weight = tl.full(kept.shape, 1.0, tl.float32)
    else:
        weight = load(pointer, lane, stride, inside).to(tl.float32)
    return tl.where(kept, weight, 0.0)


@triton.jit
def tile_range(tile, voxels, BLOCK: tl.constexpr, TAIL: tl.constexpr):
    """First voxel of a tile, its lanes, and which lie inside the volume: all but in the last tile."""
    start = tl.cast(tile, tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK).to(tl.int64)
    inside = tl.full((BLOCK,), True, tl.int1)
    if TAIL:
        inside = start + lane < voxels
    return start, lane, inside


@triton.jit
def clean(weight, value):
    """The value, and zero at removed voxels, where it may be NaN."""
    return tl.where(weight == 0.0, 0.0, value)


@triton.jit
def put(address, gradient, inside, ADD: tl.constexpr):
    """Stores a gradient, or adds it to the one that is there."""
    if ADD:
        gradient += tl.load(address, mask=inside).to(tl.float32)
    tl.store(address, gradient, mask=inside)
