"""Which kernel runs, on which grid, with which tile: a few rules on the shape, and no tuning at run time."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any, NamedTuple

import numpy
import torch
import triton
from torch import Tensor

from ...contract import (
    BASIC,
    DIFFERENCE,
    HARD_PRED,
    HARD_TARGET,
    HARD_TOTAL,
    HARD_TP,
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    STATISTICS,
    TARGET,
    TARGET_SQ,
    TP,
    TP_SQ,
    WEIGHT,
    LossWeights,
    RatioLinear,
    RegionInput,
    Wanted,
)
from . import channels_last, finalise, sigmoid, softmax_few, softmax_many
from .primitives import INTERPRETED

INVALID = STATISTICS

# A softmax thread holds all classes of its voxels up to this many; with a target or weight for each class, or with
# optional statistics as well, up to half as many. Beyond, the registers spill.
FEW_CLASSES = 16
FEW_CLASSES_DENSE = 8
# A sigmoid kernel multiplies up factors of at most 2, one for each tile, in float32.
TILES_PER_PROGRAM = 64
# Programs of four warps for each multiprocessor: what its registers hold, with some to spare for balance.
PROGRAMS_PER_PROCESSOR = 8
WARPS = 4
LANES = 32 * WARPS
# Bytes of the widest load of a thread.
VECTOR = 16
WARPS_FINALISE = 8
# Elements of the tile of partial sums that the second stage reads at once.
FINALISE_TILE = 2048
FINALISE_BLOCK = 1024
# Classes and elements of a channels-last tile: rows of 128 bytes, eight elements a thread.
TABLE_CLASSES = 32
TABLE_TILE = 8 * LANES
# Elements of a table that one program goes through in a single launch; a guess, until a GPU has timed both ways.
TABLE_ELEMENTS = 1 << 14


class Launch(NamedTuple):
    """One kernel launch."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = WARPS

    @property
    def options(self) -> dict[str, Any]:
        """How the kernel is compiled."""
        options: dict[str, Any] = {"num_warps": self.warps, "enable_fp_fusion": True}
        # Left to itself, ptxas gives the large blocks of the second stage fewer registers than there are, and spills.
        return options | {"maxnreg": 255} if self.warps == WARPS_FINALISE else options

    def run(self) -> None:
        """Launches the kernel on the current device."""
        # Infinities and NaN are silent on a GPU; the interpreter's numpy would warn of them.
        with numpy.errstate(all="ignore") if INTERPRETED else contextlib.nullcontext():
            self.kernel[self.grid](**self.arguments, **self.options)


