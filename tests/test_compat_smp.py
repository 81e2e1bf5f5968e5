"""The drop-ins for segmentation_models_pytorch beside the library itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from drop_ins import assert_same, assert_same_in_half, error_of

from benchmarks.peers import prepare_smp

prepare_smp()

from segmentation_models_pytorch import losses as peer  # noqa: E402
from segmentation_models_pytorch import metrics as peer_metrics  # noqa: E402

from fastmed import dispatch  # noqa: E402
from fastmed.compat import attempt, fallback, smp  # noqa: E402
from fastmed.demo.comparison import kept_bytes  # noqa: E402

OVERLAPS = ("DiceLoss", "JaccardLoss", "TverskyLoss")
MODES = ("binary", "multiclass", "multilabel")
SHAPES = {"2d": (7, 9), "3d": (4, 5, 6)}
VOID = 255


def batch(mode, spatial=(7, 9), classes=3, void=False):
    """Logits and a target of the mode; class 1 is not in it, and a fifth of the voxels is void if asked."""
    channels = 1 if mode == "binary" else classes
    pred = 2.0 * torch.randn(2, channels, *spatial)
    if mode == "multiclass":
        target = torch.randint(classes, (2, *spatial))
        target[target == 1] = 0
    else:
        target = (torch.rand(pred.shape) < 0.4).float()
        if mode == "multilabel":
            target[:, 1] = 0
    if void:
        target[torch.rand(target.shape) < 0.2] = VOID
    return pred, target


def pair(name, *arguments, backend="auto", **options):
    mine, theirs = getattr(smp, name)(*arguments, **options), getattr(peer, name)(*arguments, **options)
    mine.backend = backend
    assert isinstance(mine, type(theirs))
    return mine, theirs


@pytest.fixture
def _no_way_back(monkeypatch):
    """What takes the library's way after all fails the test."""

    def announce(library, name, reason):
        raise AssertionError(f"{name}: {reason}")

    monkeypatch.setattr(attempt, "announce", announce)


OVERLAP_OPTIONS = [
    {},
    {"log_loss": True},
    {"smooth": 1.0},
    {"smooth": 0.5, "eps": 1e-3, "log_loss": True},
    {"ignore_index": VOID},
    {"ignore_index": VOID, "log_loss": True, "smooth": 0.1},
    {"ignore_index": 0},
]
CLASS_OPTIONS = [
    {"classes": [0, 2]},
    {"classes": [2], "log_loss": True},
    {"class_weights": [0.2, 1.0, 3.0]},
    {"classes": [1, 2], "class_weights": [0.2, 1.0, 3.0], "ignore_index": VOID},
]
OVERLAP_TABLE = [
    (mode, options)
    for mode in MODES
    for options in (OVERLAP_OPTIONS if mode == "binary" else OVERLAP_OPTIONS + CLASS_OPTIONS)
]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("mode", "options"), OVERLAP_TABLE, ids=str)
@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_overlap(backend, name, mode, options):
    extra = {"alpha": 0.3, "beta": 0.8, "gamma": 1.5} if name == "TverskyLoss" else {}
    mine, theirs = pair(name, mode, backend=backend, **options, **extra)
    assert_same(mine, theirs, *batch(mode, void=options.get("ignore_index") == VOID))


FOCAL_OPTIONS = [
    {},
    {"alpha": 0.25},
    {"gamma": 0.0},
    {"gamma": 0.5, "alpha": 0.7},
    {"reduction": "sum", "gamma": 3.0},
]
FOCAL_TABLE = [
    *((mode, options) for mode in MODES for options in FOCAL_OPTIONS),
    *((mode, {"ignore_index": VOID, "alpha": 0.25}) for mode in ("binary", "multiclass")),
    *((mode, {"class_weights": [0.2, 1.0, 3.0]}) for mode in ("multiclass", "multilabel")),
]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("mode", "options"), FOCAL_TABLE, ids=str)
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_focal(backend, mode, options):
    mine, theirs = pair("FocalLoss", mode, backend=backend, **options)
    assert_same(mine, theirs, *batch(mode, void="ignore_index" in options))


PER_CLASS = torch.tensor([0.5, 1.0, 4.0]).view(3, 1, 1)
BCE_TABLE = [
    {},
    {"reduction": "sum"},
    {"ignore_index": VOID},
    {"ignore_index": 1},
    {"ignore_index": None},
    {"smooth_factor": 0.0},
    {"smooth_factor": 0.1, "ignore_index": VOID},
    {"pos_weight": PER_CLASS},
    {"pos_weight": torch.tensor(3.0), "smooth_factor": 0.2},
    {"weight": PER_CLASS, "pos_weight": 2.0 * PER_CLASS},
    {"weight": torch.linspace(0.0, 2.0, 9)},
    {"weight": torch.linspace(0.0, 2.0, 9), "pos_weight": PER_CLASS, "ignore_index": VOID},
]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("options", BCE_TABLE, ids=range(len(BCE_TABLE)))
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_soft_bce(backend, options):
    mine, theirs = pair("SoftBCEWithLogitsLoss", backend=backend, **options)
    pred, target = batch("multilabel", void=options.get("ignore_index") == VOID)
    assert_same(mine, theirs, pred, target)


