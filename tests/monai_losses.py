"""Cases of MONAI's losses, what they are called with, and what comes of a call."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from monai import losses as peer
from torch import Tensor
from torch.nn import functional as F

from fastmed.compat import fallback
from fastmed.compat import monai as ours

TOLERANCE = 1e-5
FLAT, VOLUME, BINARY = (2, 4, 9, 8), (2, 4, 6, 5, 7), (2, 1, 6, 5, 7)


class Case(NamedTuple):
    """A loss, its options, and what it is called with."""

    name: str
    options: dict[str, Any]
    target: str = "index"
    shape: tuple[int, ...] = VOLUME
    mask: str | None = None

    def __repr__(self) -> str:
        options = ",".join(f"{key}={getattr(value, '__name__', value)}" for key, value in self.options.items())
        return f"{self.name}({options})-{self.target}-{len(self.shape) - 2}d" + (f"-{self.mask}" if self.mask else "")


def labels_of(shape: tuple[int, ...], below: int) -> Tensor:
    return torch.randint(below, (shape[0], 1, *shape[2:]))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels[:, 0].long(), classes).movedim(-1, 1).float()


def unlabelled(shape: tuple[int, ...]) -> Tensor:
    """Whether a voxel has no label; the first sample has many."""
    share = torch.linspace(0.8, 0.1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return torch.rand(shape[0], 1, *shape[2:]) < share


TARGETS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "index": lambda shape: labels_of(shape, shape[1]),
    "index of float": lambda shape: labels_of(shape, shape[1]).float(),
    "index of uint8": lambda shape: labels_of(shape, shape[1]).to(torch.uint8),
    "absent classes": lambda shape: labels_of(shape, 2),
    "single class": lambda shape: torch.full_like(labels_of(shape, 2), 2),
    "unlabelled": lambda shape: labels_of(shape, shape[1]).masked_fill(unlabelled(shape), 255),
    "one-hot": lambda shape: one_hot(labels_of(shape, shape[1]), shape[1]),
    "one-hot of int": lambda shape: one_hot(labels_of(shape, shape[1]), shape[1]).int(),
    "one-hot unlabelled": lambda shape: one_hot(labels_of(shape, shape[1]), shape[1]) * ~unlabelled(shape),
    "binary": lambda shape: (torch.rand(shape) < 0.3).float(),
    "binary unlabelled": lambda shape: (torch.rand(shape) < 0.3).int().masked_fill(unlabelled(shape), 255),
    "soft": lambda shape: torch.randn(shape).softmax(1),
}
LABEL_MAPS = ("index", "index of float", "index of uint8", "absent classes", "single class", "unlabelled")

MASKS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "mask": lambda shape: (torch.rand(shape[0], 1, *shape[2:]) < 0.6).float(),
    "mask of bool": lambda shape: torch.rand(shape[0], 1, *shape[2:]) < 0.6,
    "one mask": lambda shape: (torch.rand(1, 1, *shape[2:]) < 0.6).float(),
    "fractions": lambda shape: torch.rand(shape[0], 1, *shape[2:]),
}


def options_of(case: Case) -> dict[str, Any]:
    is_map = case.target in LABEL_MAPS and case.shape[1] > 1
    return {"to_onehot_y": True, **case.options} if is_map else case.options


def tensors_of(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Input, target and mask; a loss without activation gets probabilities."""
    input = 2.0 * torch.randn(case.shape)
    if case.name == "AsymmetricUnifiedFocalLoss":
        input = input.softmax(1) if case.shape[1] > 1 else input.sigmoid()
    elif case.name != "FocalLoss" and not {"sigmoid", "softmax", "other_act"} & case.options.keys():
        input = input.sigmoid()
    rest = (TARGETS[case.target](case.shape), *(MASKS[case.mask](case.shape) for _ in [0] if case.mask))
    return input.to(dtype), *rest


def build(library: Any, case: Case, backend: str = "auto") -> Any:
    loss = getattr(library, case.name)(**copy.deepcopy(options_of(case)))
    if library is ours:
        loss.backend = backend
    return loss


def value_and_gradient(loss: Any, input: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the gradient of a weighted sum of its elements."""
    input = input.detach().clone().requires_grad_()
    value = loss(input, *rest)
    total = value.double().flatten() @ torch.linspace(1.0, 2.0, value.numel(), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(total, input)
    return value.detach(), gradient


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 0.0) -> None:
    """To `TOLERANCE` of the largest element, and `rtol` of each."""
    assert actual.shape == expected.shape
    atol = TOLERANCE * expected.double().abs().max().item()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)


def assert_conforms(case: Case, backend: str) -> None:
    tensors = tensors_of(case)
    value, gradient = value_and_gradient(build(ours, case, backend), *tensors)
    expected, expected_gradient = value_and_gradient(build(peer, case), *tensors)
    assert value.dtype == expected.dtype
    assert_close(value, expected)
    assert_close(gradient, expected_gradient)


def cases(name: str, *tables: list[dict[str, Any]], **how: Any) -> list[Case]:
    """One case for each combination of an entry of every table."""
    return [Case(name, {k: v for each in some for k, v in each.items()}, **how) for some in itertools.product(*tables)]


SOFTMAX, SIGMOID = {"softmax": True}, {"sigmoid": True}
ACTIVATIONS = [SOFTMAX, SIGMOID, {}, {"other_act": torch.tanh}]
REDUCTIONS = [{"reduction": "mean"}, {"reduction": "sum"}, {"reduction": "none"}]
SCALARS = REDUCTIONS[:2]
BACKGROUNDS = [{}, {"include_background": False}]
BATCHES = [{}, {"batch": True}]
WEIGHT = [0.5, 2.0, 0.0, 1.5]
OVERLAPS = ["DiceLoss", "TverskyLoss", "GeneralizedDiceLoss"]
COMPOUNDS = ["DiceCELoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss"]

# One of each kind.
FEW = [
    *(Case(name, SOFTMAX, shape=(2, 3, 4, 5)) for name in OVERLAPS + COMPOUNDS),
    Case("DiceCELoss", {**SOFTMAX, "label_smoothing": 0.2}, "soft", (2, 3, 4, 5)),
    Case("DiceLoss", {**SOFTMAX, "soft_label": True}, "soft", (2, 3, 4, 5)),
    Case(
        "FocalLoss", {"use_softmax": True, "include_background": False, "ignore_index": 255}, "unlabelled", (2, 3, 4, 5)
    ),
    Case("MaskedDiceLoss", SIGMOID, "binary", (2, 3, 4, 5), "mask"),
    Case("AsymmetricUnifiedFocalLoss", {}, "index", (2, 2, 4, 5)),
]


def outcome(loss: Callable[..., Tensor], *tensors: Tensor | None) -> tuple[Any, list[str], list[str]]:
    """The value or the error, what was warned of, and which fallbacks were announced."""
    fallback.announced.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Any = loss(*tensors)
        except Exception as error:
            result = (type(error), str(error))
    is_fallback = [issubclass(each.category, fallback.FallbackWarning) for each in caught]
    texts = [(str(each.message), of_fallback) for each, of_fallback in zip(caught, is_fallback, strict=True)]
    return result, [text for text, said in texts if not said], [text for text, said in texts if said]