class Scheme(NamedTuple):
    """The kernels of a pass over the voxels, what one tile covers, and their compile-time constants."""

    forward: Any
    backward: Any
    rows: int
    voxels_per_tile: int
    constants: dict[str, Any]
    forward_constants: dict[str, Any]


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; in the interpreter one, which keeps its grids small."""
    if INTERPRETED:
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _readable(tensor: Tensor | None) -> Tensor | None:
    """Booleans as the bytes they are."""
    return tensor.view(torch.uint8) if tensor is not None and tensor.dtype == torch.bool else tensor


def _is_weighted(operands: RegionInput) -> bool:
    return any(option is not None for option in (operands.mask, operands.ignore_index, operands.uncertain))


def _is_per_class(operands: RegionInput) -> bool:
    """Whether voxel weights differ between the classes."""
    if operands.mask is not None and operands.mask.shape[1] > 1:
        return True
    return operands.is_dense and operands.ignore_index is not None


def statistics_of_sums(operands: RegionInput, wanted: Wanted) -> frozenset[int]:
    """Statistics that the first stage computes for `region_sums`; the others follow from these."""
    statistics = {TP, PRED, PRED_SQ, TARGET, TARGET_SQ, WEIGHT}
    if wanted.soft:
        statistics |= {TP_SQ, DIFFERENCE}
    if wanted.hard:
        statistics |= {HARD_TP, HARD_PRED, HARD_TARGET, HARD_TOTAL}
    if wanted.nll and operands.activation != "none":
        statistics.add(NLL_POS)
    return _complete(operands, statistics)


def statistics_of_loss(operands: RegionInput, loss: RatioLinear) -> frozenset[int]:
    """Statistics that the first stage computes for a loss."""
    wanted: set[int] = set()
    if loss.lambda_ratio:
        wanted |= {TP, PRED_SQ, TARGET_SQ} if loss.squared else {TP, PRED, TARGET}
    if loss.lambda_nll:
        wanted.add(NLL_POS)
        if loss.mean:
            wanted.add(TARGET if loss.nll_mean == "target" else WEIGHT)
        if loss.balance_pos or loss.balance_neg:
            wanted |= {TARGET, WEIGHT}
    return _complete(operands, wanted)


def _complete(operands: RegionInput, wanted: set[int]) -> frozenset[int]:
    """Adds what belongs together, and leaves out what the second stage knows by itself."""
    if NLL_POS in wanted and operands.activation == "sigmoid":
        wanted = wanted | {NLL_NEG}
    soft = operands.is_dense and operands.target.dtype.is_floating_point
    if TARGET_SQ in wanted and not soft and operands.uncertain is None:
        wanted = wanted - {TARGET_SQ} | {TARGET}
    if not _is_weighted(operands):
        wanted = wanted - {WEIGHT}
    has_invalid = not operands.is_dense or operands.uncertain is not None
    return frozenset(wanted | {INVALID} if has_invalid else wanted)


def _bits(statistics: frozenset[int]) -> int:
    return sum(1 << statistic for statistic in statistics)


def _block(operands: RegionInput) -> int:
    """Voxels of a tile whose threads read a vector of a class at once.

    One voxel a thread where the voxels of a class are not neighbours in memory: no load is wider than that,
    and a tile that all operands would split among the threads in the same way needs no exchange between
    these.
    """
    if INTERPRETED or operands.input.stride(2) != 1:
        return LANES
    return LANES * VECTOR // operands.input.element_size()


class FewTile(NamedTuple):
    """A thread's share of a softmax over few classes: its voxels, the classes of a load, the turns of forward."""

    voxels: int
    chunk: int = 1
    turns: int = 1


def _is_wide(rows: Tensor) -> bool:
    """Whether threads can load vectors of a row, as far as Triton tells: by multiples of 16."""
    *rest, last = rows.stride()
    return last == 1 and all(stride % 16 == 0 for stride in rest) and rows.data_ptr() % 16 == 0


