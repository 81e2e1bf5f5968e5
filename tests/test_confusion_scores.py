"""Confusion counts straight from scores, by argmax or threshold, against torch, torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmed.functional import confusion_counts

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def name(dtype: torch.dtype) -> str:
    """Readable test id."""
    return str(dtype).removeprefix("torch.")


def by_argmax(input: Tensor, target: Tensor, num_classes: int, kept: Tensor | None = None) -> Tensor:
    """Counts of each sample by torch.argmax and torchmetrics."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    labels, target = input.argmax(1), target.to(torch.int64)
    if kept is not None:
        target = target.masked_fill(~kept, -7)
    pairs = zip(labels, target, strict=True)
    return torch.stack([multiclass_confusion_matrix(*pair, num_classes, ignore_index=-7) for pair in pairs])


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 14, 300])
def test_argmax(counting_backend: str, dtype: torch.dtype, num_classes: int) -> None:
    input = torch.randn(2, num_classes, 7, 11, 13).to(dtype)
    target = torch.randint(num_classes, (2, 7, 11, 13), dtype=torch.int16)
    counts = confusion_counts(input, target, num_classes, backend=counting_backend)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, by_argmax(input, target, num_classes))
    with_channel = confusion_counts(input, target.unsqueeze(1), num_classes, backend=counting_backend)
    assert torch.equal(with_channel, counts)


@pytest.mark.parametrize("voxels", [1, 2, 7, 8, 31, 2047, 2048, 2049, 40001])
def test_number_of_voxels(counting_backend: str, voxels: int) -> None:
    input, target = torch.randn(2, 5, voxels), torch.randint(5, (2, voxels), dtype=torch.uint8)
    assert torch.equal(confusion_counts(input, target, 5, backend=counting_backend), by_argmax(input, target, 5))


STRIDED = {
    "channels_last": lambda scores: scores.to(memory_format=torch.channels_last_3d),
    "sliced_classes": lambda scores: scores[:, 1:5],
    "every_other_sample": lambda scores: scores[::2],
    "sliced_voxels": lambda scores: scores[:, :, 1:-1, ::2, 3:],
    "transposed": lambda scores: scores.transpose(2, 4),
    "expanded_samples": lambda scores: scores[:1].expand(3, -1, -1, -1, -1),
    "expanded_voxels": lambda scores: scores[..., :1].expand(-1, -1, -1, -1, 6),
    "expanded_classes": lambda scores: scores[:, :1].expand(-1, 4, -1, -1, -1),
    "one_voxel": lambda scores: scores[:, :, 0, 0, 0],
    "offset": lambda scores: scores.flatten()[3 : 3 + 2 * 4 * 21].view(2, 4, 21),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("view", STRIDED.values(), ids=STRIDED.keys())
def test_strides(counting_backend: str, view, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    input = view(torch.randn(3, 5, 6, 7, 9).to(dtype))
    num_classes = input.shape[1]
    target = torch.randint(num_classes, (input.shape[0], *input.shape[2:]), dtype=torch.uint8)
    counts = confusion_counts(input, target, num_classes, backend=counting_backend)
    assert torch.equal(counts, by_argmax(input, target, num_classes))
    positive = target.unsqueeze(1) == torch.arange(num_classes).view(1, -1, *[1] * (input.ndim - 2))
    counts = confusion_counts(input, positive, num_classes, threshold=0.25, backend=counting_backend)
    assert torch.equal(counts, by_threshold(input, positive.double(), 0.25))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("num_classes", [3, 9])
def test_ties_nan_and_infinities(
    counting_backend: str, dtype: torch.dtype, num_classes: int, layout: torch.memory_format
) -> None:
    values = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1.0, torch.inf, torch.nan])
    choice = torch.randint(len(values), (2, num_classes, 50, 50))
    input = values[choice].to(dtype).to(memory_format=layout)
    target = torch.randint(num_classes, (2, 50, 50), dtype=torch.uint8)
    counts = confusion_counts(input, target, num_classes, backend=counting_backend)
    assert torch.equal(counts, by_argmax(input, target, num_classes))