def test_bce_weight_follows_the_last_dimension():
    """(3,) beside an image of three columns is a weight of columns, beside a table one of classes."""
    columns = torch.tensor([1.0, 2.0, 3.0])
    mine, theirs = pair("SoftBCEWithLogitsLoss", weight=columns)
    for pred in (torch.randn(2, 3, 4, 3), torch.randn(5, 3)):
        assert_same(mine, theirs, pred, (torch.rand(pred.shape) < 0.5).float())


CE_TABLE = [
    {"smooth_factor": 0.0},
    {"smooth_factor": 0.1},
    {"smooth_factor": 0.2, "reduction": "sum"},
    {"smooth_factor": 0.1, "ignore_index": VOID},
    {"smooth_factor": 0.1, "ignore_index": VOID, "reduction": "sum"},
    {"smooth_factor": 0.1, "ignore_index": None},
]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("options", CE_TABLE, ids=str)
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_soft_cross_entropy(backend, options):
    mine, theirs = pair("SoftCrossEntropyLoss", backend=backend, **options)
    pred, target = batch("multiclass", void=options.get("ignore_index") == VOID)
    assert_same(mine, theirs, pred, target)
    assert_same(mine, theirs, pred, target.unsqueeze(1))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("dim", [-1, 2])
def test_soft_cross_entropy_of_another_dimension(dim):
    mine, theirs = pair("SoftCrossEntropyLoss", smooth_factor=0.1, dim=dim)
    pred, target = batch("multiclass")
    assert_same(mine, theirs, pred.movedim(1, dim).contiguous(), target)


ORDINARY = [
    *((name, mode, {}) for name in (*OVERLAPS, "FocalLoss") for mode in MODES),
    ("SoftBCEWithLogitsLoss", "multilabel", {}),
    ("SoftCrossEntropyLoss", "multiclass", {"smooth_factor": 0.1}),
]


def ordinary(name, mode, options, **more):
    arguments = () if name.startswith("Soft") else (mode,)
    return pair(name, *arguments, **options, **more)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("name", "mode", "options"), ORDINARY, ids=str)
def test_ordinary_configurations_take_the_fast_backend(name, mode, options, spatial, monkeypatch):
    chosen = []
    select = dispatch.select
    monkeypatch.setattr(dispatch, "select", lambda *request: chosen.append(select(*request)) or chosen[-1])
    mine, theirs = ordinary(name, mode, options)
    pred, target = batch(mode, spatial)
    assert_same(mine, theirs, pred, target)
    assert {backend.__name__.split(".")[-1] for backend in chosen} == {"cpu_numba"}


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "mode", "options"), ORDINARY, ids=str)
def test_triton(name, mode, options):
    mine, theirs = ordinary(name, mode, options, backend="triton")
    pred, target = batch(mode, (3, 4))
    assert_same(mine, theirs, pred, target)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "mode", "options"), ORDINARY, ids=str)
def test_bfloat16(region_backend, name, mode, options):
    """The loss is float32: the library would round it to the eight bits of its input."""
    mine, theirs = ordinary(name, mode, options, backend=region_backend)
    pred, target = batch(mode, (3, 4))
    exact = (lambda p, y: theirs(p, y.double())) if name.startswith("SoftB") else theirs
    assert_same_in_half(mine, exact, pred.bfloat16(), target, torch.float32, region_backend)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*OVERLAPS, "FocalLoss"])
def test_probabilities(name, mode):
    pred, target = batch(mode)
    probability = pred.softmax(1) if mode == "multiclass" else pred.sigmoid()
    probability[0, 0, 0, :3] = torch.tensor([0.0, 1.0, 1.0])
    assert_same(*pair(name, mode, from_logits=False), probability, target)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("name", OVERLAPS)
def test_soft_labels(name, mode):
    pred, target = batch(mode)
    assert_same(*pair(name, mode), pred, torch.rand(target.shape))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("name", [*OVERLAPS, "FocalLoss"])
def test_binary_target_with_and_without_channel(name):
    pred, target = batch("binary")
    for each in (target, target.squeeze(1), target.long(), target.bool()):
        assert_same(*pair(name, "binary", backend="reference"), pred, each)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*OVERLAPS, "FocalLoss"])
