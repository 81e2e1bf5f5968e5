from collections.abc import Sequence
from typing import NamedTuple
import torch
class Smooth(NamedTuple):
    low: float
    high: float
MissingPolicy = str | Smooth | Sequence[str | Smooth]
def uncertain_values(missing, tasks):
    if isinstance(missing, (str, Smooth)): missing=[missing]*tasks
    return torch.tensor([{"ignore":float("nan"),"ones":1.,"zeros":0.}[m] if isinstance(m,str) else sum(m)/2 for m in missing])
