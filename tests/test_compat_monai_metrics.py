"""The drop-ins for MONAI's metrics beside MONAI."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai import metrics as peer
from monai.utils import MetricReduction

from fastmed.compat import monai as ours

REDUCTIONS = [each.value for each in MetricReduction]
NAMES = [
    "sensitivity",
    "specificity",
    "precision",
    "npv",
    "threat score",
    "accuracy",
    "f1 score",
    "mcc",
    "informedness",
]
OVERLAPS = ["DiceMetric", "MeanIoU"]


def one_hot(labels, classes, dtype=torch.float32):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).to(dtype)


def multi_label(shape, dtype=torch.float32):
    """Maps with a class that does not occur, one that was not found, one that neither is nor was found."""
    y_pred, y = (torch.rand(2, *shape) < 0.3).to(dtype)
    y[0, 0] = 0
    y_pred[-1, 1] = 0
    y_pred[0, 2] = y[0, 2] = 0
    return y_pred, y


def pair(name, **options):
    return getattr(ours, name)(**options), getattr(peer, name)(**options)


def assert_same(actual, expected):
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0, equal_nan=True)
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


def assert_agree(mine, theirs, batches, **how):
    for y_pred, y in batches:
        assert_same(mine(y_pred=y_pred, y=y), theirs(y_pred=y_pred, y=y))
    assert_same(mine.get_buffer(), theirs.get_buffer())
    assert_same(mine.aggregate(**how), theirs.aggregate(**how))
    mine.reset()
    assert mine.get_buffer() is None


@pytest.fixture
def _no_way_back(monkeypatch):
    """What takes MONAI's way after all fails the test."""
    for name in ("ConfusionMatrixMetric", *OVERLAPS):
        theirs = getattr(peer, name)

        def compute(self, y_pred, y, theirs=theirs._compute_tensor):
            assert type(self).__module__.startswith("monai")
            return theirs(self, y_pred, y)

        monkeypatch.setattr(theirs, "_compute_tensor", compute)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("get_not_nans", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["ConfusionMatrixMetric", *OVERLAPS])
def test_reductions(name, reduction, background, get_not_nans):
    options = {"include_background": background, "reduction": reduction, "get_not_nans": get_not_nans}
    batches = [multi_label((3, 4, 5, 6)), multi_label((1, 4, 5, 6))]
    assert_agree(*pair(name, **options), batches)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("ignore_empty", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("name", OVERLAPS)
def test_empty_classes(name, classes, ignore_empty):
    y_pred, y = multi_label((6, 5, 4, 3, 2))
    y_pred[0] = y[0] = 0
    batches = [(y_pred[:, :classes], y[:, :classes])]
    assert_agree(*pair(name, ignore_empty=ignore_empty), batches)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("compute_sample", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "mean_batch", "mean_channel"])
def test_figures(reduction, compute_sample):
    options = {"metric_name": NAMES, "compute_sample": compute_sample, "reduction": reduction, "get_not_nans": True}
    assert_agree(*pair("ConfusionMatrixMetric", **options), [multi_label((3, 4, 9, 9))])


@pytest.mark.parametrize("shape", [(20, 4), (20, 4, 1)])
@pytest.mark.parametrize("compute_sample", [False, True])
def test_tables_of_classification(shape, compute_sample):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        mine, theirs = pair("ConfusionMatrixMetric", metric_name=["recall", "ppv"], compute_sample=compute_sample)
        assert_agree(mine, theirs, [multi_label(shape), multi_label(shape)])
    assert sum("compute_sample" in str(each.message) for each in seen) == (2 if compute_sample else 0)
    assert mine.compute_sample is False


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("name", ["ConfusionMatrixMetric", *OVERLAPS])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_dtypes(name, dtype):
    assert_agree(*pair(name), [multi_label((3, 4, 8, 8), dtype)])


def test_maps_of_bool_are_counted_right():
    """MONAI adds maps, and true + true is true, not 2: it finds no true positive."""
    y_pred, y = multi_label((3, 4, 8, 8))
    expected = peer.ConfusionMatrixMetric()(y_pred=y_pred, y=y)
    assert_same(ours.ConfusionMatrixMetric()(y_pred=y_pred.bool(), y=y.bool()), expected)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("name", ["ConfusionMatrixMetric", *OVERLAPS])
def test_lists_of_channel_first_maps(name):
    maps = [multi_label((1, 3, *spatial)) for spatial in [(4, 5), (6, 7), (3, 3)]]
    assert_agree(*pair(name), [([y_pred[0] for y_pred, _ in maps], [y[0] for _, y in maps])])


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("ignored", [None, 0, 2, 255, -1])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", ["ConfusionMatrixMetric", *OVERLAPS])
def test_ignored_labels(name, background, ignored):
    y_pred, y = one_hot(torch.randint(4, (2, 3, 6, 6)).flatten(0, 1), 4).split(3)
    y[:, :, :2] = 0  # all channels zero: what a label outside the classes stands for
    assert_agree(*pair(name, include_background=background, ignore_index=ignored), [(y_pred, y)])


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("ignored", [None, 0, 3, 255])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("labels", ["both", "prediction", "target"])
def test_dice_of_label_maps(labels, background, ignored):
    maps = torch.randint(4, (2, 3, 1, 6, 6))
    if ignored == 255:
        maps[1, :, :, :2] = 255
    y_pred, y = maps
    if labels == "target":
        y_pred = one_hot(y_pred[:, 0], 4)
    if labels == "prediction":
        y = one_hot(y[:, 0].clamp(max=3), 4)
    options = {"num_classes": 4, "include_background": background, "ignore_index": ignored}
    assert_agree(*pair("DiceMetric", **options), [(y_pred, y), (y_pred.float(), y.float())])


