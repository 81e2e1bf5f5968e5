"""The table of cases: what is measured, and each library's way to compute it.

A provider is a function that computes the case from the tensors it was built with; the fastmed provider of each case
comes first, and every other must agree with it before anything is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import fastmed
from fastmed.functional import confusion_counts, rank_statistics, score_histogram
from fastmed.metrics.functional import auroc, bootstrap_interval, dice, fourfold

from .peers import prepare_smp

# What a call returns is compared: loss and gradient, counts, or figures.
Provider = Callable[[], tuple[Tensor, ...]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        work: what is computed.
        shape: of the logits (N, C, D, H, W) or (N, T), or of the label maps (N, D, H, W).
        classes: number of classes.
        dtype: of the logits; that of the target is in `work`.
        bytes_read_and_written: the least that the work must move, for the bandwidth column.
        providers: from a name to a function that makes the provider on a device.
        tolerance: by how much results may differ where they approximate one another; None = as the dtype says.
    """

    work: str
    shape: tuple[int, ...]
    classes: int
    dtype: torch.dtype
    bytes_read_and_written: int
    providers: dict[str, Callable[[torch.device], Provider]] = field(repr=False)
    tolerance: float | None = None

    @property
    def name(self) -> str:
        """Readable and unique."""
        return f"{self.work} {'x'.join(map(str, self.shape))} {str(self.dtype).removeprefix('torch.')}"


def _step(loss: Loss, input: Tensor, target: Tensor) -> Provider:
    """Forward and backward; returns loss and gradient."""

    def run() -> tuple[Tensor, ...]:
        input.grad = None
        value = loss(input, target)
        value.backward()
        assert input.grad is not None
        return value.detach(), input.grad

    return run


