"""The drop-ins for kornia's losses beside kornia."""

from __future__ import annotations

import pytest
import torch
from drop_ins import assert_same, assert_same_in_half, error_of
from kornia import losses as peer

from fastmed import dispatch
from fastmed.compat import attempt, fallback, kornia
from fastmed.demo.comparison import kept_bytes

VOID = 255
CLASSES = 3
WEIGHT = torch.tensor([0.5, 1.0, 3.0])


def labelled(spatial=(7, 9), void=None):
    """Logits and labels; class 1 is in the first sample only."""
    pred, target = 2.0 * torch.randn(2, CLASSES, *spatial), torch.randint(CLASSES, (2, *spatial))
    target[1][target[1] == 1] = 0
    if void is not None:
        target[torch.rand(target.shape) < 0.2] = void
    return pred, target


def multilabel(spatial=(7, 9), void=None, soft=False):
    pred = 2.0 * torch.randn(2, CLASSES, *spatial)
    target = torch.rand(pred.shape) if soft else (torch.rand(pred.shape) < 0.4).float()
    if void is not None:
        target[torch.rand(target.shape) < 0.2] = void
    return pred, target


def pair(name, backend="auto", **options):
    mine, theirs = getattr(kornia, name)(**options), getattr(peer, name)(**options)
    mine.backend = backend
    assert isinstance(mine, type(theirs))
    return mine, theirs


@pytest.fixture
def _no_way_back(monkeypatch):
    """What takes kornia's way after all fails the test."""

    def announce(library, name, reason):
        raise AssertionError(f"{name}: {reason}")

    monkeypatch.setattr(attempt, "announce", announce)


OVERLAP_TABLE = [
    ("DiceLoss", {}),
    ("DiceLoss", {"average": "macro"}),
    ("DiceLoss", {"weight": WEIGHT}),
    ("DiceLoss", {"average": "macro", "weight": WEIGHT, "eps": 1e-2}),
    ("DiceLoss", {"average": "macro", "weight": torch.tensor([0.0, 0.0, 0.0])}),
    ("DiceLoss", {"ignore_index": VOID}),
    ("DiceLoss", {"average": "macro", "ignore_index": VOID, "weight": WEIGHT}),
    ("DiceLoss", {"ignore_index": None, "eps": 1.0}),
    ("TverskyLoss", {"alpha": 0.5, "beta": 0.5}),
    ("TverskyLoss", {"alpha": 0.3, "beta": 0.9, "eps": 1e-2}),
    ("TverskyLoss", {"alpha": 1.0, "beta": 0.0, "ignore_index": VOID}),
    ("TverskyLoss", {"alpha": 1.0, "beta": 1.0, "ignore_index": None}),
]
FOCAL_TABLE = [
    {"alpha": None},
    {"alpha": 0.25},
    {"alpha": 0.5, "gamma": 0.0},
    {"alpha": None, "gamma": 0.5},
    {"alpha": 0.25, "gamma": 3.0, "weight": WEIGHT},
    {"alpha": 0.7, "ignore_index": VOID},
    {"alpha": 0.7, "ignore_index": 1},
    {"alpha": None, "ignore_index": VOID, "weight": WEIGHT},
    {"alpha": 0.7, "ignore_index": None},
]
BINARY_TABLE = [
    *FOCAL_TABLE,
    {"alpha": 0.25, "pos_weight": WEIGHT},
    {"alpha": None, "pos_weight": WEIGHT, "weight": WEIGHT},
]
REDUCTIONS = ("mean", "sum")
BACKENDS = ("reference", "numba")


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "options"), OVERLAP_TABLE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_overlap(backend, name, options):
    void = VOID if options.get("ignore_index") == VOID else None
    assert_same(*pair(name, backend, **options), *labelled(void=void))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_dice_of_kornia_s_path_for_large_images(average):
    """From 2^15 logits on, kornia gathers instead of multiplying."""
    assert_same(*pair("DiceLoss", average=average, weight=WEIGHT), *labelled((80, 80)))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DiceLoss", {"average": "micro", "eps": 0.0}),
        ("DiceLoss", {"average": "macro", "eps": 0.0}),
        ("TverskyLoss", {"alpha": 0.5, "beta": 0.5, "eps": 0.0}),
    ],
    ids=str,
)
def test_a_sample_that_is_all_ignored(name, options):
    pred, target = labelled()
    target[1] = VOID
    assert_same(*pair(name, ignore_index=VOID, **options), pred, target)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", FOCAL_TABLE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_focal(backend, options, reduction):
    void = VOID if options.get("ignore_index") == VOID else None
    for spatial in ((7, 9), (3, 4, 5)):
        assert_same(*pair("FocalLoss", backend, reduction=reduction, **options), *labelled(spatial, void))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", BINARY_TABLE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_binary_focal(backend, options, reduction):
    void = VOID if options.get("ignore_index") == VOID else None
    for soft in (False, True):
        operands = multilabel((3, 4, 5) if soft else (7, 9), void, soft)
        assert_same(*pair("BinaryFocalLossWithLogits", backend, reduction=reduction, **options), *operands)


ORDINARY = [
    ("DiceLoss", {}),
    ("DiceLoss", {"average": "macro"}),
    ("TverskyLoss", {"alpha": 0.5, "beta": 0.5}),
    ("FocalLoss", {"alpha": 0.5, "reduction": "mean"}),
    ("BinaryFocalLossWithLogits", {"alpha": 0.25, "reduction": "mean"}),
]


def operands_of(name, *shape):
    return multilabel(*shape) if name.startswith("Binary") else labelled(*shape)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "options"), ORDINARY, ids=str)
