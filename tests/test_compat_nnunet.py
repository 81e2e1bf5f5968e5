"""Drop-ins beside nnU-Net's losses: values, gradients, fallbacks, ranks, and the trainer that nnU-Net finds."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from drop_ins import error_of, rounding
from ranks import Ranks
from torch import Tensor
from under_test import DEVICE, backends, label

pytest.importorskip("nnunetv2")

from nnunetv2.training.loss import compound_losses, deep_supervision, dice
from nnunetv2.utilities.helpers import softmax_helper_dim1

from fastmed.compat import nnunet as ours
from fastmed.compat.fallback import FallbackWarning, announced

PEERS = {name: getattr(module, name) for module in (dice, compound_losses) for name in dir(module)}
# The grouping of float32 sums differs.
TOLERANCE = 1e-5
IGNORED = 7
ROOT = Path(__file__).parent.parent
SHAPE = (2, 3, 5, 6, 4)


class Case(NamedTuple):
    """A loss of nnU-Net, by name, and what it is called with."""

    name: str
    options: dict[str, Any]
    target: str = "labels"
    mask: bool = False
    shape: tuple[int, ...] = SHAPE

    def __str__(self) -> str:
        return f"{self.name}-{self.options}-{self.target}-{self.mask}-{len(self.shape)}D"


LOCAL = {"ddp": False}
TRAINER = {"ddp": False, "smooth": 1e-5, "do_bg": False}
SOFTMAX, SIGMOID = {"apply_nonlin": softmax_helper_dim1}, {"apply_nonlin": torch.sigmoid}
DICE = [
    SOFTMAX,
    SOFTMAX | {"batch_dice": True, "do_bg": False},
    SIGMOID | {"smooth": 0.0},
    SIGMOID | {"batch_dice": True, "smooth": 1e-5},
    {"smooth": 0.5},
]
WEIGHT = torch.tensor([0.5, 2.0, 1.0])
FUSED = [
    *(
        Case(name, LOCAL | options, target, mask)
        for name in ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss")
        for options in DICE
        for target, mask in (("labels", False), ("float labels", True), ("regions", True), ("soft", False))
    ),
    Case("SoftDiceLoss", LOCAL | SOFTMAX | {"clip_tp": 12.0}),
    Case("SoftDiceLoss", LOCAL | SOFTMAX, "absent", shape=(1, 4, 9, 8)),
    *(
        Case("DC_and_CE_loss", {"soft_dice_kwargs": TRAINER | more, "ce_kwargs": ce, **options}, target, shape=shape)
        for more, ce, options, target, shape in (
            ({}, {}, {}, "labels", SHAPE),
            ({"batch_dice": True}, {}, {"dice_class": dice.MemoryEfficientSoftDiceLoss}, "float labels", SHAPE),
            ({}, {"weight": WEIGHT, "label_smoothing": 0.1}, {"weight_ce": 0.5, "weight_dice": 2}, "labels", SHAPE),
            ({}, {"reduction": "sum"}, {}, "absent", (2, 3, 7, 9)),
            ({}, {}, {"weight_ce": 0}, "labels", SHAPE),
            ({}, {}, {"weight_dice": 0}, "labels", SHAPE),
            ({}, {}, {"ignore_label": IGNORED}, "partly ignored", SHAPE),
            ({"batch_dice": True}, {"weight": WEIGHT}, {"ignore_label": IGNORED}, "partly ignored", (2, 3, 7, 9)),
            ({}, {}, {"ignore_label": IGNORED}, "all ignored", SHAPE),
            ({"smooth": 0.0}, {}, {"ignore_label": IGNORED}, "all ignored", SHAPE),
        )
    ),
    *(
        Case("DC_and_BCE_loss", {"soft_dice_kwargs": TRAINER | more, "bce_kwargs": bce, **options}, target)
        for more, bce, options, target in (
            ({"do_bg": True}, {}, {}, "regions"),
            ({"batch_dice": True}, {"pos_weight": WEIGHT.view(3, 1, 1, 1)}, {"weight_ce": 2}, "bool regions"),
            ({}, {"pos_weight": torch.tensor(3.0), "reduction": "sum"}, {"weight_dice": 0.5}, "soft"),
            ({}, {}, {"use_ignore_label": True}, "partly ignored regions"),
            ({"do_bg": True}, {}, {"use_ignore_label": True}, "bool partly ignored regions"),
            ({}, {}, {"use_ignore_label": True}, "all ignored regions"),
        )
    ),
]
FALLBACKS = [
    Case("SoftDiceLoss", LOCAL | {"apply_nonlin": torch.tanh}),
    Case("DC_and_CE_loss", {"soft_dice_kwargs": TRAINER, "ce_kwargs": {"ignore_index": 1}}),
    Case("DC_and_CE_loss", {"soft_dice_kwargs": TRAINER, "ce_kwargs": {"reduction": "none"}}),
    Case("DC_and_BCE_loss", {"soft_dice_kwargs": TRAINER, "bce_kwargs": {"reduction": "none"}}, "regions"),
    Case(
        "DC_and_BCE_loss",
        {"soft_dice_kwargs": TRAINER, "bce_kwargs": {"weight": torch.linspace(0.1, 2.0, 4)}},
        "regions",
    ),
    Case("DC_and_topk_loss", {"soft_dice_kwargs": TRAINER, "ce_kwargs": {"k": 10}}),
    Case("DC_and_topk_loss", {"soft_dice_kwargs": TRAINER, "ce_kwargs": {}, "ignore_label": 7}, "partly ignored"),
]
ON_CPU = [each for each in backends("region_sums") if each.id != "triton" or DEVICE != "cpu"]
FEW = [FUSED[0], *(case for case in FUSED if "ignored" in case.target)]


def target_of(case: Case) -> Tensor:
    """A target of the kind that the case names."""
    n, c, *spatial = case.shape
    kind = case.target
    if kind == "soft":
        return torch.rand(case.shape)
    if kind.endswith("regions"):
        regions = torch.randint(2, case.shape, dtype=torch.int16)
        if "ignored" in kind:
            ignored = torch.ones(n, 1, *spatial) if kind.startswith("all") else torch.rand(n, 1, *spatial) < 0.3
            regions = torch.cat([regions, ignored.to(regions.dtype)], 1)
        return regions.bool() if kind.startswith("bool") else regions
    labels = torch.randint(2 if kind == "absent" else c, (n, 1, *spatial), dtype=torch.int16)
    if kind == "all ignored":
        return torch.full_like(labels, IGNORED)
    if kind == "partly ignored":
        return labels.masked_fill(torch.rand(labels.shape) < 0.3, IGNORED)
    # The Dice classes take both types of labels; scatter_ wants whole numbers below C.
    return labels.float() if kind == "float labels" else labels


def tensors_of(case: Case) -> tuple[Tensor, ...]:
    """Logits (probabilities for a Dice without activation), target and mask."""
    input = 2.0 * torch.randn(case.shape)
    if "Soft" in case.name and "apply_nonlin" not in case.options:
        input = input.softmax(1)
    mask = torch.rand(case.shape[0], 1, *case.shape[2:]) < 0.6
    return (input, target_of(case), mask) if case.mask else (input, target_of(case))


def build(case: Case, library: dict[str, Any], backend: str = "auto") -> Any:
    """The loss; nnU-Net's compound losses write into the dictionaries that they are given."""
    loss = library[case.name](**copy.deepcopy(case.options))
    if library is not PEERS:
        loss.backend = backend
    return loss