def few_tile(operands: RegionInput) -> FewTile:
    """Loads of 8 bytes a thread or more where layout and alignment allow, from number of classes and item size.

    Forward treats the voxels of a load one at a time: a thread has the registers for the sums of one.
    """
    input, target = operands.input, operands.target
    classes, itemsize = input.shape[1], input.element_size()
    if _is_wide(input):
        voxels = 4 if classes <= 8 else 8 // itemsize
        return FewTile(voxels, turns=voxels)
    by_voxel = input.transpose(1, 2)
    if by_voxel.is_contiguous() and _is_wide(by_voxel.flatten(1)):
        # Channels last. A vector holds the classes of several voxels, or a part of one's that has an equal
        # number of classes in each load. Several need targets that are neighbours too.
        chunk = math.gcd(classes, VECTOR // itemsize)
        alone = chunk < classes or operands.is_dense or _is_per_class(operands) or not _is_wide(target)
        voxels = 1 if alone else VECTOR // itemsize // classes
        return FewTile(voxels, chunk, turns=voxels)
    # One element in a load: voxels of a thread are no neighbours, and all of them are treated at once.
    return FewTile(4 if classes <= 4 and input.stride(2) == 1 else 1)


def _is_hard(operands: RegionInput) -> bool:
    """Whether the nll of each voxel is counted for positives or negatives in full, or not at all."""
    if operands.uncertain is not None or operands.label_smoothing or operands.gamma:
        return False
    if operands.mask is not None and operands.mask.dtype != torch.bool:
        return False
    return not (operands.is_dense and operands.target.dtype.is_floating_point)


def _is_channels_last(operands: RegionInput) -> bool:
    """Whether the classes of a voxel are neighbours in memory, with a target for each."""
    classes = operands.input.shape[1]
    return operands.is_dense and classes > 1 and operands.input.stride()[1:] == (1, classes)


def _table_tile(classes: int) -> dict[str, int]:
    """Voxels and classes of a channels-last tile."""
    block = min(triton.next_power_of_2(classes), TABLE_CLASSES)
    return {"VOXELS": (LANES if INTERPRETED else TABLE_TILE) // block, "CLASSES": block}


def _scheme(operands: RegionInput, optional: bool = False) -> Scheme:
    """The scheme of a pass over the voxels: by activation, number of classes, layout and sums to be held."""
    samples, classes, _ = operands.input.shape
    dense = operands.is_dense
    if operands.activation != "softmax":
        hard, sigmoid_constant = _is_hard(operands), {"SIGMOID": operands.activation == "sigmoid"}
        if _is_channels_last(operands):
            table = _table_tile(classes)
            return Scheme(
                channels_last.region_fwd_kernel_channels_last,
                channels_last.region_bwd_kernel_channels_last,
                samples * triton.cdiv(classes, table["CLASSES"]),
                table["VOXELS"],
                {"classes": classes, **sigmoid_constant, **table},
                {"HARD": hard},
            )
        block = _block(operands)
        return Scheme(
            sigmoid.region_fwd_kernel_sigmoid,
            sigmoid.region_bwd_kernel_sigmoid,
            samples * classes,
            block,
            {"classes": classes, **sigmoid_constant, "DENSE": dense, "BLOCK": block},
            {"HARD": hard},
        )
    per_class = _is_per_class(operands)
    if classes <= (FEW_CLASSES_DENSE if dense or per_class or optional else FEW_CLASSES):
        tile = few_tile(operands)
        block = LANES if INTERPRETED else LANES * tile.voxels
        return Scheme(
            softmax_few.region_fwd_kernel_softmax_few,
            softmax_few.region_bwd_kernel_softmax_few,
            samples,
            block,
            {"C": classes, "DENSE": dense, "PER_CLASS": per_class, "CHUNK": tile.chunk, "BLOCK": block},
            {"TURNS": tile.turns},
        )
    # As many voxels a lane as it loads at once, so that those of one warp lie in one row of the tile. Weights
    # and targets of their own take registers, and then the widest load is too wide.
    width = VECTOR // 2 if dense or _is_weighted(operands) else VECTOR
    block = 32 if INTERPRETED else 32 * width // operands.input.element_size()
    return Scheme(
        softmax_many.region_fwd_kernel_softmax_many,
        softmax_many.region_bwd_kernel_softmax_many,
        samples,
        WARPS * block,
        {
            "classes": classes,
            "DENSE": dense,
            "PER_CLASS": per_class,
            # Classes whose loads are in flight together; a target or weight for each class is one more load, and a
            # focal factor or more sums take the registers.
            "UNROLL": 2 if dense or per_class or optional or operands.gamma else 4,
            "WARPS": WARPS,
            "BLOCK": block,
        },
        {"CLASSES": triton.next_power_of_2(classes)},
    )


def _programs(scheme: Scheme, voxels: int, processors: int) -> int:
    """Programs for each row of the grid: enough to fill the device, and equal numbers of tiles for each."""
    tiles = triton.cdiv(voxels, scheme.voxels_per_tile)
    programs = max(triton.cdiv(processors * PROGRAMS_PER_PROCESSOR, scheme.rows), 1)
    tiles_each = min(triton.cdiv(tiles, programs), TILES_PER_PROGRAM)
    return int(triton.cdiv(tiles, tiles_each))


def _strides(**tensors: Tensor | None) -> dict[str, int]:
    """Strides in elements by sample, class and voxel; a mask or target without classes repeats over them."""
    strides: dict[str, int] = {}
    for name, tensor in tensors.items():
        if tensor is None:
            sn, sc, sv = 0, 0, 0
        elif tensor.ndim == 2:
            sn, sc, sv = tensor.stride(0), 0, tensor.stride(1)
        else:
            sn, sc, sv = tensor.stride()
            sc = 0 if tensor.shape[1] == 1 else sc
        strides |= {f"{name}_sn": sn, f"{name}_sc": sc, f"{name}_sv": sv}
    return strides


def _operands(operands: RegionInput) -> dict[str, Any]:
    input, target, mask, activation, ignore_index, uncertain, label_smoothing, gamma = operands
    arguments: dict[str, Any] = {
        "x": input,
        "target": _readable(target),
        "mask": None if mask is None else _readable(mask),
        "voxels": input.shape[2],
        "ignore_index": ignore_index,
        "smoothing": label_smoothing or None,
        "gamma": gamma or None,
        **_strides(x=input, target=target, mask=mask),
    }
    return arguments if activation == "softmax" else arguments | {"uncertain": uncertain}


def partial_sums(operands: RegionInput, statistics: frozenset[int], processors: int) -> tuple[Launch, Tensor]:
    """First stage: the launch, whose `partials` are (statistics and labels out of range, N, C, programs)."""
    samples, classes, voxels = operands.input.shape
    scheme = _scheme(operands, optional=any(statistic in statistics for statistic in (TP_SQ, HARD_TP)))
    programs = _programs(scheme, voxels, processors)
    partials = operands.input.new_empty((STATISTICS + 1, samples, classes, programs), dtype=torch.float32)
    arguments = _operands(operands) | scheme.constants | scheme.forward_constants
    arguments |= {"partials": partials, "WANTED": _bits(statistics)}
    return Launch(scheme.forward, (scheme.rows, programs), arguments), partials


def gradient_of_input(
    operands: RegionInput, gradient: Tensor, scale: Tensor | None, dx: Tensor, processors: int, *, add: bool = False
) -> Launch:
    """The backward pass: `dx` from the gradient of the stacked sums, or added to what is there."""
    scheme = _scheme(operands)
    programs = _programs(scheme, operands.input.shape[2], processors)
    ss, sn, sc = gradient.stride()
    arguments = _operands(operands) | scheme.constants | _strides(dx=dx)
    arguments |= {"dx": dx, "gradient": gradient, "gradient_ss": ss, "gradient_sn": sn, "gradient_sc": sc}
    arguments |= {"scale": scale, "SOFT": len(gradient) > BASIC, "ADD": add}
    return Launch(scheme.backward, (scheme.rows, programs), arguments)


def _second_stage(operands: RegionInput, partials: Tensor, statistics: frozenset[int]) -> dict[str, Any]:
    """Arguments that the kernels of the second stage share, with the tile [samples, classes, programs]."""
    _, samples, classes, programs = partials.shape
    tile_samples = min(triton.next_power_of_2(max(samples, 1)), 16)
    tile_classes = min(triton.next_power_of_2(max(classes, 1)), 64)
    tile_programs = min(triton.next_power_of_2(max(programs, 1)), FINALISE_TILE // (tile_samples * tile_classes))
    return {
        "partials": partials,
        "samples": samples,
        "classes": classes,
        "invalid_classes": classes if operands.is_dense else 1,
        "programs": programs,
        "voxels": operands.input.shape[2],
        "WANTED": _bits(statistics),
        "SAMPLES": tile_samples,
        "CLASSES": tile_classes,
        "PROGRAMS": tile_programs,
    }


def combination(
    operands: RegionInput, partials: Tensor, statistics: frozenset[int], sums: Tensor, invalid: Tensor
) -> Launch:
    """Second stage of `region_sums`."""
    arguments = _second_stage(operands, partials, statistics) | {"sums": sums, "invalid": invalid}
    grid = (
        triton.cdiv(arguments["samples"], arguments["SAMPLES"]),
        triton.cdiv(arguments["classes"], arguments["CLASSES"]),
    )
    return Launch(finalise.region_fwd_kernel_combine, grid, arguments, WARPS_FINALISE)


def _class_weights(**weights: Tensor | None) -> dict[str, Any]:
    """Weights of the classes with their strides."""
    arguments: dict[str, Any] = {}
    for name, weight in weights.items():
        arguments[f"{name}_weight"] = weight
        arguments[f"{name}_weight_stride"] = 0 if weight is None else weight.stride(0)
    return arguments


def finalisation(
    operands: RegionInput,
    partials: Tensor,
    statistics: frozenset[int],
    loss: RatioLinear,
    weights: LossWeights,
    value: Tensor,
    gradient: Tensor,
    invalid: Tensor,
) -> Launch:
    """Second stage of `region_loss`: one program."""
    arguments = _second_stage(operands, partials, statistics)
    arguments |= _class_weights(region=weights.region, pos=weights.nll_pos, neg=weights.nll_neg)
    arguments |= {
        "value": value,
        "gradient": gradient,
        "invalid": invalid,
        "numerator_tp": loss.numerator_tp,
        "denominator_tp": loss.denominator_tp,
        "denominator_pred": loss.denominator_pred,
        "denominator_target": loss.denominator_target,
        "smooth_numerator": loss.smooth_numerator,
        "smooth_denominator": loss.smooth_denominator,
        "lambda_ratio": loss.lambda_ratio,
        "lambda_nll": loss.lambda_nll,
        "first_class": loss.first_class,
        "RATIO": loss.lambda_ratio != 0,
        "SQUARED": loss.squared,
        "POOL": loss.pool_batch,
        "NLL": loss.lambda_nll != 0,
        "NLL_MEAN": loss.nll_mean,
        "MEAN": loss.mean,
        "BALANCE_POS": loss.balance_pos,
        "BALANCE_NEG": loss.balance_neg,
        "BLOCK": FINALISE_BLOCK,
    }
    return Launch(finalise.region_fwd_kernel_finalise, (1,), arguments, WARPS_FINALISE)


def is_small_table(operands: RegionInput, loss: RatioLinear) -> bool:
    """Whether a loss is a cross entropy of a table for which one program is enough."""
    samples, classes, voxels = operands.input.shape
    if samples != 1 or loss.lambda_ratio or not loss.lambda_nll or operands.activation != "sigmoid":
        return False
    if not _is_channels_last(operands) or not 0 < classes * voxels <= TABLE_ELEMENTS:
        return False
    return bool(triton.cdiv(voxels, _table_tile(classes)["VOXELS"]) <= TILES_PER_PROGRAM)


def table_loss(
    operands: RegionInput,
    loss: RatioLinear,
    weights: LossWeights,
    value: Tensor,
    gradient: Tensor,
    invalid: Tensor,
) -> Launch:
    """The whole forward pass of a small table."""
    _, classes, _ = operands.input.shape
    scheme = _scheme(operands)
    arguments = {name: of for name, of in _operands(operands).items() if not name.endswith("_sn")}
    arguments |= scheme.constants | scheme.forward_constants
    arguments |= _class_weights(pos=weights.nll_pos, neg=weights.nll_neg)
    arguments |= {
        "partials": operands.input.new_empty((STATISTICS + 1, 1, classes, 1), dtype=torch.float32),
        "WANTED": _bits(statistics_of_loss(operands, loss)),
        "value": value,
        "gradient": gradient,
        "invalid": invalid,
        "lambda_nll": loss.lambda_nll,
        "NLL_MEAN": loss.nll_mean,
        "MEAN": loss.mean,
        "BALANCE_POS": loss.balance_pos,
        "BALANCE_NEG": loss.balance_neg,
        "BLOCK": FINALISE_BLOCK,
    }
    return Launch(channels_last.region_fwd_kernel_table, (1,), arguments)