def test_the_lowest_class_of_equal_scores_and_the_first_nan_win(counting_backend: str) -> None:
    nan, inf = torch.nan, torch.inf
    columns = [[0, 0, 0], [1, 2, 2], [-inf, -inf, -inf], [inf, nan, 0], [nan, inf, nan], [0, nan, nan]]
    input = torch.tensor(columns).T.unsqueeze(0)
    target = torch.arange(6).unsqueeze(0) % 3
    for voxel, label in enumerate((0, 1, 0, 1, 0, 1)):
        one = confusion_counts(input[..., [voxel]], target[:, [voxel]], 3, backend=counting_backend)
        assert one[0, voxel % 3, label] == one.sum() == 1


def test_every_half_precision_number_is_read_as_torch_reads_it(counting_backend: str) -> None:
    bits = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        numbers = bits.view(dtype)
        input = torch.stack([numbers, numbers[torch.randperm(1 << 16)], numbers.roll(1)]).unsqueeze(0)
        target = torch.randint(3, (1, 1 << 16), dtype=torch.uint8)
        counts = confusion_counts(input, target, 3, backend=counting_backend)
        assert torch.equal(counts, by_argmax(input, target, 3))
        positive = torch.randint(2, input.shape, dtype=torch.uint8)
        above = confusion_counts(input, positive, 3, threshold=[-1e-6, 0.3, 1e4], backend=counting_backend)
        threshold = torch.tensor([-1e-6, 0.3, 1e4], dtype=dtype).view(1, 3, 1)
        assert torch.equal(above, by_threshold(input, positive.double(), threshold))


def test_mask_ignore_index_and_pool(counting_backend: str) -> None:
    input, target = torch.randn(3, 4, 9, 10), torch.randint(4, (3, 9, 10))
    mask = torch.rand(3, 9, 10) < 0.7
    target[~mask] = 99
    input.transpose(0, 1)[:, ~mask] = torch.nan
    wanted = by_argmax(input, target, 4, mask & (target != 2))
    arguments = {"mask": mask, "ignore_index": 2, "backend": counting_backend}
    assert torch.equal(confusion_counts(input, target, 4, **arguments), wanted)
    assert torch.equal(confusion_counts(input, target, 4, pool="batch", **arguments), wanted.sum(0))


@pytest.mark.parametrize("num_classes", [4, 1000])
def test_pooled_table_of_cases(counting_backend: str, num_classes: int) -> None:
    input, target = torch.randn(500, num_classes), torch.randint(num_classes, (500,))
    counts = confusion_counts(input, target, num_classes, pool="batch", backend=counting_backend)
    from sklearn.metrics import confusion_matrix

    wanted = confusion_matrix(target, input.argmax(1), labels=range(num_classes))
    assert np.array_equal(counts.cpu(), wanted)


def by_threshold(input: Tensor, target: Tensor, threshold: float | Tensor, kept: Tensor | None = None) -> Tensor:
    """tn, fp, fn, tp of each sample and class by scikit-learn; a float64 target of 0 and 1, or NaN if missing."""
    from sklearn.metrics import multilabel_confusion_matrix

    n, c = input.shape[:2]
    positive = (input > threshold).reshape(n, c, -1)
    truth = target.reshape(n, c, -1)
    kept = ~truth.isnan() if kept is None else ~truth.isnan() & kept.expand(input.shape).reshape(n, c, -1)
    counts = torch.zeros(n, c, 4, dtype=torch.int64)
    for i in range(n):
        for j in range(c):
            voxels = kept[i, j]
            if voxels.any():
                pair = (truth[i, j, voxels].long().view(-1, 1), positive[i, j, voxels].long().view(-1, 1))
                # Two columns, because of one it would make a matrix for each label.
                table = multilabel_confusion_matrix(*[torch.cat([x, x], 1).numpy() for x in pair])[0]
                counts[i, j] = torch.from_numpy(table).flatten()
    return counts


TARGETS = (torch.bool, torch.uint8, torch.int16, torch.int64, *FLOATS)