def test_everything_ignored(name, mode):
    if name == "FocalLoss" and mode == "multilabel":
        pytest.skip("the library has no ignore_index there")
    pred, target = batch(mode)
    assert_same(*pair(name, mode, ignore_index=VOID), pred, torch.full_like(target, VOID))


OWN_WAY = [
    ("FocalLoss", "binary", {"normalized": True}, "normalized"),
    ("FocalLoss", "multiclass", {"reduced_threshold": 0.5}, "reduced_threshold"),
    ("FocalLoss", "multilabel", {"reduction": None}, "reduction"),
    ("FocalLoss", "binary", {"gamma": -1.0}, "gamma"),
    ("SoftBCEWithLogitsLoss", "multilabel", {"reduction": "none"}, "reduction"),
    ("SoftBCEWithLogitsLoss", "multilabel", {"pos_weight": torch.linspace(1.0, 2.0, 9)}, "pos_weight"),
    ("SoftBCEWithLogitsLoss", "multilabel", {"smooth_factor": 0.6}, "label_smoothing"),
    ("SoftCrossEntropyLoss", "multiclass", {"smooth_factor": 0.1, "reduction": "none"}, "reduction"),
]


@pytest.mark.parametrize(("name", "mode", "options", "reason"), OWN_WAY, ids=lambda each: str(each)[:40])
def test_own_way_is_said_once(name, mode, options, reason):
    fallback.announced.clear()
    mine, theirs = ordinary(name, mode, options)
    pred, target = batch(mode)
    with pytest.warns(fallback.FallbackWarning, match=f"^{name} .*{reason}"):
        value = mine(pred, target)
    torch.testing.assert_close(value, theirs(pred, target), rtol=0.0, atol=0.0)
    assert_same(mine, theirs, pred, target)  # a second warning would be an error


def test_soft_labels_take_their_own_way_where_the_focal_factor_is_no_sum():
    fallback.announced.clear()
    pred, target = batch("binary")
    soft = torch.rand(target.shape)
    assert_same(*pair("FocalLoss", "binary", gamma=0.0), pred, soft)
    with pytest.warns(fallback.FallbackWarning, match="y_true"):
        assert_same(*pair("FocalLoss", "binary"), pred, soft)


CONSTRUCTIONS = [
    ("DiceLoss", ("multi",), {}),
    ("JaccardLoss", ("binary",), {"classes": [0]}),
    ("TverskyLoss", ("binary",), {"class_weights": [1.0]}),
    ("FocalLoss", ("binary",), {"class_weights": [1.0]}),
    ("DiceLoss", (), {}),
    ("SoftCrossEntropyLoss", (), {"weight": None}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), CONSTRUCTIONS, ids=str)
def test_errors_of_construction(name, arguments, options):
    errors = [error_of(lambda of=of: getattr(of, name)(*arguments, **options)) for of in (smp, peer)]
    assert errors[0] is not None
    assert errors[0] is errors[1]


def _wrong_batches():
    pred, labels = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    maps = torch.zeros(2, 3, 4, 4)
    for name in OVERLAPS:
        yield name, ("multiclass",), {}, pred, labels[:1]
        yield name, ("multiclass",), {}, pred, labels + 3
        yield name, ("multiclass",), {}, pred, labels - 1
        yield name, ("multiclass",), {}, pred, labels[:, :3]
        yield name, ("multiclass",), {}, pred, labels.float()
        yield name, ("multiclass",), {"classes": [3]}, pred, labels
        yield name, ("multilabel",), {}, pred, maps[:, :2]
        yield name, ("binary",), {}, pred, labels
    yield "FocalLoss", ("multiclass",), {}, pred, labels[:, None]
    yield "FocalLoss", ("multilabel",), {"ignore_index": VOID}, pred, maps
    yield "FocalLoss", ("multilabel",), {"gamma": None}, pred, maps
    yield "FocalLoss", ("binary",), {}, pred, labels
    yield "SoftBCEWithLogitsLoss", (), {}, pred, maps[:, 0]
    yield "SoftCrossEntropyLoss", (), {}, pred, labels
    yield "SoftCrossEntropyLoss", (), {"smooth_factor": 0.1}, pred, labels + 3
    yield "SoftCrossEntropyLoss", (), {"smooth_factor": 0.1}, pred, labels[:1, :2]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("name", "arguments", "options", "pred", "target"), list(_wrong_batches()))
def test_errors_of_batches(name, arguments, options, pred, target):
    errors = [error_of(lambda of=of: getattr(of, name)(*arguments, **options)(pred, target)) for of in (smp, peer)]
    assert errors[1] is not None
    assert errors[0] is errors[1]


def stats(spatial, classes, low=0):
    return torch.randint(low, classes, (3, *spatial)), torch.randint(low, classes, (3, *spatial))


