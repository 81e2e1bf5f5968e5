"""Confusion counts of every backend against scikit-learn, torchmetrics and arithmetic."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmed import dispatch
from fastmed.functional import confusion_counts

# scikit-learn up to 1.7 takes label maps of many classes for those of a regression.
pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes")

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
)
# Equal ones, what thresholds and argmax are compared with, and what compact label maps are.
PAIRS = [
    (input, target)
    for input, target in product(DTYPES, DTYPES)
    if input == target or input == torch.int64 or target == torch.uint8
]


def name(dtype: torch.dtype) -> str:
    """Readable test id."""
    return str(dtype).removeprefix("torch.")


def label_map(shape: tuple[int, ...], num_classes: int, dtype: torch.dtype = torch.int64, seed: int = 0) -> Tensor:
    """Random labels that the dtype can hold."""
    limit = 2 if dtype == torch.bool else min(num_classes, torch.iinfo(dtype).max + 1)
    return torch.randint(0, limit, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(input: Tensor, target: Tensor, num_classes: int, ignore_index: int | None = None) -> Tensor:
    """Counts of each sample by scikit-learn, without voxels that are ignored or out of range."""
    from sklearn.metrics import confusion_matrix

    counts = []
    for prediction, truth in zip(input.to(torch.int64).numpy(), target.to(torch.int64).numpy(), strict=True):
        kept = (prediction >= 0) & (prediction < num_classes) & (truth >= 0) & (truth < num_classes)
        if ignore_index is not None:
            kept &= truth != ignore_index
        classes = np.arange(num_classes)
        pair = (truth[kept], prediction[kept])
        empty = np.zeros((num_classes, num_classes), dtype=np.int64)
        counts.append(torch.from_numpy(confusion_matrix(*pair, labels=classes) if kept.any() else empty))
    return torch.stack(counts)


@pytest.mark.parametrize(("input_dtype", "target_dtype"), PAIRS, ids=name)
def test_dtypes(counting_backend: str, input_dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    input = label_map((2, 5, 7, 9), 4, input_dtype, seed=1)
    target = label_map((2, 5, 7, 9), 4, target_dtype, seed=2)
    counts = confusion_counts(input, target, 4, backend=counting_backend)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected(input, target, 4))


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 6, 17, 254, 255, 256, 300, 1000])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int64], ids=name)
def test_number_of_classes(counting_backend: str, num_classes: int, dtype: torch.dtype) -> None:
    input, target = (label_map((2, 41, 101), num_classes, dtype, seed) for seed in (1, 2))
    counts = confusion_counts(input, target, num_classes, backend=counting_backend)
    assert torch.equal(counts, expected(input, target, num_classes))


@pytest.mark.parametrize("ignore_index", [None, 2, 255, -1])
def test_matches_torchmetrics(counting_backend: str, ignore_index: int | None) -> None:
    input, target = (label_map((1, 31, 33), 4, seed=seed) for seed in (1, 2))
    if ignore_index is not None:
        target[torch.rand(target.shape) < 0.2] = ignore_index
    counts = confusion_counts(input, target, 4, ignore_index=ignore_index, backend=counting_backend)
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    assert torch.equal(counts[0], multiclass_confusion_matrix(input, target, 4, ignore_index=ignore_index))


@pytest.mark.parametrize("voxels", [1, 2, 3, 4, 5, 2047, 2048, 2049, 2051, 70001])
def test_number_of_voxels(counting_backend: str, voxels: int) -> None:
    input, target = (label_map((3, voxels), 4, torch.uint8, seed) for seed in (1, 2))
    assert torch.equal(confusion_counts(input, target, 4, backend=counting_backend), expected(input, target, 4))


STRIDED = {
    "sliced": lambda maps: maps[:, 1:-1, ::2, 3:],
    "every_other_sample": lambda maps: maps[::2],
    "transposed": lambda maps: maps.transpose(1, 3),
    "voxels_before_samples": lambda maps: maps.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "offset": lambda maps: maps.flatten()[3:-5].view(1, -1),
    "one_column": lambda maps: maps.flatten(1, 2)[..., 2],
    "expanded_samples": lambda maps: maps[:1].expand(3, -1, -1, -1),
    "expanded_voxels": lambda maps: maps[:, 0, 0, :1].expand(-1, 500),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=name)
@pytest.mark.parametrize("view", STRIDED.values(), ids=STRIDED.keys())
@pytest.mark.parametrize("both", [True, False], ids=["both", "input_only"])
def test_strides(counting_backend: str, view, dtype: torch.dtype, both: bool) -> None:  # type: ignore[no-untyped-def]
    input, target = (view(label_map((4, 8, 9, 11), 4, dtype, seed)) for seed in (1, 2))
    target = target if both else target.contiguous()
    assert torch.equal(confusion_counts(input, target, 4, backend=counting_backend), expected(input, target, 4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=name)
def test_constant_maps_count_exactly_beyond_float32(counting_backend: str, dtype: torch.dtype) -> None:
    voxels = 2**24 + 1
    labels = torch.ones((1, voxels), dtype=dtype)
    assert confusion_counts(labels, labels, 4, backend=counting_backend)[0].tolist() == [
        [0, 0, 0, 0],
        [0, voxels, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.slow
def test_counts_more_voxels_than_32_bits_number(request: pytest.FixtureRequest) -> None:
    row = next(row for row in dispatch.TABLE if row.name == "native")
    if (reason := dispatch.unavailable_reason(row)) is not None:
        pytest.skip(reason)
    voxels = 2**32 + 3
    labels = torch.ones((1, 1), dtype=torch.uint8).expand(1, voxels)
    # A thread counts in 32 bits for a while, so one thread has to see them all.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    assert confusion_counts(labels, labels, 2, backend="native").tolist() == [[[0, 0], [0, voxels]]]


@pytest.mark.parametrize(
    ("ignore_index", "dtype"),
    [
        (255, torch.uint8),
        (255, torch.int64),
        (2, torch.uint8),
        (0, torch.int16),
        (-1, torch.int8),
        (-1, torch.int64),
    ],
)
def test_ignored_voxels_are_not_counted(counting_backend: str, ignore_index: int, dtype: torch.dtype) -> None:
    input, target = (label_map((2, 63, 5), 4, dtype, seed) for seed in (1, 2))
    target[:, ::3] = ignore_index
    input[:, ::6] = torch.iinfo(dtype).max  # whatever was predicted there
    counts = confusion_counts(input, target, 4, ignore_index=ignore_index, backend=counting_backend)
    assert torch.equal(counts, expected(input, target, 4, ignore_index))


def test_ignore_index_that_the_dtype_cannot_hold_ignores_nothing(counting_backend: str) -> None:
    labels = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    assert confusion_counts(labels, labels, 256, ignore_index=-1, backend=counting_backend).sum() == 3


def test_one_hot_heavy_and_adversarial_maps(counting_backend: str) -> None:
    """Runs of every length, alternating labels, and single voxels of a class in a background of another."""
    runs = torch.repeat_interleave(torch.arange(60) % 5, torch.arange(60))
    alternating = torch.arange(1770) % 2 * 4
    rare = torch.zeros(1770, dtype=torch.int64)
    rare[torch.randint(1770, (7,))] = 3
    maps = torch.stack([runs, alternating, rare, torch.full_like(rare, 4)]).to(torch.uint8)
    input, target = maps.repeat_interleave(4, 0), maps.repeat(4, 1)
    assert torch.equal(confusion_counts(input, target, 5, backend=counting_backend), expected(input, target, 5))
    shifted = confusion_counts(input[:, 3:], target[:, 3:], 5, backend=counting_backend)
    assert torch.equal(shifted, expected(input[:, 3:], target[:, 3:], 5))


@pytest.mark.parametrize("num_classes", [4, 300])
def test_mask_and_ignore_index(counting_backend: str, num_classes: int) -> None:
    input, target = (label_map((3, 5, 7, 11), num_classes, torch.int16, seed) for seed in (1, 2))
    mask = torch.rand(3, 5, 7, 11) < 0.6
    target[~mask] = num_classes + 3  # whatever is there
    counts = confusion_counts(input, target, num_classes, mask=mask, ignore_index=1, backend=counting_backend)
    truth = target.masked_fill(~mask, 1)
    assert torch.equal(counts, expected(input, truth, num_classes, 1))
    strided = mask.transpose(1, 3).contiguous().transpose(1, 3)
    for same in (mask.unsqueeze(1), mask.to(torch.uint8) * 3, mask.float(), strided):
        again = confusion_counts(input, target, num_classes, mask=same, ignore_index=1, backend=counting_backend)
        assert torch.equal(again, counts)


@pytest.mark.parametrize("num_classes", [3, 300])
@pytest.mark.parametrize("shape", [(5, 700), (40, 3, 2), (3000,)])
def test_pooled_counts_are_the_sum(counting_backend: str, num_classes: int, shape: tuple[int, ...]) -> None:
    input, target = (label_map(shape, num_classes, torch.int16, seed) for seed in (1, 2))
    pooled = confusion_counts(input, target, num_classes, pool="batch", backend=counting_backend)
    flat = input.view(1, -1), target.view(1, -1)
    assert torch.equal(pooled, expected(*flat, num_classes)[0])


def test_pooled_labels_out_of_range_are_an_error(counting_backend: str) -> None:
    target = torch.tensor([[0, 1], [4, 7]])
    with pytest.raises(ValueError, match="2 labels are out of range"):
        confusion_counts(torch.zeros_like(target), target, 4, pool="batch", backend=counting_backend)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 6, 300])
@pytest.mark.parametrize("ignore_index", [None, 555])
def test_labels_out_of_range_are_an_error(counting_backend: str, ignore_index: int | None, num_classes: int) -> None:
    # With every prediction: each pair has a cell of its own.
    labels = torch.tensor([0, 1, num_classes - 1, num_classes, 2 * num_classes, 555, -3])
    input, target = torch.cartesian_prod(labels, labels).T.unsqueeze(1)
    outside = (target < 0) | (target >= num_classes) | (input < 0) | (input >= num_classes)
    wrong = int((outside & (target != ignore_index)).sum())
    allowed = rf"{wrong} labels are out of range, allowed are 0 to {num_classes - 1}"
    with pytest.raises(ValueError, match=allowed):
        confusion_counts(input, target, num_classes, ignore_index=ignore_index, backend=counting_backend)


def test_predictions_out_of_range_are_an_error(counting_backend: str) -> None:
    target = torch.tensor([[0, 1, 2, 3]])
    with pytest.raises(ValueError, match=r"1 labels are out of range"):
        confusion_counts(torch.tensor([[0, 1, -1, 3]]), target, 4, backend=counting_backend)


@pytest.mark.parametrize("num_classes", [2, 4, 5, 6, 200, 300])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=name)
def test_labels_out_of_range_are_left_out(counting_backend: str, dtype: torch.dtype, num_classes: int) -> None:
    limits = torch.iinfo(dtype)
    edges = {
        limits.min,
        -num_classes,
        -2,
        -1,
        0,
        1,
        num_classes - 1,
        num_classes,
        num_classes + 1,
        limits.max,
    }
    values = sorted(value for value in edges if limits.min <= value <= limits.max)
    pairs = torch.tensor(list(product(values, values)))
    input, target = (pairs[:, i].repeat(7).unsqueeze(0).to(dtype) for i in (0, 1))
    counts = confusion_counts(input, target, num_classes, validate=False, backend=counting_backend)
    assert torch.equal(counts, expected(input, target, num_classes))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 0, 4), (3,)])
def test_few_voxels(counting_backend: str, shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape, dtype=torch.uint8)
    counts = confusion_counts(labels, labels, 3, backend=counting_backend)
    assert counts.shape == (shape[0], 3, 3)
    assert counts.sum() == labels.numel()


def test_samples_are_counted_apart(counting_backend: str) -> None:
    input, target = (label_map((200, 1000), 3, torch.uint8, seed) for seed in (1, 2))
    counts = confusion_counts(input, target, 3, backend=counting_backend)
    assert torch.equal(counts, expected(input, target, 3))
    assert torch.equal(confusion_counts(input[17:18], target[17:18], 3, backend=counting_backend), counts[17:18])


def test_several_threads_count_the_same(counting_backend: str) -> None:
    input, target = (label_map((3, 100_003), 5, torch.uint8, seed) for seed in (1, 2))
    wanted = expected(input, target, 5)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(confusion_counts(input, target, 5, backend=counting_backend), wanted)
    finally:
        torch.set_num_threads(before)


def test_is_safe_from_several_python_threads(counting_backend: str) -> None:
    input, target = (label_map((2, 150_000), 5, torch.uint8, seed) for seed in (1, 2))
    wanted = expected(input, target, 5)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(confusion_counts, input, target, 5, backend=counting_backend) for _ in range(32)]
    assert all(torch.equal(future.result(), wanted) for future in futures)


def _count_in_child(input: Tensor, target: Tensor, backend: str, queue) -> None:  # type: ignore[no-untyped-def]
    queue.put(confusion_counts(input, target, 5, backend=backend).tolist())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
def test_is_safe_in_a_forked_child(counting_backend: str) -> None:
    if counting_backend == "reference":
        pytest.skip("torch's own threads do not survive a fork")
    input, target = (label_map((2, 150_000), 5, torch.uint8, seed) for seed in (1, 2))
    wanted = confusion_counts(input, target, 5, backend=counting_backend).tolist()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_count_in_child, args=(input, target, counting_backend, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == wanted


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"target: got shape \(2, 6\), allowed is \(2, 5\)"):
        confusion_counts(torch.zeros(2, 5, dtype=torch.uint8), torch.zeros(2, 6, dtype=torch.uint8), 2)
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"mask: got shape \(2, 6\), allowed is \(2, 5\) or \(2, 1, 5\)"):
        confusion_counts(labels, labels, 2, mask=torch.ones(2, 6))
    with pytest.raises(ValueError, match=r"input: got a single label"):
        confusion_counts(torch.tensor(1), torch.tensor(1), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=name)
def test_target_labels_must_be_integers(dtype: torch.dtype) -> None:
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    with pytest.raises(TypeError, match=rf"target: got {dtype}, allowed is an integer or bool dtype"):
        confusion_counts(labels, labels.to(dtype), 2)


def test_complex_numbers_are_neither_labels_nor_scores() -> None:
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"input: got torch\.complex64, allowed are bool, integer and floating"):
        confusion_counts(labels.to(torch.complex64), labels, 2)


def test_pool_is_sample_or_batch() -> None:
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="pool: got 'mean', allowed are 'sample', 'batch'"):
        confusion_counts(labels, labels, 2, pool="mean")


@pytest.mark.parametrize("num_classes", [-1, 0, 1])
def test_at_least_two_classes(num_classes: int) -> None:
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"num_classes: got {num_classes}, allowed is 2 or more"):
        confusion_counts(labels, labels, num_classes)


@pytest.mark.gpu
@pytest.mark.parametrize("num_classes", [2, 4, 17, 100, 300])
@pytest.mark.parametrize("input_dtype", DTYPES[1:], ids=name)
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int16, torch.int64], ids=name)
def test_cuda_counts_as_the_cpu_does(num_classes: int, input_dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    input = label_map((3, 5, 77, 101), num_classes, input_dtype, seed=1)
    target = label_map((3, 5, 77, 101), num_classes, target_dtype, seed=2)
    target[:, 2:4] = 1
    target[:, :, 5] = torch.iinfo(target_dtype).max
    arguments = {"num_classes": num_classes, "ignore_index": 0, "validate": False}
    wanted = expected(input, target, num_classes, 0)
    for view in (lambda maps: maps, lambda maps: maps[:, 1:, 3:], lambda maps: maps[..., 5]):
        a, b = view(input.cuda()), view(target.cuda())
        counts = confusion_counts(a, b, backend="native", **arguments)
        assert torch.equal(counts.cpu(), expected(view(input), view(target), num_classes, 0))
    assert torch.equal(confusion_counts(input.cuda(), target.cuda(), backend="native", **arguments).cpu(), wanted)


@pytest.mark.gpu
def test_cuda_counts_constant_maps_exactly() -> None:
    voxels = 2**25 + 3
    for num_classes in (2, 14, 300):
        labels = torch.ones((1, voxels), dtype=torch.uint8, device="cuda")
        counts = confusion_counts(labels, labels, num_classes, backend="native")
        assert counts[0, 1, 1] == counts.sum() == voxels