@pytest.mark.parametrize("dtype", TARGETS, ids=name)
def test_multi_label_target_dtypes(counting_backend: str, dtype: torch.dtype) -> None:
    input = torch.randn(2, 3, 5, 6)
    target = torch.randint(2, input.shape).to(dtype)
    truth = target.double()
    if dtype not in (torch.bool, torch.uint8):
        target[0, :, 2] = -1
        truth[0, :, 2] = torch.nan
    if dtype.is_floating_point:
        target[1, 1, 0] = torch.nan
        truth[1, 1, 0] = torch.nan
    counts = confusion_counts(input, target, 3, threshold=0.1, backend=counting_backend)
    assert counts.shape == (2, 3, 4)
    assert torch.equal(counts, by_threshold(input, truth, 0.1))
    pooled = confusion_counts(input, target, 3, threshold=0.1, pool="batch", backend=counting_backend)
    assert torch.equal(pooled, counts.sum(0))


INPUTS = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, *FLOATS)


@pytest.mark.parametrize("dtype", INPUTS, ids=name)
def test_thresholds_for_each_class(counting_backend: str, dtype: torch.dtype) -> None:
    thresholds = [0.5, -3.0, 0.3, 1.0, 2.9999999999]
    values = torch.tensor([-3.0, 0.3, 0.5, 1.0, 3.0, 0.0]) if dtype != torch.uint8 else torch.arange(6)
    input = values[torch.randint(len(values), (2, 5, 70))].to(dtype)
    target = torch.randint(2, input.shape, dtype=torch.uint8)
    limits = torch.tensor(thresholds, dtype=dtype if dtype.is_floating_point else torch.float64).view(1, -1, 1)
    wanted = by_threshold(input, target.double(), limits)
    for threshold in (thresholds, torch.tensor(thresholds, dtype=torch.float64)):
        counts = confusion_counts(input, target, 5, threshold=threshold, backend=counting_backend)
        assert torch.equal(counts, wanted)


def test_a_threshold_is_compared_in_the_precision_of_the_input(counting_backend: str) -> None:
    for dtype in FLOATS:
        input = torch.tensor([[[0.3]]], dtype=dtype)
        counts = confusion_counts(input, torch.ones(1, 1, 1), 1, threshold=0.3, backend=counting_backend)
        assert counts.tolist() == [[[0, 0, 1, 0]]]
        assert not (input > 0.3).any()


def test_multi_label_matches_torchmetrics(counting_backend: str) -> None:
    from torchmetrics.functional.classification import multilabel_confusion_matrix

    input, target = torch.rand(64, 7), torch.randint(2, (64, 7))
    target[torch.rand(64, 7) < 0.2] = -1
    counts = confusion_counts(input, target, 7, threshold=0.4, pool="batch", backend=counting_backend)
    wanted = multilabel_confusion_matrix(input, target, 7, threshold=0.4, ignore_index=-1)
    assert torch.equal(counts.view(7, 2, 2), wanted)


def test_nan_is_above_no_threshold(counting_backend: str) -> None:
    for dtype in FLOATS:
        input = torch.full((1, 2, 3), torch.nan, dtype=dtype)
        counts = confusion_counts(input, torch.ones(1, 2, 3), 2, threshold=-1e3, backend=counting_backend)
        assert counts.tolist() == [[[0, 0, 3, 0]] * 2]


@pytest.mark.parametrize("per_class", [False, True])
def test_multi_label_mask_and_ignore_index(counting_backend: str, per_class: bool) -> None:
    input, target = torch.randn(2, 3, 8, 9), torch.randint(2, (2, 3, 8, 9)).float()
    mask = torch.rand(2, 3 if per_class else 1, 8, 9) < 0.6
    target[:, :, 1] = 7.0
    target.masked_fill_(~mask, 5.0)
    truth = target.double().masked_fill(target == 7, torch.nan)
    wanted = by_threshold(input, truth, 0.0, mask)
    for same in (mask,) if per_class else (mask, mask.squeeze(1)):
        arguments = {"threshold": 0.0, "mask": same, "ignore_index": 7, "backend": counting_backend}
        assert torch.equal(confusion_counts(input, target, 3, **arguments), wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float16], ids=name)