def value_and_gradient(loss: Any, input: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the loss's elements and its gradient."""
    input = input.detach().clone().requires_grad_()
    value = loss(input, *rest)
    value.sum().backward()
    assert input.grad is not None
    return value.detach(), input.grad


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """To the tolerance, relative to the largest element."""
    assert actual.shape == expected.shape
    atol = tolerance * expected.double().abs().max().item()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=atol)


def assert_conforms(case: Case, backend: str = "auto") -> None:
    tensors = tensors_of(case)
    value, gradient = value_and_gradient(build(case, vars(ours), backend), *tensors)
    expected, expected_gradient = value_and_gradient(build(case, PEERS), *tensors)
    assert value.dtype == expected.dtype
    assert_close(value, expected)
    assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("case", FUSED, ids=label)
def test_value_and_gradient_without_a_fallback(case: Case, backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        announced.clear()
        assert_conforms(case, backend)


@pytest.mark.parametrize("case", FEW, ids=label)
def test_every_backend(case: Case, region_backend: str) -> None:
    assert_conforms(case, region_backend)


ORDINARY = [
    *(
        case
        for case in FUSED
        if case.name in ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss") and case.target == "labels"
    ),
    *(case for case in FUSED if case.name in ("DC_and_CE_loss", "DC_and_BCE_loss")),
]


@pytest.mark.parametrize("case", ORDINARY, ids=label)
def test_ordinary_configurations_run_fused(case: Case, ran: set[str], fastest: str) -> None:
    value_and_gradient(build(case, vars(ours)), *tensors_of(case))
    assert ran == {fastest}


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("case", FALLBACKS, ids=label)
def test_what_has_no_fused_path_says_so_once(case: Case) -> None:
    announced.clear()
    with pytest.warns(FallbackWarning, match=case.name):
        assert_conforms(case)
    assert_conforms(case)


@pytest.mark.parametrize("case", FEW, ids=label)
def test_half_precision_is_nearer_to_the_exact_loss(case: Case, region_backend: str) -> None:
    logits, *rest = tensors_of(case)
    logits = logits.bfloat16()
    value, gradient = value_and_gradient(build(case, vars(ours), region_backend), logits, *rest)
    exact, exact_gradient = value_and_gradient(build(case, PEERS).double(), logits.double(), *rest)
    assert_close(value, exact)
    assert_close(gradient, exact_gradient, TOLERANCE + rounding(logits.dtype, region_backend))


def kept_beside(loss: Any, logits: Tensor, target: Tensor) -> list[int]:
    """Bytes of each tensor that backward needs, apart from logits, target and a few numbers a class."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() > 64:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits.requires_grad_(), target)
    operands = {tensor.untyped_storage().data_ptr() for tensor in (logits, target)}
    return [nbytes for pointer, nbytes in kept.items() if pointer not in operands]


@pytest.mark.usefixtures("no_batch_is_small")
class TestKeptForBackward:
    """What the documentation says of it."""

    VOXELS = SHAPE[0] * math.prod(SHAPE[2:])

    def test_logits_and_labels(self) -> None:
        loss = ours.DC_and_CE_loss(dict(TRAINER), {}, ignore_label=IGNORED)
        assert kept_beside(loss, torch.randn(SHAPE), target_of(FUSED[0])) == []

    def test_regions(self) -> None:
        assert kept_beside(ours.DC_and_BCE_loss({}, dict(TRAINER)), torch.randn(SHAPE), torch.rand(SHAPE) < 0.5) == []

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.float32], ids=str)
    def test_regions_with_an_ignore_label_and_a_byte_a_voxel(self, dtype: torch.dtype) -> None:
        loss = ours.DC_and_BCE_loss({}, dict(TRAINER), use_ignore_label=True)
        target = torch.randint(2, (SHAPE[0], SHAPE[1] + 1, *SHAPE[2:])).to(dtype)
        assert kept_beside(loss, torch.randn(SHAPE), target) == [self.VOXELS]

    def test_labels_in_floating_point_as_whole_numbers(self) -> None:
        loss = ours.SoftDiceLoss(**SOFTMAX, ddp=False)
        labels = torch.randint(3, (SHAPE[0], 1, *SHAPE[2:])).float()
        assert kept_beside(loss, torch.randn(SHAPE), labels) == [4 * self.VOXELS]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("channels", ["one", "foreground", "all"])
@pytest.mark.parametrize("do_bg", [True, False])
@pytest.mark.filterwarnings("ignore:.*has no fused path")
def test_channels_of_a_mask_are_those_that_nnunet_takes(classes: int, channels: str, do_bg: bool) -> None:
    input, labels = torch.randn(2, classes, 5, 6), torch.randint(classes, (2, 1, 5, 6))
    mask = torch.rand(2, {"one": 1, "foreground": classes - 1, "all": classes}[channels], 5, 6) < 0.5
    losses = [
        library["MemoryEfficientSoftDiceLoss"](**SOFTMAX, do_bg=do_bg, ddp=False) for library in (vars(ours), PEERS)
    ]
    expected = error_of(lambda: losses[1](input, labels, mask))
    if expected is not None:
        with pytest.raises(expected):
            losses[0](input, labels, mask)
        return
    mine, theirs = (value_and_gradient(loss, input, labels, mask) for loss in losses)
    for actual, other in zip(mine, theirs, strict=True):
        assert_close(actual, other)


def test_the_same_errors() -> None:
    for library in (vars(ours), PEERS):
        loss = library["DC_and_CE_loss"](dict(TRAINER), {}, ignore_label=IGNORED)
        with pytest.raises(AssertionError, match="one hot"):
            loss(torch.randn(SHAPE), torch.zeros(SHAPE))
        loss = library["DC_and_CE_loss"](dict(TRAINER), {})
        with pytest.raises(RuntimeError, match="out of bounds"):
            loss(torch.randn(SHAPE), torch.full((2, 1, *SHAPE[2:]), 3))


def test_deep_supervision() -> None:
    sizes, weights = (8, 4, 2), (0.6, 0.4, 0.0)
    outputs = [torch.randn(2, 3, size, size) for size in sizes]
    labels = [torch.randint(3, (2, 1, size, size)) for size in sizes]
    values = [
        wrapper(library["DC_and_CE_loss"](dict(TRAINER), {}), weights)(outputs, labels)
        for library, wrapper in (
            (vars(ours), ours.DeepSupervisionWrapper),
            (PEERS, deep_supervision.DeepSupervisionWrapper),
        )
    ]
    assert_close(*values)


def _batch_of_four() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 50, generator=generator), torch.randint(3, (4, 1, 50), generator=generator)


def _of_rank(rank: int, which: str, name: str, splits: tuple[int, int]) -> tuple[float, Any]:
    library = vars(ours) if which == "ours" else PEERS
    options: tuple[Any, ...] = ({"batch_dice": True, "smooth": 1e-5}, {})
    loss = library[name](*options) if name == "DC_and_CE_loss" else library[name](softmax_helper_dim1, batch_dice=True)
    logits, labels = (tensor.split(splits)[rank] for tensor in _batch_of_four())
    value, gradient = value_and_gradient(loss, logits, labels)
    return value.item(), gradient.numpy()


def test_ranks_of_equal_batches_as_the_peer(two: Ranks) -> None:
    pairs = zip(
        two(_of_rank, "ours", "DC_and_CE_loss", (2, 2)), two(_of_rank, "peer", "DC_and_CE_loss", (2, 2)), strict=True
    )
    for (value, gradient), (expected, expected_gradient) in pairs:
        assert value == pytest.approx(expected, rel=TOLERANCE)
        assert_close(torch.from_numpy(gradient), torch.from_numpy(expected_gradient))


def test_ranks_of_unequal_batches_have_the_dice_of_their_union(two: Ranks) -> None:
    unequal = two(_of_rank, "ours", "MemoryEfficientSoftDiceLoss", (1, 3))
    whole = ours.MemoryEfficientSoftDiceLoss(softmax_helper_dim1, batch_dice=True, ddp=False)
    expected, expected_gradient = value_and_gradient(whole, *_batch_of_four())
    for (value, gradient), share in zip(unequal, expected_gradient.split((1, 3)), strict=True):
        assert value == pytest.approx(expected.item(), rel=TOLERANCE)
        assert_close(torch.from_numpy(gradient), 2 * share)


# nnU-Net looks through its own trainers first, some of which are of packages that their losses need not have.
_NNUNET_WITHOUT_TRANSFORMERS = """
import importlib.machinery, importlib.util, sys, torch

ABSENT = {name for name in ("timm", "einops") if importlib.util.find_spec(name) is None}

class StandIns:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        module.__getattr__ = self.attribute
    def attribute(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})

