"""What only a GPU can show: launches, synchronisation, graphs, streams, large volumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastmed
from fastmed.functional import confusion_counts

pytestmark = pytest.mark.gpu


def batch(shape: tuple[int, ...] = (2, 4, 48, 48, 48), dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    input = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), device="cuda", dtype=torch.uint8)
    return input, labels


def kernels(run: object) -> list[str]:
    """Names of the kernels, copies and fills that a function launches."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()  # type: ignore[operator]
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


def test_two_launches_forward_and_one_backward() -> None:
    input, labels = batch()
    loss = fastmed.DiceCELoss()
    loss(input, labels).backward()
    value = loss(input, labels)
    assert len(kernels(lambda: loss(input, labels))) == 2
    gradient = torch.ones((), device="cuda")
    assert len(kernels(lambda: torch.autograd.grad(value, input, gradient))) == 1


def test_no_synchronisation() -> None:
    input, labels = batch()
    fastmed.DiceCELoss()(input, labels).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fastmed.DiceCELoss()(input, labels).backward()
        confusion_counts(labels, labels, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def table(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    target = torch.randint(2, shape, device="cuda").float()
    return torch.randn(shape, device="cuda", requires_grad=True), target.masked_fill(target.roll(1, 0) > 0, torch.nan)


def test_a_small_table_is_one_launch_each_way() -> None:
    logits, target = table((64, 18))
    loss = fastmed.MultiTaskBCELoss("balanced", "balanced").cuda()
    value = loss(logits, target)
    value.backward(retain_graph=True)
    assert len(kernels(lambda: loss(logits, target))) == 1
    gradient = torch.ones((), device="cuda")
    assert len(kernels(lambda: torch.autograd.grad(value, logits, gradient))) == 1


@pytest.mark.parametrize("pos_weight", [[2.0] * 18, 3.0, "balanced", torch.full((18,), 2.0)], ids=repr)
def test_weights_of_tasks_do_not_wait_for_the_device(pos_weight: object) -> None:
    logits, target = table((300, 18))
    weight = pos_weight.cuda() if isinstance(pos_weight, Tensor) else pos_weight
    options = {"pos_weight": weight, "neg_weight": 1.0, "missing": "ignore"}
    fastmed.functional.multitask_bce_loss(logits, target, **options).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fastmed.functional.multitask_bce_loss(logits, target, **options).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_peak_memory_of_two_passes_is_one_gradient() -> None:
    input, labels = batch((2, 4, 96, 96, 96), torch.float32)
    loss = fastmed.UnifiedFocalLoss()
    loss(input, labels).backward()
    input.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(input, labels).backward()
    assert torch.cuda.max_memory_allocated() - before <= input.nbytes + (1 << 20)


def test_peak_memory_is_the_gradient() -> None:
    input, labels = batch((2, 4, 96, 96, 96), torch.float32)
    fastmed.DiceCELoss()(input, labels).backward()
    input.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fastmed.DiceCELoss()(input, labels).backward()
    assert torch.cuda.max_memory_allocated() - before <= input.nbytes + (1 << 20)


def test_cuda_graph() -> None:
    input, labels = batch()
    loss = fastmed.DiceCELoss()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(input, labels), input)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(input, labels)
        (gradient,) = torch.autograd.grad(value, input)
    with torch.no_grad():
        input.mul_(2.0)
    graph.replay()
    expected = loss(input, labels)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, input)[0], rtol=0, atol=0)


def test_cuda_graph_of_counts() -> None:
    _, labels = batch()
    prediction = labels.flip(0).contiguous()
    for _ in range(3):
        confusion_counts(prediction, labels, 4)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counts = confusion_counts(prediction, labels, 4)
    prediction.copy_(labels)
    graph.replay()
    assert torch.equal(counts, confusion_counts(labels, labels, 4))


def test_graphed_training_step() -> None:
    """`make_graphed_callables` captures forward and backward of a network with its loss."""
    network, loss = torch.nn.Conv3d(1, 4, 3, padding=1, device="cuda"), fastmed.DiceCELoss()
    image, labels = torch.randn(2, 1, 16, 16, 16, device="cuda"), batch((2, 4, 16, 16, 16))[1]

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor, labels: Tensor) -> Tensor:
            return loss(self.network(image), labels)

    loss(network(image), labels).backward()
    expected = network.weight.grad.clone()
    graphed = torch.cuda.make_graphed_callables(Step(), (image, labels))
    network.zero_grad()
    graphed(image, labels).backward()
    torch.testing.assert_close(network.weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_work_is_on_the_current_stream() -> None:
    """What another stream still writes is read only by work queued behind it."""
    input, labels = batch((1, 4, 64, 64, 64), torch.float32)
    loss = fastmed.DiceCELoss()
    expected = loss(input.detach() * 2.0, labels)
    counts = confusion_counts(input.detach(), labels, 4)
    torch.cuda.synchronize()
    stream, logits = torch.cuda.Stream(), torch.zeros_like(input)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        logits.copy_(input.detach() * 2.0)
        value, counted = loss(logits, labels), confusion_counts(logits, labels, 4)
    assert not stream.query()
    stream.synchronize()
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert torch.equal(counted, counts)


def test_streams_do_not_share_memory() -> None:
    """Two losses at once, each with the partial sums of its own."""
    batches, loss = [batch((2, 4, 32, 32, 32)) for _ in range(8)], fastmed.DiceCELoss()
    expected = [loss(*each) for each in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    for _ in range(20):
        values = []
        for stream, each in zip(streams, batches, strict=True):
            with torch.cuda.stream(stream):
                values.append(loss(*each))
        torch.cuda.synchronize()
        for value, wanted in zip(values, expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=0, atol=0)


def test_labels_out_of_range_without_synchronisation() -> None:
    input, labels = batch()
    labels[1, 0, 0, 0] = 4
    assert fastmed.DiceCELoss()(input, labels).isnan()
    with pytest.raises(ValueError, match="target: 1 labels are out of range"):
        fastmed.functional.dice_ce_loss(input, labels, validate=True)


def test_more_than_2_to_the_31_elements() -> None:
    voxels = (1 << 30) + 17
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    input = torch.zeros(1, 3, voxels, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.ones(1, voxels, device="cuda", dtype=torch.uint8)
    sums = fastmed.functional.region_sums(input, labels, activation="softmax", nll=False)
    assert sums.target[0].tolist() == [0.0, float(voxels), 0.0]
    torch.testing.assert_close(sums.tp[0, 1].item(), voxels / 3, rtol=1e-5, atol=0)
    assert confusion_counts(labels, labels, 2)[0].tolist() == [[0, 0], [0, voxels]]


def test_counts_equal_those_of_the_cpu() -> None:
    for classes in (2, 4, 40, 300):
        prediction = torch.randint(classes, (2, 33, 34, 35), dtype=torch.int16)
        target = torch.randint(classes, (2, 33, 34, 35), dtype=torch.int32)
        on_gpu = confusion_counts(prediction.cuda(), target.cuda(), classes)
        assert torch.equal(on_gpu.cpu(), confusion_counts(prediction.cpu(), target.cpu(), classes))