def test_multi_label_targets_out_of_range(counting_backend: str, dtype: torch.dtype) -> None:
    input = torch.ones(1, 2, 4)
    wrong = torch.tensor([[[0, 1, 2, 200], [1, 1, 0, 0]]]).to(dtype)
    message = r"target: got 2 for task 0 \(2 such values in all\), allowed are 0, 1, and NaN or -1 \(missing\)"
    with pytest.raises(ValueError, match=message):
        confusion_counts(input, wrong, 2, threshold=0.5, backend=counting_backend)
    counts = confusion_counts(input, wrong, 2, threshold=0.5, validate=False, backend=counting_backend)
    assert counts.tolist() == [[[0, 1, 0, 1], [0, 2, 0, 2]]]


def test_fractions_are_no_labels(counting_backend: str) -> None:
    with pytest.raises(ValueError, match=r"target: got 0\.5 for task 0 \(1 such values"):
        confusion_counts(torch.ones(1, 1, 2), torch.tensor([[[0.5, 1.0]]]), 1, threshold=0.5, backend=counting_backend)


def test_labels_out_of_range_beside_scores(counting_backend: str) -> None:
    with pytest.raises(ValueError, match=r"^target: 2 labels are out of range, allowed are 0 to 2$"):
        confusion_counts(torch.randn(1, 3, 4), torch.tensor([[0, 3, -1, 1]]), 3, backend=counting_backend)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 3, 0), (2, 3), (0, 3)])
@pytest.mark.parametrize("pool", ["sample", "batch"])
def test_few_voxels(counting_backend: str, shape: tuple[int, ...], pool: str) -> None:
    input, target = torch.randn(shape), torch.zeros(shape[0], *shape[2:], dtype=torch.uint8)
    voxels, samples = target.numel(), () if pool == "batch" else (shape[0],)
    counts = confusion_counts(input, target, 3, pool=pool, backend=counting_backend)
    assert counts.shape == (*samples, 3, 3)
    assert counts.sum() == voxels
    counts = confusion_counts(input, torch.zeros(shape), 3, threshold=0.0, pool=pool, backend=counting_backend)
    assert counts.shape == (*samples, 3, 4)
    assert counts.sum() == 3 * voxels


def test_several_threads_count_the_same(counting_backend: str) -> None:
    input, target = torch.randn(3, 4, 70_001), torch.randint(4, (3, 70_001), dtype=torch.uint8)
    wanted = by_argmax(input, target, 4)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for pool, counts in (("sample", wanted), ("batch", wanted.sum(0))):
                assert torch.equal(confusion_counts(input, target, 4, pool=pool, backend=counting_backend), counts)
    finally:
        torch.set_num_threads(before)


def test_constant_scores_count_exactly_beyond_float32(counting_backend: str) -> None:
    voxels = 2**24 + 1
    input = torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(1, 2, voxels)
    target = torch.zeros(1, 1, dtype=torch.uint8).expand(1, voxels)
    assert confusion_counts(input, target, 2, backend=counting_backend).tolist() == [[[0, voxels], [0, 0]]]


def test_scores_may_require_a_gradient(counting_backend: str) -> None:
    input = torch.randn(2, 3, 5, requires_grad=True)
    counts = confusion_counts(input, torch.zeros(2, 5, dtype=torch.uint8), 3, backend=counting_backend)
    assert not counts.requires_grad