def test_ordinary_configurations_take_the_fast_backend(name, options, monkeypatch):
    chosen = []
    select = dispatch.select
    monkeypatch.setattr(dispatch, "select", lambda *request: chosen.append(select(*request)) or chosen[-1])
    assert_same(*pair(name, **options), *operands_of(name))
    assert {backend.__name__.split(".")[-1] for backend in chosen} == {"cpu_numba"}


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "options"), ORDINARY, ids=str)
def test_triton(name, options):
    assert_same(*pair(name, "triton", **options), *operands_of(name, (3, 4)))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "options"), ORDINARY, ids=str)
def test_bfloat16(region_backend, name, options):
    """Kornia's loss has the type of its input."""
    mine, theirs = pair(name, region_backend, **options)
    pred, target = operands_of(name, (3, 4))
    target = target.bfloat16() if target.is_floating_point() else target
    assert_same_in_half(mine, theirs, pred.bfloat16(), target, torch.bfloat16, region_backend)


@pytest.mark.usefixtures("no_batch_is_small")
@pytest.mark.parametrize(("name", "options"), ORDINARY, ids=str)
def test_nothing_of_the_size_of_the_logits_is_kept(name, options):
    mine, theirs = pair(name, **options)
    pred, target = operands_of(name, (32, 32))
    assert kept_bytes(mine, pred, target) < 1000
    assert kept_bytes(theirs, pred, target) >= pred.nbytes


FUNCTIONS = [
    ("dice_loss", {}),
    ("dice_loss", {"average": "macro", "weight": WEIGHT}),
    ("tversky_loss", {"alpha": 0.3, "beta": 0.7}),
    ("focal_loss", {"alpha": 0.5, "reduction": "mean", "weight": WEIGHT}),
    ("binary_focal_loss_with_logits", {"reduction": "sum", "pos_weight": WEIGHT}),
]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "options"), FUNCTIONS, ids=str)
def test_functions(name, options):
    mine, theirs = getattr(kornia, name), getattr(peer, name)
    operands = multilabel() if name.startswith("binary") else labelled()
    assert_same(lambda *each: mine(*each, **options), lambda *each: theirs(*each, **options), *operands)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DiceLoss", {}),
        ("DiceLoss", {"average": "macro"}),
        ("FocalLoss", {"alpha": 0.5, "reduction": "mean"}),
        ("BinaryFocalLossWithLogits", {"alpha": 0.5, "reduction": "mean"}),
    ],
    ids=str,
)
def test_a_learned_weight_takes_a_gradient(name, options):
    gradients = []
    pred, target = operands_of(name)
    for module in (kornia, peer):
        weight = torch.nn.Parameter(WEIGHT.clone())
        getattr(module, name)(weight=weight, **options)(pred, target).backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


OWN_WAY = [
    ("FocalLoss", {"alpha": 0.5}, "reduction"),
    ("FocalLoss", {"alpha": torch.tensor(0.5), "reduction": "mean"}, "alpha"),
    ("FocalLoss", {"alpha": 0.5, "gamma": -0.5, "reduction": "mean"}, "gamma"),
    ("BinaryFocalLossWithLogits", {"alpha": 0.5}, "reduction"),
]


@pytest.mark.parametrize(("name", "options", "reason"), OWN_WAY, ids=str)
def test_own_way_is_said_once(name, options, reason):
    fallback.announced.clear()
    mine, theirs = pair(name, **options)
    operands = operands_of(name)
    with pytest.warns(fallback.FallbackWarning, match=f"^{name} .*{reason}"):
        value = mine(*operands)
    torch.testing.assert_close(value, theirs(*operands), rtol=0.0, atol=0.0)
    assert_same(mine, theirs, *operands)  # a second warning would be an error


def test_one_channel_is_kornia_s_own():
    fallback.announced.clear()
    pred, target = torch.randn(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.warns(fallback.FallbackWarning, match="softmax"):
        assert_same(*pair("DiceLoss"), pred, target)


def _wrong():
    pred, labels, maps = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(2, 3, 4, 4)
    for name, options in (("DiceLoss", {}), ("TverskyLoss", {"alpha": 0.5, "beta": 0.5})):
        yield name, options, pred[0], labels
        yield name, options, pred, labels[:1]
        yield name, options, pred, labels[:, :3]
        yield name, options, pred, labels + 3
        yield name, options, pred, labels - 1
        yield name, options, pred, labels.to(torch.uint8)
        yield name, options, [[1.0]], labels
    yield "DiceLoss", {"average": "none"}, pred, labels
    yield "DiceLoss", {"weight": torch.ones(2)}, pred, labels
    yield "DiceLoss", {"weight": torch.ones(1, 3)}, pred, labels
    for options in ({"alpha": 0.5}, {"alpha": 0.5, "reduction": "mean"}):
        yield "FocalLoss", options, pred, labels[:1]
        yield "FocalLoss", options, pred, labels + 3
        yield "FocalLoss", options, pred, labels.to(torch.uint8)
        yield "BinaryFocalLossWithLogits", options, pred, maps[:1]
    yield "FocalLoss", {"alpha": 0.5, "reduction": "median"}, pred, labels
    yield "FocalLoss", {"alpha": 0.5, "reduction": "sum", "weight": torch.ones(2)}, pred, labels
    yield "BinaryFocalLossWithLogits", {"alpha": 0.5, "reduction": "median"}, pred, maps
    yield "BinaryFocalLossWithLogits", {"alpha": 0.5, "reduction": "sum", "pos_weight": torch.ones(2)}, pred, maps


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "options", "pred", "target"), list(_wrong()))
def test_errors(name, options, pred, target):
    errors = [error_of(lambda of=of: getattr(of, name)(**options)(pred, target)) for of in (kornia, peer)]
    assert errors[1] is not None
    assert errors[0] is errors[1]