def _logits(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()


def _labels(shape: tuple[int, ...], classes: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(classes, shape, generator=generator).to(device)


def _loss_bytes(shape: tuple[int, ...], dtype: torch.dtype, target_channels: int) -> int:
    """Forward reads logits and target; backward reads both and writes the gradient."""
    n, c, *spatial = shape
    voxels = n * torch.Size(spatial).numel()
    return voxels * (3 * c * dtype.itemsize + 2 * target_channels)


def dice_bce(shape: tuple[int, ...], dtype: torch.dtype) -> Case:
    """Sigmoid Dice and binary cross entropy, fastmed from uint8 masks, the peers from the float masks they need."""

    def ours(device: torch.device) -> Provider:
        target = _labels(shape, 2, device).to(torch.uint8)
        return _step(fastmed.DiceBCELoss(), _logits(shape, dtype, device), target)

    def monai(compiled: bool) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            from monai.losses import DiceLoss

            dice = DiceLoss(sigmoid=True, squared_pred=True)

            def loss(input: Tensor, target: Tensor) -> Tensor:
                return dice(input, target) + F.binary_cross_entropy_with_logits(input, target)

            target = _labels(shape, 2, device).to(dtype)
            return _step(torch.compile(loss) if compiled else loss, _logits(shape, dtype, device), target)

        return make

    return Case(
        "sigmoid Dice + BCE",
        shape,
        1,
        dtype,
        _loss_bytes(shape, dtype, shape[1]),
        {"fastmed": ours, "MONAI + torch": monai(False), "MONAI + torch, compiled": monai(True)},
    )


def dice_ce(shape: tuple[int, ...], dtype: torch.dtype, *, compiled: bool = True) -> Case:
    """Softmax Dice and cross entropy from integer labels."""

    def ours(device: torch.device) -> Provider:
        labels = _labels((shape[0], 1, *shape[2:]), shape[1], device).to(torch.uint8)
        return _step(fastmed.DiceCELoss(), _logits(shape, dtype, device), labels)

    def monai(compile_it: bool) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            from monai.losses import DiceCELoss

            loss = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True)
            labels = _labels((shape[0], 1, *shape[2:]), shape[1], device)
            return _step(torch.compile(loss) if compile_it else loss, _logits(shape, dtype, device), labels)

        return make

    peers = {"MONAI": monai(False)}
    if compiled:
        peers["MONAI, compiled"] = monai(True)

    return Case(
        "softmax Dice + CE",
        shape,
        shape[1],
        dtype,
        _loss_bytes(shape, dtype, 1),
        {"fastmed": ours, **peers},
    )


def monai_loss(name: str, shape: tuple[int, ...], *, compiled: bool = True, **options: object) -> Case:
    """A loss of MONAI's beside its drop-in, softmax and labels: the same call but for the import."""
    options = {"softmax": True, "to_onehot_y": True, **options}

    def of(package: str, compile_it: bool = False) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            loss = getattr(importlib.import_module(package), name)(**options)
            labels = _labels((shape[0], 1, *shape[2:]), shape[1], device)
            labels = labels.to(torch.uint8) if package.startswith("fastmed") else labels
            return _step(torch.compile(loss) if compile_it else loss, _logits(shape, torch.float32, device), labels)

        return make

    peers = {"MONAI": of("monai.losses")}
    if compiled:
        peers["MONAI, compiled"] = of("monai.losses", True)
    work = f"{name}, C={shape[1]}"
    providers = {"fastmed": of("fastmed.compat.monai"), **peers}
    return Case(work, shape, shape[1], torch.float32, _loss_bytes(shape, torch.float32, 1), providers)


def nnunet_loss(shape: tuple[int, ...]) -> Case:
    """nnU-Net's loss of a 3D configuration, with its memory-efficient Dice, beside its drop-in."""

    def of(label_dtype: torch.dtype, *modules: str) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            compound, dice = (importlib.import_module(name) for name in modules)
            options = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
            loss = compound.DC_and_CE_loss(options, {}, dice_class=dice.MemoryEfficientSoftDiceLoss)
            labels = _labels((shape[0], 1, *shape[2:]), shape[1], device).to(label_dtype)
            return _step(loss, _logits(shape, torch.float32, device), labels)

        return make

    return Case(
        f"nnU-Net's DC_and_CE_loss, C={shape[1]}",
        shape,
        shape[1],
        torch.float32,
        _loss_bytes(shape, torch.float32, 1),
        {
            "fastmed": of(torch.int16, "fastmed.compat.nnunet", "fastmed.compat.nnunet"),
            "nnU-Net": of(torch.int64, "nnunetv2.training.loss.compound_losses", "nnunetv2.training.loss.dice"),
        },
    )


def smp_loss(shape: tuple[int, ...]) -> Case:
    """Dice of segmentation_models_pytorch, pooled over the batch, beside its drop-in."""

    def of(package: str) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            prepare_smp()
            loss = importlib.import_module(package).DiceLoss("multiclass")
            labels = _labels((shape[0], *shape[2:]), shape[1], device)
            return _step(loss, _logits(shape, torch.float32, device), labels)

        return make

    return Case(
        f"smp's DiceLoss, C={shape[1]}",
        shape,
        shape[1],
        torch.float32,
        _loss_bytes(shape, torch.float32, 1),
        {"fastmed": of("fastmed.compat.smp"), "smp": of("segmentation_models_pytorch.losses")},
    )


def training_step(shape: tuple[int, ...], classes: int) -> Case:
    """Forward and backward through a U-Net of MONAI's and its DiceCELoss or the drop-in; the bytes are the loss's."""

    def of(package: str) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            from monai.networks.nets import UNet

            torch.manual_seed(0)
            network = UNet(len(shape) - 2, shape[1], classes, channels=(8, 16, 32, 64), strides=(2, 2, 2)).to(device)
            loss = importlib.import_module(package).DiceCELoss(softmax=True, to_onehot_y=True)
            image, labels = _logits(shape, torch.float32, device).detach(), _labels(shape, classes, device)
            first, *_ = network.parameters()

            def run() -> tuple[Tensor, ...]:
                network.zero_grad()
                value = loss(network(image), labels)
                value.backward()
                assert first.grad is not None
                return value.detach(), first.grad

            return run

        return make

    return Case(
        f"training step of a U-Net, softmax Dice + CE, C={classes}",
        shape,
        classes,
        torch.float32,
        _loss_bytes((shape[0], classes, *shape[2:]), torch.float32, 1),
        {"fastmed": of("fastmed.compat.monai"), "MONAI": of("monai.losses")},
    )


def multitask_bce(shape: tuple[int, int], weighted: bool = False) -> Case:
    """Cross entropy of many tasks, a fifth of the labels missing: the sum over tasks of a mean over valid labels.

    Weighted, positives and negatives of each task have weights of their own.
    """

    def make(loss_of: Callable[[Tensor | None, Tensor | None], Loss]) -> Callable[[torch.device], Provider]:
        def of_device(device: torch.device) -> Provider:
            generator = torch.Generator().manual_seed(1)
            target = (torch.rand(shape, generator=generator) < 0.1).float()
            target[torch.rand(shape, generator=generator) < 0.2] = torch.nan
            pos = torch.linspace(0.5, 0.98, shape[1], device=device)
            loss = loss_of(pos, 1.0 - pos) if weighted else loss_of(None, None)
            return _step(loss, _logits(shape, torch.float32, device), target.to(device))

        return of_device

    def ours(pos: Tensor | None, neg: Tensor | None) -> Loss:
        return fastmed.MultiTaskBCELoss(pos, neg, reduction="sum")

    def weight(target: Tensor, pos: Tensor | None, neg: Tensor | None) -> Tensor | None:
        return None if pos is None or neg is None else torch.where(target == 1.0, pos, neg)

    def loop(pos: Tensor | None, neg: Tensor | None) -> Loss:
        def loss(input: Tensor, target: Tensor) -> Tensor:
            total = torch.zeros((), device=input.device)
            for task in range(input.shape[1]):
                mask = ~torch.isnan(target[:, task])
                if mask.sum() > 0:
                    labels = target[:, task][mask]
                    of_label = weight(labels, *(None if each is None else each[task] for each in (pos, neg)))
                    total = total + F.binary_cross_entropy_with_logits(input[:, task][mask], labels, of_label)
            return total

        return loss

    def vectorised(pos: Tensor | None, neg: Tensor | None) -> Loss:
        def loss(input: Tensor, target: Tensor) -> Tensor:
            mask = ~torch.isnan(target)
            labels, of_label = torch.where(mask, target, 0.0), weight(target, pos, neg)
            nll = F.binary_cross_entropy_with_logits(input, labels, of_label, reduction="none")
            return ((nll * mask).sum(0) / mask.sum(0).clamp(min=1)).sum()

        return loss

    return Case(
        f"multi-task BCE{', weighted' if weighted else ''}",
        shape,
        shape[1],
        torch.float32,
        20 * torch.Size(shape).numel(),
        {
            "fastmed": make(ours),
            "torchxrayvision's loop": make(loop),
            "torch, vectorised": make(vectorised),
            "torch, compiled": make(lambda pos, neg: torch.compile(vectorised(pos, neg))),
        },
    )


TABLES = ((64, 18), (4096, 194), (112120, 14))


def confusion(shape: tuple[int, ...], classes: int, constant: bool = False) -> Case:
    """Confusion matrices of two maps of uint8 labels (int64 where a library takes nothing else), pooled."""

    def maps(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if constant:
            labels = torch.ones(shape, dtype=dtype, device=device)
            return labels, labels.clone()
        target = _labels(shape, classes, device)
        noise = _labels((*shape[:-1], shape[-1] + 1), 10, device)[..., 1:] == 0
        prediction = torch.where(noise, (target + 1) % classes, target)
        return prediction.to(dtype), target.to(dtype)

    def ours(backend: str) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            prediction, target = maps(device, torch.uint8)
            return lambda: (confusion_counts(prediction, target, classes, pool="batch", backend=backend),)

        return make

    def bincount(device: torch.device) -> Provider:
        prediction, target = maps(device, torch.int64)

        def run() -> tuple[Tensor, ...]:
            cells = torch.bincount((target * classes + prediction).flatten(), minlength=classes**2)
            return (cells.view(classes, classes),)

        return run

    def torchmetrics(device: torch.device) -> Provider:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        prediction, target = maps(device, torch.int64)
        return lambda: (multiclass_confusion_matrix(prediction, target, classes),)

    def sklearn(device: torch.device) -> Provider:
        from sklearn.metrics import confusion_matrix

        prediction, target = (labels.flatten().numpy() for labels in maps(torch.device("cpu"), torch.uint8))
        return lambda: (torch.from_numpy(confusion_matrix(target, prediction, labels=range(classes))),)

    providers = {"fastmed": ours("auto"), "torch.bincount": bincount, "torchmetrics": torchmetrics}
    return Case(
        f"confusion matrix C={classes}{', one label' if constant else ''}",
        shape,
        classes,
        torch.uint8,
        2 * torch.Size(shape).numel(),
        {**providers, "fastmed, numba": ours("numba"), "scikit-learn": sklearn},
    )


def _scored(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of rare findings."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator) < 0.1
    scores = (torch.randn(shape, generator=generator) + target).sigmoid()
    return scores.to(device), target.to(device, dtype)


def _torchmetrics_auroc(shape: tuple[int, int]) -> Callable[[torch.device], Provider]:
    def make(device: torch.device) -> Provider:
        from torchmetrics.functional.classification import multilabel_auroc

        scores, target = _scored(shape, device, torch.int64)
        return lambda: (multilabel_auroc(scores, target, shape[1], average="none", validate_args=False),)

    return make


def exact_auroc(shape: tuple[int, int]) -> Case:
    """Area under the ROC curve of each task, from the ranks of all scores."""

    def ours(device: torch.device) -> Provider:
        scores, target = _scored(shape, device, torch.uint8)
        return lambda: (auroc(rank_statistics(scores, target)).value,)

    def sklearn(device: torch.device) -> Provider:
        from sklearn.metrics import roc_auc_score

        scores, target = (tensor.numpy() for tensor in _scored(shape, torch.device("cpu"), torch.uint8))
        return lambda: (torch.from_numpy(roc_auc_score(target, scores, average=None)),)

    return Case(
        "multi-label AUROC, exact",
        shape,
        shape[1],
        torch.float32,
        5 * torch.Size(shape).numel(),
        {"fastmed": ours, "scikit-learn": sklearn, "torchmetrics": _torchmetrics_auroc(shape)},
        tolerance=1e-5,
    )


def binned_auroc(shape: tuple[int, int], bins: int) -> Case:
    """The same from a histogram, beside torchmetrics' exact areas.

    Its binned ones compare every score with every edge at once, which a small machine has no memory for.
    """

    def ours(device: torch.device) -> Provider:
        scores, target = _scored(shape, device, torch.uint8)
        return lambda: (auroc(score_histogram(scores, target, bins)).value,)

    return Case(
        f"multi-label AUROC, {bins} bins",
        shape,
        shape[1],
        torch.float32,
        5 * torch.Size(shape).numel(),
        {"fastmed": ours, "torchmetrics, exact": _torchmetrics_auroc(shape)},
        tolerance=1e-4,
    )


def histogram(shape: tuple[int, ...], bins: int) -> Case:
    """Scores of tasks or classes by label and bin, beside the count of numbered cells that people write in torch."""

    def ours(device: torch.device) -> Provider:
        scores, target = _scored(shape, device, torch.uint8)
        return lambda: (score_histogram(scores, target, bins).counts,)

    def bincount(device: torch.device) -> Provider:
        scores, target = _scored(shape, device, torch.int64)
        task = torch.arange(shape[1], device=device).view(-1, *[1] * len(shape[2:]))

        def run() -> tuple[Tensor, ...]:
            cells = (2 * task + target) * bins + (scores * bins).long().clamp(max=bins - 1)
            return (torch.bincount(cells.flatten(), minlength=shape[1] * 2 * bins).view(shape[1], 2, bins),)

        return run

    return Case(
        f"score histogram, {bins} bins",
        shape,
        shape[1],
        torch.float32,
        5 * torch.Size(shape).numel(),
        {"fastmed": ours, "torch.bincount": bincount},
    )


def bootstrap(cases: int, classes: int, resamples: int) -> Case:
    """Intervals of the Dice of each class, pooled over cases, beside resampling by index in NumPy.

    Each draws its own resamples: with ten thousand of them the limits agree to a few hundredths of an interval.
    """
    shape = (cases, classes, 4)

    def counts(high: int = 400) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(1, high, shape, generator=generator)

    def ours(_: torch.device) -> Provider:
        table, generator = counts(), torch.Generator()

        def run() -> tuple[Tensor, ...]:
            generator.manual_seed(0)
            interval = bootstrap_interval(
                table, lambda pooled: dice(fourfold(pooled)), resamples=resamples, generator=generator
            )
            return (torch.stack(interval),)

        return run

    def by_index(_: torch.device) -> Provider:
        table = counts().numpy()

        def run() -> tuple[Tensor, ...]:
            random = np.random.default_rng(0)
            figures = np.empty((resamples, classes))
            for row in range(resamples):
                _, fp, fn, tp = table[random.integers(cases, size=cases)].sum(0).T
                figures[row] = 2 * tp / (2 * tp + fp + fn)
            return (torch.from_numpy(np.quantile(figures, [0.025, 0.975], axis=0)),)

        return run

    return Case(
        f"bootstrap of Dice, {resamples:,} resamples",
        shape,
        classes,
        torch.int64,
        counts().nbytes,
        {"fastmed": ours, "NumPy, by index": by_index},
        tolerance=2e-3,
    )


def confusion_of_logits(shape: tuple[int, ...], dtype: torch.dtype) -> Case:
    """From logits and uint8 labels to tp, fp, tn and fn of each class against the rest, pooled."""
    classes = shape[1]

    def operands(device: torch.device, label_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        labels = _labels((shape[0], *shape[2:]), classes, device).to(label_dtype)
        return _logits(shape, dtype, device).detach(), labels

    def one_versus_rest(matrix: Tensor) -> tuple[Tensor, ...]:
        tp = matrix.diagonal()
        fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
        return (torch.stack([tp, fp, matrix.sum() - tp - fp - fn, fn], 1),)

    def ours(backend: str) -> Callable[[torch.device], Provider]:
        def make(device: torch.device) -> Provider:
            input, labels = operands(device, torch.uint8)
            return lambda: one_versus_rest(confusion_counts(input, labels, classes, pool="batch", backend=backend))

        return make

    def torchmetrics(device: torch.device) -> Provider:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        input, labels = operands(device, torch.int64)
        return lambda: one_versus_rest(multiclass_confusion_matrix(input, labels, classes))

    def monai(device: torch.device) -> Provider:
        from monai.metrics import get_confusion_matrix
        from monai.networks.utils import one_hot

        input, labels = operands(device, torch.int64)

        def run() -> tuple[Tensor, ...]:
            prediction = one_hot(input.argmax(1, keepdim=True), classes)
            return (get_confusion_matrix(prediction, one_hot(labels.unsqueeze(1), classes)).sum(0).long(),)

        return run

    return Case(
        "confusion counts from logits",
        shape,
        classes,
        dtype,
        shape[0] * torch.Size(shape[2:]).numel() * (classes * dtype.itemsize + 1),
        {"fastmed": ours("auto"), "torchmetrics": torchmetrics, "MONAI": monai, "fastmed, numba": ours("numba")},
    )


def cpu_cases() -> Iterator[Case]:
    """What `make bench` measures."""
    for size in (96, 192):
        yield dice_bce((2, 1, size, size, size), torch.float32)
    for classes in (4, 14):
        yield dice_ce((2, classes, 96, 96, 96), torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        yield dice_ce((2, 4, 96, 96, 96), dtype)
    yield dice_ce((1, 105, 96, 96, 96), torch.float32, compiled=False)
    yield dice_ce((2, 4, 16, 16, 16), torch.float32)
    yield nnunet_loss((2, 4, 96, 96, 96))
    yield smp_loss((8, 4, 512, 512))
    for name in ("DiceFocalLoss", "GeneralizedDiceLoss", "TverskyLoss"):
        yield monai_loss(name, (2, 4, 96, 96, 96))
    # Compiled, MONAI's takes more memory than a small machine has.
    yield monai_loss("DiceFocalLoss", (1, 95, 96, 96, 96), compiled=False)
    yield training_step((1, 1, 96, 96, 96), 4)
    for table in TABLES:
        yield multitask_bce(table)
    for table in TABLES[:2]:
        yield multitask_bce(table, weighted=True)
    yield confusion((2, 128, 128, 128), 4)
    yield exact_auroc(TABLES[-1])
    yield binned_auroc(TABLES[-1], 1024)
    yield bootstrap(1000, 14, 10_000)
    yield confusion((2, 128, 128, 128), 4, constant=True)
    yield confusion_of_logits((2, 4, 96, 96, 96), torch.float32)


def gpu_cases() -> Iterator[Case]:
    """What `make gpu` measures."""
    for dtype in (torch.float32, torch.bfloat16):
        for size in (96, 192):
            yield dice_bce((2, 1, size, size, size), dtype)
            yield dice_ce((2, 4, size, size, size), dtype)
        yield dice_ce((2, 14, 96, 96, 96), dtype)
    for table in TABLES:
        yield multitask_bce(table)
    for table in TABLES[:2]:
        yield multitask_bce(table, weighted=True)
    volumes = (2, 128, 128, 128)
    cases = [confusion(volumes, 4), confusion(volumes, 4, constant=True)]
    cases += [confusion_of_logits((2, 4, 96, 96, 96), dtype) for dtype in (torch.float32, torch.bfloat16)]
    for case in cases:
        on_gpu = {name: make for name, make in case.providers.items() if name not in ("fastmed, numba", "scikit-learn")}
        yield replace(case, providers=on_gpu)
    yield binned_auroc(TABLES[-1], 1024)
    for shape in (TABLES[-1], (2, 4, 96, 96, 96)):
        yield histogram(shape, 1024)