def test_channels_must_be_the_classes() -> None:
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    for arguments in ({}, {"threshold": 0.5}):
        with pytest.raises(ValueError, match=r"input: got shape \(2, 3, 5\), allowed is \(N, 4, \*spatial\)"):
            confusion_counts(torch.randn(2, 3, 5), labels, 4, **arguments)
    with pytest.raises(ValueError, match=r"target: got shape \(2, 3, 5\), allowed is \(2, 5\) or \(2, 1, 5\)"):
        confusion_counts(torch.randn(2, 3, 5), torch.zeros(2, 3, 5, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match=r"target: got shape \(2, 5\), allowed is \(2, 3, 5\)"):
        confusion_counts(torch.randn(2, 3, 5), labels, 3, threshold=0.5)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (torch.nan, "threshold: got nan, allowed is a finite number"),
        ([0.0, torch.inf], "threshold: got inf, allowed is a finite number"),
        ([0.0, 0.0, 0.0], r"threshold: got shape \(3,\), allowed is one number or \(2,\)"),
        (torch.zeros(2, 1), r"threshold: got shape \(2, 1\), allowed is one number or \(2,\)"),
    ],
)
def test_thresholds_out_of_range(threshold: float | list[float] | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_counts(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), 2, threshold=threshold)


@pytest.mark.parametrize("threshold", [None, 0.5, [0.1, 0.2, 0.3]])
def test_compiles_without_a_graph_break(threshold: float | list[float] | None) -> None:
    input, labels = torch.randn(2, 3, 5, 4), torch.randint(3, (2, 5, 4))
    target = labels if threshold is None else (torch.rand(2, 3, 5, 4) < 0.5)

    def count(x: Tensor, pool: str) -> Tensor:
        return confusion_counts(x * 2.0, target, 3, threshold=threshold, mask=labels > 0, pool=pool) + 1

    compiled = torch.compile(count, fullgraph=True, backend="aot_eager")
    for pool in ("sample", "batch"):
        assert torch.equal(compiled(input, pool), count(input, pool))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_opcheck(backend: str) -> None:
    op = torch.ops.fastmed.confusion_counts
    input, labels, mask = torch.randn(2, 3, 40), torch.randint(3, (2, 40)), torch.rand(2, 40) < 0.5
    torch.library.opcheck(op, (input, labels, mask, 3, None, 1, False, None, backend))
    positive, thresholds = torch.randint(2, (2, 3, 40)), torch.zeros(3, dtype=torch.float64)
    torch.library.opcheck(op, (input, positive, None, 3, thresholds, None, True, None, backend))


@pytest.mark.gpu
@pytest.mark.parametrize("num_classes", [2, 4, 14, 100, 300])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_cuda_counts_scores_as_torch_does(dtype: torch.dtype, num_classes: int) -> None:
    input = torch.randn(3, num_classes, 5, 17, 101).mul(4).round().to(dtype)
    input[0, :, 1], input[1, -1, 2] = torch.nan, torch.nan
    target = torch.randint(num_classes, (3, 5, 17, 101), dtype=torch.int16)
    target[:, 2:4] = 1
    mask = torch.rand(3, 5, 17, 101) < 0.8
    wanted = by_argmax(input, target, num_classes, mask)
    for view in (lambda x: x, lambda x: x.to(memory_format=torch.channels_last_3d)):
        arguments = {"mask": mask.cuda(), "backend": "native"}
        counts = confusion_counts(view(input.cuda()), target.cuda(), num_classes, **arguments)
        assert torch.equal(counts.cpu(), wanted)
        pooled = confusion_counts(view(input.cuda()), target.cuda(), num_classes, pool="batch", **arguments)
        assert torch.equal(pooled.cpu(), wanted.sum(0))


@pytest.mark.gpu
@pytest.mark.parametrize("target_dtype", TARGETS, ids=name)
@pytest.mark.parametrize("dtype", INPUTS, ids=name)
def test_cuda_counts_labels_of_tasks(dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    input = torch.randn(3, 5, 9, 101).mul(3).to(dtype)
    target = torch.randint(2, input.shape).to(target_dtype)
    arguments = {"threshold": [0.0, 0.5, -1.0, 1.0, 2.0], "validate": False}
    mask = torch.rand(3, 9, 101) < 0.8
    wanted = confusion_counts(input, target, 5, mask=mask, backend="reference", **arguments)
    for view in (lambda x: x, lambda x: x.to(memory_format=torch.channels_last)):
        on_gpu = view(input.cuda()), view(target.cuda())
        counts = confusion_counts(*on_gpu, 5, mask=mask.cuda(), backend="native", **arguments)
        assert torch.equal(counts.cpu(), wanted)