@pytest.mark.parametrize("labels", [[0.0, 1.5], [0.0, 7.0]])
def test_dice_of_labels_of_no_class(labels):
    y_pred, y = torch.tensor(labels)[torch.randint(2, (2, 3, 1, 6, 6))]
    assert_agree(*pair("DiceMetric", num_classes=4), [(y_pred, y)])


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("names", [True, ["liver", "tumour", "vessel"]])
def test_return_with_label(names):
    options = {"reduction": "mean_batch", "return_with_label": names, "include_background": names is not True}
    assert_agree(*pair("DiceMetric", **options), [multi_label((3, 3, 6, 6))])


@pytest.mark.parametrize("value", [0.3, -1.0, torch.nan])
@pytest.mark.parametrize("soft", ["prediction", "target"])
@pytest.mark.parametrize("name", ["ConfusionMatrixMetric", *OVERLAPS])
def test_soft_maps_take_monais_way(name, soft, value):
    y_pred, y = multi_label((3, 4, 8, 8))
    (y_pred if soft == "prediction" else y)[1, 2, 3] = value
    assert_agree(*pair(name), [(y_pred, y)])


@pytest.mark.filterwarnings("ignore:Voronoi")
def test_connected_components_take_monais_way():
    y = torch.zeros(2, 2, 12, 12)
    y[:, 1, 1:4, 1:4] = y[0, 1, 8:11, 8:11] = 1
    y[:, 0] = 1 - y[:, 1]
    assert_agree(*pair("DiceMetric", per_component=True), [(y.roll(1, -1), y)])


@pytest.mark.parametrize(
    ("name", "y_pred", "y"),
    [
        ("DiceMetric", torch.zeros(2, 3), torch.zeros(2, 3)),
        ("MeanIoU", torch.zeros(2, 3), torch.zeros(2, 3)),
        ("MeanIoU", torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)),
        ("ConfusionMatrixMetric", torch.zeros(2), torch.zeros(2)),
        ("ConfusionMatrixMetric", torch.zeros(2, 3, 4), torch.zeros(2, 4, 4)),
    ],
)
def test_errors_are_those_of_monai(name, y_pred, y):
    mine, theirs = pair(name)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        theirs(y_pred=y_pred, y=y)
    with pytest.raises(expected.type) as raised:
        mine(y_pred=y_pred, y=y)
    assert str(raised.value) == str(expected.value)
    with pytest.raises(ValueError, match="PyTorch Tensor"):
        mine.aggregate()


@pytest.mark.parametrize("average", ["macro", "weighted", "micro", "none"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 4)])
def test_area_under_the_roc_curve(shape, ties, average):
    mine, theirs = pair("ROCAUCMetric", average=average)
    for size in (shape[0], 7):
        y_pred, y = torch.rand(size, *shape[1:]), torch.randint(2, (size, *shape[1:]))
        y_pred = (y_pred * 5.0).round() if ties else y_pred
        for metric in (mine, theirs):
            metric(y_pred, y)
    actual, expected = mine.aggregate(), theirs.aggregate()
    assert actual == pytest.approx(expected, rel=1e-12)
    assert type(actual) is type(expected) or isinstance(actual, float)


@pytest.mark.parametrize("value", [0, 2])
def test_area_that_is_not_defined(value):
    mine, theirs = pair("ROCAUCMetric", average="none")
    y_pred, y = torch.rand(30, 3), torch.randint(2, (30, 3))
    y[:, 1] = value
    areas = []
    for metric in (mine, theirs):
        metric(y_pred, y)
        with pytest.warns(UserWarning, match="skip AUC computation"):
            areas.append(metric.aggregate())
    assert areas[0] == pytest.approx(areas[1], nan_ok=True)


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("ignored", [0, 1, 255])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", ["DiceMetric"])
def test_ignored_values_of_a_single_map(name, background, ignored):
    y_pred, y = torch.randint(2, (2, 3, 1, 6, 6)).float()
    assert_agree(*pair(name, include_background=background, ignore_index=ignored), [(y_pred, y)])


@pytest.mark.parametrize("ignored", [0, 1, 255])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", ["ConfusionMatrixMetric", "MeanIoU"])
def test_ignored_channel_of_a_single_map(name, background, ignored):
    y_pred, y = torch.randint(2, (2, 3, 1, 6, 6)).float()
    assert_agree(*pair(name, include_background=background, ignore_index=ignored), [(y_pred, y)])
