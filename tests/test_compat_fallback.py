"""What drop-ins say where they leave the work to their library: once for each, and of the line that called them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fastmed.compat import monai
from fastmed.compat.fallback import FallbackWarning, announced


@pytest.fixture(autouse=True)
def _nothing_said() -> Iterator[None]:
    announced.clear()
    yield
    announced.clear()


def said(call: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [each for each in caught if issubclass(each.category, FallbackWarning)]


def test_numbers_of_a_batch_make_no_other_reason() -> None:
    loss = monai.DiceLoss(softmax=True, to_onehot_y=True, ignore_index=-1)

    def train() -> None:
        for unlabelled in range(3, 8):
            labels = torch.randint(3, (1, 1, 6, 6), dtype=torch.uint8)
            labels.view(-1)[:unlabelled] = 255
            loss(torch.randn(1, 3, 6, 6), labels)

    (once,) = said(train)
    assert "target: 3 labels are out of range" in str(once.message)


def test_a_loss_of_the_same_name_is_another_library_s() -> None:
    kornia = pytest.importorskip("fastmed.compat.kornia")
    logits, maps = torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)

    def both() -> None:
        monai.FocalLoss(reduction="none")(logits, maps)
        kornia.FocalLoss(alpha=0.5, reduction="none")(logits, maps[:, 0].long())

    texts = [str(each.message) for each in said(both)]
    assert [("as monai does" in text, "as kornia does" in text) for text in texts] == [(True, False), (False, True)]


class _Step(nn.Module):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss(logits, target)  # the line that is named


@pytest.mark.parametrize("wrap", [lambda loss: loss, monai.DeepSupervisionLoss], ids=["alone", "within a wrapper"])
def test_the_line_named_is_the_caller_s(wrap: Callable[[nn.Module], nn.Module]) -> None:
    logits, target = torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    (once,) = said(lambda: _Step(wrap(monai.FocalLoss(gamma=-1.0)))(logits, target))
    lines, first = inspect.getsourcelines(_Step.forward)
    assert once.filename == __file__
    assert once.lineno == first + next(at for at, line in enumerate(lines) if "is named" in line)
