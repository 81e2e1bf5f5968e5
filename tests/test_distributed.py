"""Losses over a process group: ranks, each with its share, against one process with the union of what they have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Ranks, free_port, join_group
from torch import Tensor, distributed, multiprocessing, nn

import fastmed
from fastmed.validation import NORMALIZATIONS

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")

CLASSES = 3
SHAPE = (6, 5, 4)
Data = tuple[Tensor, Tensor]
Make = Callable[..., nn.Module]


def _labels(samples: int) -> Data:
    generator = torch.Generator().manual_seed(samples)
    target = torch.randint(CLASSES, (samples, 1, *SHAPE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return torch.randn(samples, CLASSES, *SHAPE, generator=generator), target


def _channels(samples: int) -> Data:
    """Dense targets with missing labels."""
    generator = torch.Generator().manual_seed(samples)
    target = torch.randint(2, (samples, CLASSES, *SHAPE), generator=generator).float()
    target[torch.rand(target.shape, generator=generator) < 0.2] = torch.nan
    return torch.randn(samples, CLASSES, *SHAPE, generator=generator), target


def _table(samples: int) -> Data:
    generator = torch.Generator().manual_seed(samples)
    target = torch.randint(2, (samples, 5), generator=generator).float()
    # One task without a label on a rank, one without any.
    target[0, 1] = target[:, 2] = torch.nan
    return torch.randn(samples, 5, generator=generator), target


def _balanced_dice_bce(**options: Any) -> nn.Module:
    return fastmed.DiceBCELoss(pos_weight="balanced", neg_weight="balanced", missing="ignore", **options)


def _compound(**options: Any) -> nn.Module:
    return fastmed.CompoundLoss([make(ignore_index=255, **options) for make in (fastmed.DiceLoss, fastmed.MCCLoss)])


def _ignoring(make: Make) -> Make:
    return lambda **options: make(ignore_index=255, **options)


POOLED: dict[str, tuple[Make, Callable[[int], Data]]] = {
    "dice + ce": (_ignoring(fastmed.DiceCELoss), _labels),
    "dice + focal": (_ignoring(fastmed.DiceFocalLoss), _labels),
    "generalised dice": (_ignoring(fastmed.GeneralizedDiceLoss), _labels),
    "jaccard": (_ignoring(fastmed.JaccardLoss), _labels),
    "unified focal": (_ignoring(fastmed.UnifiedFocalLoss), _labels),
    "cross entropy": (_ignoring(fastmed.CrossEntropyLoss), _labels),
    "compound": (_compound, _labels),
    "balanced dice + bce": (_balanced_dice_bce, _channels),
}


def _table_loss(normalize: str, process_group: Any) -> nn.Module:
    return fastmed.MultiTaskBCELoss("balanced", "balanced", normalize=normalize, process_group=process_group)


def _loss(name: str, **options: Any) -> nn.Module:
    if name in NORMALIZATIONS:
        return _table_loss(name, options.get("process_group"))
    return POOLED[name][0](pool="batch", **options)


def _data(name: str, samples: int) -> Data:
    return _table(samples) if name in NORMALIZATIONS else POOLED[name][1](samples)


def _step(loss: nn.Module, input: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    input = input.clone().requires_grad_()
    value = loss(input, target)
    value.sum().backward()
    assert input.grad is not None
    return value.detach().numpy(), input.grad.numpy()


def _share(rank: int, name: str, split: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    input, target = (tensor.split(split)[rank] for tensor in _data(name, sum(split)))
    return _step(_loss(name, process_group=distributed.group.WORLD), input, target)


def _assert_is_whole(
    results: list[tuple[np.ndarray, np.ndarray]], loss: nn.Module, data: Data, split: tuple[int, ...], dim: int
) -> None:
    value, gradient = _step(loss, *data)
    for (of_rank, share), expected in zip(results, torch.from_numpy(gradient).split(split, dim), strict=True):
        np.testing.assert_allclose(of_rank, value, rtol=2e-6)
        # Data-parallel training averages over the ranks, so each holds their number times its share.
        scale = max(abs(gradient).max(), 1e-12) * len(split)
        np.testing.assert_allclose(share / scale, expected.numpy() * len(split) / scale, atol=2e-6)


NAMES = [*POOLED, *NORMALIZATIONS]


@pytest.mark.parametrize("split", [(1, 3), (4, 0)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_of_unequal_batches(two: Ranks, name: str, split: tuple[int, ...]) -> None:
    results = two(_share, name, split)
    _assert_is_whole(results, _loss(name), _data(name, sum(split)), split, 0)


@pytest.mark.parametrize("split", [(2, 0, 1, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_four_ranks_of_unequal_batches(four: Ranks, name: str, split: tuple[int, ...]) -> None:
    results = four(_share, name, split)
    _assert_is_whole(results, _loss(name), _data(name, sum(split)), split, 0)


def _slab_loss(name: str, pool: str, reduction: str, slab_group: Any = None) -> nn.Module:
    return POOLED[name][0](pool=pool, reduction=reduction, slab_group=slab_group)


def _slab(rank: int, name: str, pool: str, reduction: str, split: tuple[int, ...], dim: int) -> Any:
    input, target = (tensor.split(split, dim)[rank] for tensor in POOLED[name][1](2))
    return _step(_slab_loss(name, pool, reduction, distributed.group.WORLD), input, target)


@pytest.mark.parametrize(("pool", "reduction"), [("sample", "mean"), ("sample", "none"), ("batch", "mean")])
@pytest.mark.parametrize(("split", "dim"), [((1, 5), 2), ((4, 0), 4), ((1, 2, 1, 1), 3)], ids=str)
@pytest.mark.parametrize("name", POOLED)
def test_slabs_of_a_volume(
    name: str, split: tuple[int, ...], dim: int, pool: str, reduction: str, request: pytest.FixtureRequest
) -> None:
    ranks: Ranks = request.getfixturevalue({2: "two", 4: "four"}[len(split)])
    results = ranks(_slab, name, pool, reduction, split, dim)
    _assert_is_whole(results, _slab_loss(name, pool, reduction), POOLED[name][1](2), split, dim)


def test_the_two_groups_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="slab_group: got one beside a process_group; allowed is one of the two"):
        fastmed.DiceLoss(pool="batch", process_group=object(), slab_group=object())
    with pytest.raises(ValueError, match="process_group: needs pool='batch', got pool='sample'"):
        fastmed.DiceLoss(process_group=object())


def _traffic(rank: int, classes: int) -> list[int]:
    """Bytes of each all-reduce of one step."""
    sent = []
    all_reduce = distributed.all_reduce

    def counted(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.nbytes)
        return all_reduce(tensor, *arguments, **options)

    distributed.all_reduce = counted
    try:
        loss = fastmed.DiceCELoss(pool="batch", process_group=distributed.group.WORLD)
        _step(loss, torch.randn(2, classes, *SHAPE), torch.randint(classes, (2, *SHAPE)))
    finally:
        distributed.all_reduce = all_reduce
    return sent


@pytest.mark.parametrize("classes", [2, 14])
def test_a_step_sends_the_sums_forward_and_their_gradient_back(two: Ranks, classes: int) -> None:
    for sent in two(_traffic, classes):
        assert len(sent) == 2
        # tp, pred, pred_sq, target, target_sq, weight, nll_pos of each class, float32.
        assert all(count <= 8 * classes * 4 for count in sent)


def _hard_counts(rank: int, split: tuple[int, ...]) -> np.ndarray:
    input, target = (tensor.split(split)[rank] for tensor in _labels(sum(split)))
    counts = torch.zeros(CLASSES, 4, dtype=torch.int64)
    loss = fastmed.DiceCELoss(pool="batch", ignore_index=255, process_group=distributed.group.WORLD)
    loss(input, target, hard_counts=counts)
    return counts.numpy()


def test_hard_counts_are_those_of_the_rank(two: Ranks) -> None:
    whole = torch.zeros(CLASSES, 4, dtype=torch.int64)
    fastmed.DiceCELoss(pool="batch", ignore_index=255)(*_labels(4), hard_counts=whole)
    counts = two(_hard_counts, (1, 3))
    np.testing.assert_array_equal(sum(counts), whole.numpy())
    assert (counts[0].sum(), counts[1].sum()) != (0, 0)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, CLASSES, 1))


def _pointwise() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 6, 1), nn.Tanh(), nn.Conv3d(6, CLASSES, 1))


def _images(samples: int) -> Data:
    generator = torch.Generator().manual_seed(7)
    image = torch.randn(samples, 1, *SHAPE, generator=generator)
    return image, ((image > 0.5).long() + (image > 1).long()).squeeze(1)


def _trained(network: nn.Module, loss: nn.Module, image: Tensor, target: Tensor) -> list[float]:
    """The loss of five steps."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        value = loss(network(image), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def _flat(network: nn.Module) -> np.ndarray:
    def whole(parameter: Tensor) -> Tensor:
        return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter

    return torch.cat([whole(parameter).detach().flatten() for parameter in network.parameters()]).numpy()


