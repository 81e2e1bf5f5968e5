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

class Labels:
    def __init__(self, data: int, dtype: Dtype, stride_n: int, stride_v: int) -> None: ...

def confusion_counts_cpu(
    prediction: Labels,
    target: Labels,
    samples: int,
    voxels: int,
    num_classes: int,
    ignore_index: int | None,
    counts: int,
    invalid: int,
    threads: int,
) -> None: ...

# Only where the extension was built with CUDA.
def confusion_counts_cuda(
    prediction: Labels,
    target: Labels,
    samples: int,
    voxels: int,
    num_classes: int,
    ignore_index: int | None,
    counts: int,
    invalid: int,
    device: int,
    stream: int,
) -> None: ...
