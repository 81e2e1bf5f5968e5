import enum
from typing import TypedDict

MAX_CLASSES: int

class BuildInfo(TypedDict):
    compiler: str
    cuda: str | None
    architectures: list[str]

def build_info() -> BuildInfo: ...

class Dtype(enum.Enum):
    UINT8 = ...
    INT8 = ...
    INT16 = ...
    UINT16 = ...
    INT32 = ...
    UINT32 = ...
    INT64 = ...
    FLOAT16 = ...
    BFLOAT16 = ...
    FLOAT32 = ...
    FLOAT64 = ...

class Operand:
    def __init__(self, data: int, dtype: Dtype, stride_n: int, stride_c: int, stride_v: int) -> None: ...

class Transform(enum.Enum):
    IDENTITY = ...
    SIGMOID = ...
    LOGIT = ...

class Bins:
    def __init__(self, transform: Transform, count: int, low: float, high: float, scale: float) -> None: ...

class Input(enum.Enum):
    LABELS = ...
    SCORES = ...
    MULTI_LABEL = ...

class ConfusionProblem:
    def __init__(
        self,
        *,
        kind: Input,
        input: Operand,
        target: Operand,
        mask: Operand | None,
        samples: int,
        voxels: int,
        classes: int,
        thresholds: int,
        ignore_index: int | None,
        pooled: bool,
        counts: int,
        invalid: int,
    ) -> None: ...

def confusion_counts_cpu(problem: ConfusionProblem, threads: int) -> None: ...
def score_histogram_cpu(
    scores: Operand,
    target: Operand,
    mask: Operand | None,
    samples: int,
    tasks: int,
    voxels: int,
    bins: Bins,
    counts: int,
    invalid: int,
    threads: int,
) -> None: ...

# Only where the extension was built with CUDA.
def confusion_counts_cuda(problem: ConfusionProblem, device: int, stream: int) -> None: ...

# Likewise.
def score_histogram_cuda(
    scores: Operand,
    target: Operand,
    mask: Operand | None,
    samples: int,
    tasks: int,
    voxels: int,
    bins: Bins,
    counts: int,
    invalid: int,
    device: int,
    stream: int,
) -> None: ...