sys.meta_path.append(StandIns())
"""
_TRAINER_FROM_ARGS = """
from nnunetv2.run.run_training import get_trainer_from_args
trainer = get_trainer_from_args("Dataset001_X", "3d_fullres", 0, "nnUNetTrainerFastmed", device=torch.device("cpu"))
print(type(trainer).__module__)
"""


def test_nnunet_finds_the_trainer_by_its_name(tmp_path: Path) -> None:
    """In a process of its own, which sets the variable by the line of the documentation."""
    folder = tmp_path / "Dataset001_X"
    folder.mkdir()
    configuration = {"batch_size": 2, "patch_size": [8, 8, 8], "data_identifier": "x", "architecture": {}}
    plans = {"dataset_name": folder.name, "plans_name": "x", "configurations": {"3d_fullres": configuration}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}, "channel_names": {"0": "x"}}))
    documented = re.findall(r"^export nnUNet_extTrainer=.*$", (ROOT / "docs" / "nnunet.md").read_text(), re.MULTILINE)
    assert len(documented) == 1
    line = documented[0].replace("python", shlex.quote(sys.executable))
    variables = {f"nnUNet_{name}": str(tmp_path) for name in ("raw", "preprocessed", "results")}
    done = subprocess.run(
        ["sh", "-c", f'{line}; exec "$0" -', sys.executable],
        input=_NNUNET_WITHOUT_TRANSFORMERS + _TRAINER_FROM_ARGS,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "fastmed.compat.nnunet.trainer"


class _Labels(NamedTuple):
    has_regions: bool
    ignore_label: int | None


class _Configuration(NamedTuple):
    batch_dice: bool


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("is_ddp", [True, False])
@pytest.mark.parametrize("ignore_label", [None, 3])
@pytest.mark.parametrize("has_regions", [True, False])
def test_the_trainers_loss(has_regions: bool, ignore_label: int | None, is_ddp: bool, deep: bool) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from fastmed.compat.nnunet.trainer import nnUNetTrainerFastmed

    losses = []
    for trainer_class in (nnUNetTrainerFastmed, nnUNetTrainer):
        trainer = trainer_class.__new__(trainer_class)
        trainer.device = torch.device("cpu")
        trainer.label_manager, trainer.configuration_manager = _Labels(has_regions, ignore_label), _Configuration(True)
        trainer.is_ddp, trainer.enable_deep_supervision = is_ddp, deep
        trainer._get_deep_supervision_scales = lambda: [[1.0] * 3, [0.5] * 3, [0.25] * 3]
        losses.append(trainer._build_loss())
    if deep:
        assert losses[0].weight_factors == pytest.approx(losses[1].weight_factors)
        losses = [loss.loss for loss in losses]
    mine, theirs = losses
    assert isinstance(mine, type(theirs))
    assert type(mine).__module__ == "fastmed.compat.nnunet.compound"
    assert vars(mine.dc) | {"training": True} == vars(theirs.dc) | {"training": True}
    assert (mine.weight_ce, mine.weight_dice) == (theirs.weight_ce, theirs.weight_dice)
    if not has_regions:
        assert (mine.ignore_label, mine.ce.ignore_index) == (theirs.ignore_label, theirs.ce.ignore_index)
    else:
        assert (mine.use_ignore_label, mine.ce.reduction) == (theirs.use_ignore_label, theirs.ce.reduction)
