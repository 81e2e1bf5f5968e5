"""What the Triton kernels cost on each GPU, from their machine code alone: `python -m benchmarks.gpu_static`.

Compiles every kernel that matters for three generations of NVIDIA GPUs, on a machine without one, and reads
registers, spills, load widths, and instructions per element (voxel and class) of the inner loop. A kernel
takes at least the longest of three times: that of its bytes, of its issue slots, and of its special functions
(MUFU). The share is the first over the longest: 100 % means bound by memory. Exits with 1 if a kernel

- spills, or waits at a barrier in its inner loop;
- loads logits narrower than 8 bytes a thread where layout and alignment allow. They do not where the classes of
  a voxel are neighbours (channels last) and their bytes have no factor of 8: 6 classes in bfloat16 are 12 bytes,
  so that every other voxel begins at a multiple of 4 only. Nor where a class has an odd number of voxels: then
  the next one begins anywhere;
- needs more instructions per element on sm_90 than its budget.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import sass
from fastmed.backends.gpu_triton import launch
from fastmed.backends.gpu_triton.launch import Launch
from fastmed.contract import BASIC, HARD_TP, STATISTICS, LossWeights, RatioLinear, RegionInput, Wanted

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_VOXELS = 192**3
_LOSS = RatioLinear(lambda_nll=1.0)
_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.uint8: "u8",
    torch.int64: "i64",
}


class Gpu(NamedTuple):
    """A GPU by its data sheet: multiprocessors, clock in GHz and memory bandwidth in TB/s."""

    name: str
    capability: int
    processors: int
    clock: float
    bandwidth: float


# NVIDIA data sheets of the SXM modules. Clocks: peak fp32 rate over its lanes. The 90 % are what copies and
# long kernels typically keep of either.
GPUS = (
    Gpu("A100", 80, 108, 1.41, 2.04),
    Gpu("H100", 90, 132, 1.98, 3.35),
    Gpu("H200", 90, 132, 1.98, 4.80),
    Gpu("B200", 100, 148, 1.98, 8.00),
)
CAPABILITIES = (80, 90, 100)
SUSTAINED = 0.9
ISSUE_LANES = 128
MUFU_LANES = 16


class Variant(NamedTuple):
    """A kernel as launched for one kind of operands, and its budget of instructions per element on sm_90.

    `readings` is the number of inner loops of a tile: more than one where a kernel reads its classes
    repeatedly, `optional` whether soft statistics and hard counts are wanted. Row by row, the table takes each path of
    each kernel.
    """

    name: str
    classes: int
    dtype: torch.dtype
    target: torch.dtype
    budget: tuple[float, float]
    activation: str = "softmax"
    dense: bool = False
    mask: torch.dtype | None = None
    mask_per_class: bool = False
    ignore_index: int | None = None
    channels_last: bool = False
    uncertain: bool = False
    gamma: float = 0.0
    optional: bool = False
    voxels: int = 192**3
    readings: tuple[int, int] = (1, 1)


_BF16, _FP16, _FP32, _U8 = torch.bfloat16, torch.float16, torch.float32, torch.uint8
# Rows that do not begin at multiples of 16 voxels, which is what Triton looks for.
_ODD = 191**3
VARIANTS = (
    Variant("sigmoid bf16 u8", 1, _BF16, _U8, (26, 25), "sigmoid", dense=True),
    Variant("sigmoid fp32 u8", 1, _FP32, _U8, (27, 25), "sigmoid", dense=True),
    Variant("sigmoid bf16 bf16", 1, _BF16, _BF16, (31, 24), "sigmoid", dense=True),
    Variant("sigmoid bf16 u8 masked", 1, _BF16, _U8, (35, 34), "sigmoid", dense=True, mask=torch.bool),
    Variant("sigmoid fp16 u8 ignored", 1, _FP16, _U8, (33, 31), "sigmoid", dense=True, ignore_index=255),
    Variant("sigmoid C=3 bf16 labels ignored", 3, _BF16, _U8, (39, 31), "sigmoid", ignore_index=255),
    Variant("table T=14 fp32 fp32", 14, _FP32, _FP32, (62, 56), "sigmoid", True, channels_last=True, uncertain=True),
    Variant("table T=32 bf16 fp32", 32, _BF16, _FP32, (48, 35), "sigmoid", True, channels_last=True, uncertain=True),
    Variant("probabilities fp32 u8", 1, _FP32, _U8, (10, 10), "none", dense=True),
    Variant("softmax C=2 bf16 u8", 2, _BF16, _U8, (18, 25)),
    Variant("softmax C=4 bf16 u8", 4, _BF16, _U8, (17, 24)),
    Variant("softmax C=8 bf16 u8", 8, _BF16, _U8, (16, 22)),
    Variant("softmax C=14 bf16 u8", 14, _BF16, _U8, (16, 22)),
    Variant("softmax C=16 fp16 u8 ignored", 16, _FP16, _U8, (18, 27), ignore_index=255),
    Variant("softmax C=4 fp32 u8", 4, _FP32, _U8, (15, 22)),
    Variant("softmax C=9 fp32 u8", 9, _FP32, _U8, (16, 23)),
    Variant("softmax C=4 bf16 u8 masked", 4, _BF16, _U8, (20, 30), mask=torch.bool),
    Variant("softmax C=4 bf16 u8 masked by class", 4, _BF16, _U8, (25, 34), mask=torch.bool, mask_per_class=True),
    Variant("softmax C=4 bf16 bf16", 4, _BF16, _BF16, (21, 24), dense=True),
    Variant("softmax C=8 bf16 bf16 ignored", 8, _BF16, _BF16, (28, 30), dense=True, ignore_index=255),
    Variant("softmax C=4 bf16 u8 odd", 4, _BF16, _U8, (21, 24), voxels=_ODD),
    Variant("softmax C=5 bf16 u8 odd", 5, _BF16, _U8, (24, 35), voxels=_ODD),
    Variant("softmax C=2 bf16 u8 channels last", 2, _BF16, _U8, (19, 24), channels_last=True),
    Variant("softmax C=4 bf16 u8 channels last", 4, _BF16, _U8, (17, 27), channels_last=True),
    Variant("softmax C=8 bf16 u8 channels last", 8, _BF16, _U8, (18, 31), channels_last=True),
    Variant("softmax C=6 bf16 u8 channels last", 6, _BF16, _U8, (20, 33), channels_last=True),
    Variant("softmax C=8 fp32 u8 channels last", 8, _FP32, _U8, (18, 30), channels_last=True),
    Variant("softmax C=32 bf16 u8", 32, _BF16, _U8, (35, 42), readings=(2, 3)),
    Variant("softmax C=32 bf16 u8 ignored", 32, _BF16, _U8, (45, 57), ignore_index=255, readings=(2, 3)),
    Variant(
        "softmax C=32 bf16 u8 masked by class", 32, _BF16, _U8, (54, 70), mask=torch.bool, mask_per_class=True,
        readings=(2, 3),
    ),
    Variant("softmax C=32 bf16 bf16", 32, _BF16, _BF16, (43, 48), dense=True, readings=(2, 3)),
    Variant("sigmoid fp32 u8 focal", 1, _FP32, _U8, (40, 50), "sigmoid", dense=True, gamma=2.0),
    Variant("softmax C=4 bf16 u8 focal", 4, _BF16, _U8, (29, 49), gamma=2.0),
    Variant("softmax C=14 bf16 u8 focal", 14, _BF16, _U8, (27, 47), gamma=2.0),
    Variant("softmax C=32 bf16 u8 focal", 32, _BF16, _U8, (23, 33), gamma=2.0, readings=(2, 3)),
    Variant("sigmoid fp32 u8 all statistics", 1, _FP32, _U8, (40, 35), "sigmoid", dense=True, optional=True),
    Variant("probabilities fp32 u8 all statistics", 1, _FP32, _U8, (23, 19), "none", dense=True, optional=True),
    Variant("softmax C=4 bf16 u8 all statistics", 4, _BF16, _U8, (30, 36), optional=True),
    Variant("softmax C=14 bf16 u8 all statistics", 14, _BF16, _U8, (75, 34), optional=True, readings=(2, 1)),
    Variant("softmax C=32 bf16 u8 all statistics", 32, _BF16, _U8, (75, 62), optional=True, readings=(2, 3)),
)  # fmt: skip


class Measurement(NamedTuple):
    """What one kernel costs on one generation; the numbers of the inner loop are per element."""

    kernel: str
    variant: str
    capability: int
    registers: int
    stack: int
    load_bytes: int
    barriers: int
    instructions: float
    mufu: float
    bytes: float
    failures: tuple[str, ...]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _operands(variant: Variant) -> RegionInput:
    """Operands of batch 2 without storage."""
    shape = (2, variant.classes, variant.voxels)
    if variant.channels_last:
        input = _empty(shape[0], shape[2], shape[1], dtype=variant.dtype).transpose(1, 2)
    else:
        input = _empty(*shape, dtype=variant.dtype)
    target = _empty(*(shape if variant.dense else (2, variant.voxels)), dtype=variant.target)
    mask_classes = variant.classes if variant.mask_per_class else 1
    mask = None if variant.mask is None else _empty(2, mask_classes, variant.voxels, dtype=variant.mask)
    if variant.channels_last and variant.dense:
        target = target.view(shape[0], shape[2], shape[1]).transpose(1, 2)
    uncertain = _empty(variant.classes) if variant.uncertain else None
    return RegionInput(input, target, mask, variant.activation, variant.ignore_index, uncertain, gamma=variant.gamma)


def _launches(variant: Variant) -> tuple[Launch, Launch]:
    """Forward and backward as the backend launches them on an H100."""
    operands = _operands(variant)
    statistics = launch.statistics_of_loss(operands, RatioLinear() if variant.activation == "none" else _LOSS)
    if variant.optional:
        wanted = Wanted(nll=variant.activation != "none", soft=True, hard=True)
        statistics = launch.statistics_of_sums(operands, wanted)
    forward, _ = launch.partial_sums(operands, statistics, GPUS[1].processors)
    gradient = _empty(HARD_TP if variant.optional else BASIC, *operands.input.shape[:2])
    dx = torch.empty_like(operands.input)
    return forward, launch.gradient_of_input(operands, gradient, _empty(), dx, GPUS[1].processors)


def _second_stage() -> tuple[Launch, Launch, Launch]:
    """The kernels that run once, on a few numbers: the fused finaliser, the combination, and a small table's loss."""
    operands = _operands(Variant("", 4, _BF16, _U8, (0, 0)))
    statistics = launch.statistics_of_loss(operands, _LOSS)
    _, partials = launch.partial_sums(operands, statistics, GPUS[1].processors)
    invalid = _empty(2, dtype=torch.int64)
    finalisation = launch.finalisation(
        operands, partials, statistics, _LOSS, LossWeights(), _empty(), _empty(BASIC, 2, 4), invalid
    )
    sums = _empty(STATISTICS, 2, 4, dtype=torch.float64)
    table = RegionInput(*(_empty(1, 64, 18).transpose(1, 2),) * 2, None, "sigmoid", uncertain=_empty(18))
    loss = RatioLinear(lambda_ratio=0.0, lambda_nll=1.0, nll_mean="task", balance_pos=True, balance_neg=True)
    of_table = launch.table_loss(table, loss, LossWeights(), _empty(), _empty(BASIC, 1, 18), invalid)
    return finalisation, launch.combination(operands, partials, statistics, sums, invalid), of_table