def _wrapped(network: nn.Module, how: str) -> nn.Module:
    if how == "DDP":
        return nn.parallel.DistributedDataParallel(network)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in network:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(network, mesh=mesh)


def _batch_training(rank: int, how: str, split: tuple[int, ...]) -> tuple[list[float], np.ndarray]:
    image, target = (tensor.split(split)[rank] for tensor in _images(sum(split)))
    network = _wrapped(_network(), how)
    loss = fastmed.DiceCELoss(pool="batch", process_group=distributed.group.WORLD)
    return _trained(network, loss, image, target), _flat(network)


def _slab_training(rank: int, how: str, split: tuple[int, ...]) -> tuple[list[float], np.ndarray]:
    image = _images(2)[0].split(split, 2)[rank]
    target = _images(2)[1].split(split, 1)[rank]
    network = _wrapped(_pointwise(), how)
    return _trained(network, fastmed.DiceCELoss(slab_group=distributed.group.WORLD), image, target), _flat(network)


@pytest.mark.parametrize("how", ["DDP", "FSDP2"])
@pytest.mark.parametrize("kind", ["batches", "slabs"])
def test_training_is_that_of_one_process_with_the_union(two: Ranks, how: str, kind: str) -> None:
    if kind == "batches":
        results = two(_batch_training, how, (1, 3))
        network, data = _network(), _images(4)
        loss = fastmed.DiceCELoss(pool="batch")
    else:
        results = two(_slab_training, how, (2, 4))
        network, data = _pointwise(), _images(2)
        loss = fastmed.DiceCELoss()
    untrained = _flat(network).copy()
    losses = _trained(network, loss, *data)
    trained = _flat(network)
    moved = abs(trained - untrained).max()
    assert moved > 0.01
    for of_rank, parameters in results:
        np.testing.assert_allclose(of_rank, losses, rtol=1e-5)
        np.testing.assert_allclose(parameters, trained, atol=1e-4 * moved)


def _faulty(rank: int, port: int, fault: str, results: Any) -> None:
    join_group(rank, 2, port, timeout=5)
    loss = fastmed.DiceCELoss(pool="batch", process_group=distributed.group.WORLD)
    _step(loss, *_images_and_logits())
    if rank == 1:
        if fault == "hangs":
            time.sleep(60)
        return
    start = time.perf_counter()
    try:
        _step(loss, *_images_and_logits())
    except RuntimeError as error:
        results.put((time.perf_counter() - start, str(error)))
    # What is left of the group would wait for the other rank.
    results.close()
    results.join_thread()


def _images_and_logits() -> Data:
    return torch.randn(1, CLASSES, *SHAPE), torch.randint(CLASSES, (1, *SHAPE))


@pytest.mark.parametrize("fault", ["stops", "hangs"])
def test_a_lost_rank_is_an_error_within_the_timeout(fault: str) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    port = free_port()
    ranks = [context.Process(target=_faulty, args=(rank, port, fault, results), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        seconds, message = results.get(timeout=60)
    finally:
        for process in ranks:
            process.kill()
    assert seconds < 15
    assert message.startswith("the sums of 2 ranks could not be added: a rank has stopped, or did not come to the same")