def assert_equal_stats(*arguments, **options):
    actual, expected = smp.get_stats(*arguments, **options), peer_metrics.get_stats(*arguments, **options)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == torch.int64
        assert torch.equal(mine, theirs)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ignore_index", [None, -1, VOID])
def test_stats_of_classes(spatial, ignore_index):
    output, target = stats(spatial, 4)
    if ignore_index is not None:
        target[torch.rand(target.shape) < 0.3] = ignore_index
    assert_equal_stats(output, target, mode="multiclass", num_classes=4, ignore_index=ignore_index)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("threshold", [0.5, 0.25, 1.0, torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1)], ids=str)
def test_stats_of_scores(threshold):
    """Quarters, many of which are at the threshold and count as positive."""
    output, target = torch.randint(5, (2, 3, 7, 9)) / 4.0, torch.randint(2, (2, 3, 7, 9))
    assert_equal_stats(output, target, mode="multilabel", threshold=threshold)
    if not isinstance(threshold, torch.Tensor):
        assert_equal_stats(output[:, :1], target[:, :1], mode="binary", threshold=threshold)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("mode", "channels"), [("binary", 1), ("multilabel", 3)])
def test_stats_of_maps(mode, channels):
    output, target = torch.randint(2, (2, 2, channels, 7, 9))
    assert_equal_stats(output, target, mode=mode)


def test_stats_of_labels_of_no_class_are_the_library_s():
    fallback.announced.clear()
    output, target = stats((7, 9), 6)
    with pytest.warns(fallback.FallbackWarning, match="get_stats"):
        assert_equal_stats(output, target, mode="multiclass", num_classes=4)
    with pytest.warns(fallback.FallbackWarning, match="other numbers"):
        assert_equal_stats(output[:, None], target[:, None], mode="binary")


def test_stats_are_exact_above_the_float32_integers():
    voxels = 2**24 + 1
    labels = torch.ones(1, voxels, dtype=torch.uint8)
    tp, fp, fn, tn = smp.get_stats(labels, labels, mode="multiclass", num_classes=2)
    assert tp.tolist() == [[0, voxels]]
    assert tn.tolist() == [[voxels, 0]]
    assert not fp.any()
    assert not fn.any()


WRONG_STATS = [
    ({"mode": "multi", "threshold": 0.5}, torch.float32, torch.int64),
    ({"mode": "binary"}, torch.float32, torch.int64),
    ({"mode": "binary", "threshold": 0.5}, torch.float32, torch.float32),
    ({"mode": "binary", "threshold": 0.5, "ignore_index": 0}, torch.float32, torch.int64),
    ({"mode": "multiclass", "num_classes": 3}, torch.float32, torch.int64),
    ({"mode": "multiclass"}, torch.int64, torch.int64),
    ({"mode": "multiclass", "num_classes": 3, "threshold": 0.5}, torch.int64, torch.int64),
    ({"mode": "multiclass", "num_classes": 3, "ignore_index": 2}, torch.int64, torch.int64),
]


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize(("options", "output", "target"), WRONG_STATS, ids=str)
def test_errors_of_stats(options, output, target):
    maps = torch.zeros(2, 1, 4, dtype=output), torch.zeros(2, 1, 4, dtype=target)
    with pytest.raises(ValueError, match=r".") as theirs:
        peer_metrics.get_stats(*maps, **options)
    with pytest.raises(ValueError, match=r".") as mine:
        smp.get_stats(*maps, **options)
    assert str(mine.value) == str(theirs.value)


def test_shapes_of_stats_must_match():
    with pytest.raises(ValueError, match="Dimensions should match"):
        smp.get_stats(torch.zeros(2, 4).long(), torch.zeros(2, 5).long(), mode="multiclass", num_classes=2)


@pytest.mark.usefixtures("no_batch_is_small")
@pytest.mark.parametrize(("name", "mode", "options"), ORDINARY, ids=str)
def test_nothing_of_the_size_of_the_logits_is_kept(name, mode, options):
    mine, theirs = ordinary(name, mode, options)
    pred, target = batch(mode, (32, 32))
    assert kept_bytes(mine, pred, target) < 1000
    assert kept_bytes(theirs, pred, target) >= pred.nbytes


def test_what_the_library_lacks_is_named_with_the_extra():
    """In a process of its own: here a stand-in has taken the place of the library's networks."""
    program = """if True:
        import sys
        sys.modules["timm"] = None
        try:
            import fastmed.compat.smp
        except ModuleNotFoundError as error:
            print(error.name, error, isinstance(error.__cause__, ModuleNotFoundError))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("timm fastmed.compat.smp needs segmentation_models_pytorch")
    assert done.stdout.endswith("pip install 'fastmed[smp]' True\n")