def _source(chosen: Launch) -> ASTSource:
    """What Triton would compile: ones and absent arguments are constants, multiples of 16 known as such."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, parameter in enumerate(chosen.kernel.params):
        value = chosen.arguments[parameter.name]
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if parameter.is_constexpr or value is None or (is_integer and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = "*" + _TYPES[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        if isinstance(value, Tensor) or (is_integer and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(chosen.kernel, signature, constants, attributes)


def _compile(chosen: Launch, capability: int) -> tuple[sass.Program, sass.Resources]:
    compiled = triton.compile(
        _source(chosen),
        target=GPUTarget("cuda", capability, 32),
        options=chosen.options,
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        listing = subprocess.run(
            [_TOOLS / "nvdisasm", "-c", file.name], check=True, capture_output=True, text=True
        ).stdout
        usage = subprocess.run(
            [_TOOLS / "cuobjdump", "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    return sass.parse(listing), sass.parse_resources(usage)


def _bytes_per_element(variant: Variant, backward: bool) -> float:
    per_voxel = 0
    if variant.mask is not None:
        per_voxel += variant.mask.itemsize * (variant.classes if variant.mask_per_class else 1)
    per_voxel += variant.target.itemsize * (variant.classes if variant.dense else 1)
    return variant.dtype.itemsize * (2 if backward else 1) + per_voxel / variant.classes


def _required_load(variant: Variant) -> int:
    """Narrowest load of logits, in bytes a thread, that passes: 8, or what the rows of memory are multiples of."""
    if variant.channels_last and variant.dense and variant.classes % 16:
        # The end of a row is masked, and Triton knows of multiples of 16 alone.
        return variant.dtype.itemsize
    row = variant.classes if variant.channels_last else variant.voxels
    whole = variant.channels_last and variant.classes * variant.dtype.itemsize < 8
    return 8 if whole else math.gcd(row * variant.dtype.itemsize, 8)


def _turns(variant: Variant, chosen: Launch, program: sass.Program) -> list[tuple[sass.Loop, int]]:
    """The inner loops of a tile, and the elements that one thread treats in a turn of each."""
    loops = sass.main_loops(program)
    if variant.readings > (1, 1):
        return _turns_over_classes(loops, chosen.arguments["BLOCK"] // 32)
    if "VOXELS" in chosen.arguments:
        elements = chosen.arguments["VOXELS"] * chosen.arguments["CLASSES"] // launch.LANES
    else:
        elements = chosen.arguments["BLOCK"] // launch.LANES * chosen.arguments.get("C", 1)
    widest = max((loop.count("LDG") for loop in loops), default=0)
    return [(loop, elements) for loop in loops if loop.count("LDG") == widest]


def _turns_over_classes(loops: tuple[sass.Loop, ...], voxels: int) -> list[tuple[sass.Loop, int]]:
    """One loop for each reading of the classes: the compiler unrolls it, and leaves remainders that do less.

    An element takes one exponential; two in the first reading, which has no targets and finds the maximum as it
    goes. The sum of the weights of a voxel, where each class has its own, takes none and is not counted.
    """
    turns: dict[tuple[bool, bool], tuple[sass.Loop, int]] = {}
    for loop in loops:
        exponentials = loop.count("MUFU")
        online = exponentials == 2 * voxels * sum(size >= 8 for size in loop.load_bytes)
        elements = exponentials // 2 if online else exponentials
        reading = (online, loop.count("STG") > 0)
        if elements > turns.get(reading, (loop, 0))[1]:
            turns[reading] = (loop, elements)
    return list(turns.values())


def measure(variant: Variant, backward: bool, capability: int) -> Measurement:
    """Compiles one kernel of a variant and judges it."""
    chosen = _launches(variant)[backward]
    program, resources = _compile(chosen, capability)
    turns = _turns(variant, chosen, program)
    loops = tuple(loop for loop, _ in turns)
    failures = []
    if len(loops) != variant.readings[backward]:
        failures.append(f"has {len(loops)} inner loops where {variant.readings[backward]} are expected")
    spills = sum(loop.spills for loop in loops)
    if spills or any(instruction.base in ("LDL", "STL") for instruction in program.instructions):
        failures.append(f"spills registers ({spills} times in the inner loop)")
    barriers = sum(loop.barriers for loop in loops)
    if barriers:
        failures.append(f"waits at {barriers} barriers in the inner loop")
    required = _required_load(variant)
    narrowest = min((max(loop.load_bytes, default=0) for loop in loops), default=0)
    if narrowest < required:
        failures.append(f"loads {narrowest} bytes a thread, {required} are possible")
    instructions = sum(len(loop.instructions) / elements for loop, elements in turns)
    if capability == 90 and instructions > variant.budget[backward]:
        failures.append(f"takes {instructions:.1f} instructions per element, its budget is {variant.budget[backward]}")
    return Measurement(
        chosen.kernel.__name__,
        variant.name,
        capability,
        resources.registers,
        resources.stack,
        narrowest,
        barriers,
        instructions,
        sum(loop.count("MUFU") / elements for loop, elements in turns),
        _bytes_per_element(variant, backward),
        tuple(failures),
    )


def measure_second_stage(index: int, capability: int) -> Measurement:
    """Compiles a kernel of the second stage: it runs once, so only its spills matter."""
    chosen = _second_stage()[index]
    program, resources = _compile(chosen, capability)
    spills = sum(instruction.base in ("LDL", "STL") for instruction in program.instructions)
    failures = (f"spills registers ({spills} times)",) if spills else ()
    return Measurement(
        chosen.kernel.__name__,
        "once",
        capability,
        resources.registers,
        resources.stack,
        0,
        0,
        0,
        0,
        0,
        failures,
    )


class Prediction(NamedTuple):
    """Picoseconds per element on a GPU, and what they are spent on."""

    bound: str
    picoseconds: float
    share: float


def predict(measurement: Measurement, gpu: Gpu) -> Prediction:
    """The longest of the times for bytes, issue slots and special functions, and the share of the first."""
    cycles = gpu.processors * gpu.clock * SUSTAINED * 1e-3
    times = {
        "bytes": measurement.bytes / (gpu.bandwidth * SUSTAINED),
        "issue": measurement.instructions / (cycles * ISSUE_LANES),
        "mufu": measurement.mufu / (cycles * MUFU_LANES),
    }
    bound = max(times, key=lambda name: times[name])
    return Prediction(bound, times[bound], times["bytes"] / times[bound])


def _row(measurement: Measurement) -> str:
    predictions = [
        f"{gpu.name} {predict(measurement, gpu).share:4.0%} {predict(measurement, gpu).bound}"
        for gpu in GPUS
        if gpu.capability == measurement.capability and measurement.bytes
    ]
    return (
        f"{measurement.kernel:30} {measurement.variant:34} sm_{measurement.capability:<4}"
        f"{measurement.registers:4} {measurement.stack:5} {measurement.load_bytes:4} {measurement.barriers:4}"
        f"{measurement.instructions:7.1f} {measurement.mufu:5.2f} {measurement.bytes:5.2f}   " + ", ".join(predictions)
    )


_HEADER = (
    f"{'kernel':30} {'operands':34} {'arch':7}{'regs':>4} {'stack':>5} {'load':>4} {'bar':>4}"
    f"{'instr':>7} {'mufu':>5} {'bytes':>5}   predicted share of the memory roofline, and the bound"
)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table as it grows; returns 1 if a kernel fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the measurements as JSON")
    parser.add_argument("--capability", type=int, choices=CAPABILITIES, action="append", help="only these")
    options = parser.parse_args(arguments)
    print(_HEADER, flush=True)
    measurements = []
    with ProcessPoolExecutor() as pool:
        capabilities = options.capability or CAPABILITIES
        jobs = [
            pool.submit(measure, variant, backward, capability)
            for variant in VARIANTS
            for backward in (False, True)
            for capability in capabilities
        ]
        jobs += [pool.submit(measure_second_stage, index, cap) for index in (0, 1, 2) for cap in capabilities]
        for job in jobs:
            measurements.append(job.result())
            print(_row(measurements[-1]), flush=True)
    if options.output is not None:
        rows = [
            measurement._asdict()
            | {
                "predictions": {
                    gpu.name: predict(measurement, gpu)._asdict()
                    for gpu in GPUS
                    if gpu.capability == measurement.capability and measurement.bytes
                }
            }
            for measurement in measurements
        ]
        versions = {"triton": triton.__version__, "torch": torch.__version__}
        options.output.write_text(json.dumps({"versions": versions, "kernels": rows}, indent=2) + "\n")
    failed = [measurement for measurement in measurements if measurement.failures]
    for measurement in failed:
        where = f"{measurement.kernel}, {measurement.variant}, sm_{measurement.capability}"
        print(f"FAILED {where}: {'; '.join(measurement.failures)}")
    print(f"{len(measurements)} kernels, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
