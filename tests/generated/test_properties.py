"""What must hold whatever the numbers are, on drawn shapes, labels and weights: no definition is needed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from under_test import backends

import fastmed
from fastmed.contract import RegionSums
from fastmed.functional import confusion_counts, region_sums, score_histogram
from fastmed.metrics import functional as metrics

# Draws of one test; Triton's interpreter takes as long for one as the others for a hundred.
_DRAWS, _DRAWS_OF_TRITON = 60, 2
_EPS = torch.finfo(torch.float32).eps


class Volume(NamedTuple):
    """Logits (N, C, V), labels (N, V), a mask (N, 1, V) and how the logits are read."""

    logits: Tensor
    labels: Tensor
    mask: Tensor
    activation: str
    backend: str

    def sums(self) -> RegionSums:
        """The sums of the volume."""
        return region_sums(*self[:2], mask=self.mask, activation=self.activation, backend=self.backend)


def _volume(source: random.Random, backend: str) -> Volume:
    samples, classes = source.randint(1, 3), source.choice((2, 3, 5, 9, 17))
    voxels = source.choice((1, 2, 7, 31, 64, 129, 1025))
    logits = torch.randn(samples, classes, voxels) * source.choice((0.1, 1.0, 5.0))
    labels = torch.randint(classes, (samples, voxels))
    mask = torch.rand(samples, 1, voxels) < source.choice((0.5, 1.0))
    return Volume(logits, labels, mask, source.choice(("softmax", "sigmoid")), backend)


def _same(a: RegionSums, b: RegionSums, error: float = 32 * _EPS) -> None:
    """Equal but for the order of additions: all terms of a sum have one sign, and are at most as large as it."""
    for name, left, right in zip(RegionSums._fields, a, b, strict=True):
        assert (left is None) == (right is None), name
        if left is not None and right is not None:
            allowed = error * torch.maximum(left.abs(), a.weight)
            assert ((left - right).abs() <= allowed).all(), name


def _each(sums: RegionSums, change: Callable[[Tensor], Tensor]) -> RegionSums:
    return RegionSums._make(None if field is None else change(field) for field in sums)


def order_of_voxels(volume: Volume) -> None:
    """Voxels in another order have the same sums."""
    order = torch.randperm(volume.labels.shape[1])
    logits, labels, mask = (tensor[..., order] for tensor in volume[:3])
    _same(volume.sums(), volume._replace(logits=logits, labels=labels, mask=mask).sums())


def order_of_samples(volume: Volume) -> None:
    """Samples in another order have the same sums, each its own."""
    order = torch.randperm(len(volume.labels))
    logits, labels, mask = (tensor[order] for tensor in volume[:3])
    moved = volume._replace(logits=logits, labels=labels, mask=mask)
    _same(_each(volume.sums(), lambda field: field[order]), moved.sums())


def order_of_classes(volume: Volume) -> None:
    """Classes in another order have the same sums, each its own."""
    order = torch.randperm(volume.logits.shape[1])
    moved = volume._replace(logits=volume.logits[:, order], labels=order.argsort()[volume.labels])
    _same(_each(volume.sums(), lambda field: field[:, order]), moved.sums())


def pieces_add(volume: Volume) -> None:
    """The sums of two pieces of a volume add up to those of the whole."""
    at = int(torch.randint(volume.labels.shape[1] + 1, ()))
    cut = [[tensor[..., part] for tensor in volume[:3]] for part in (slice(at), slice(at, None))]
    left, right = (Volume(*piece, *volume[3:]).sums() for piece in cut)
    both = RegionSums._make(None if a is None else a + b for a, b in zip(left, right, strict=True))
    _same(volume.sums(), both)


def weights_scale(volume: Volume) -> None:
    """Doubled weights double every sum, to the bit."""
    labels = volume.labels.to(torch.uint8)
    once, twice = (volume._replace(labels=labels, mask=volume.mask * weight).sums() for weight in (1.0, 2.0))
    for left, right in zip(once, twice, strict=True):
        assert left is right is None or torch.equal(left * 2, right)


def ignored_is_removed(volume: Volume) -> None:
    """Ignored labels, masked voxels and voxels that are not there are the same."""
    kept = volume.mask[0, 0]
    ignored = volume.labels.masked_fill(~kept, 255)
    options = {"activation": volume.activation, "backend": volume.backend}
    _same(
        region_sums(volume.logits, ignored, ignore_index=255, **options),
        region_sums(volume.logits[..., kept], volume.labels[:, kept], **options),
    )


def labels_are_one_hot(volume: Volume) -> None:
    """A label map is its channels of 0 and 1."""
    dense = torch.nn.functional.one_hot(volume.labels, volume.logits.shape[1]).movedim(-1, 1)
    _same(volume.sums(), volume._replace(labels=dense.float()).sums())


def background_dropped_is_class_removed(volume: Volume) -> None:
    """Of sigmoids, Dice without the background is Dice of the other classes."""
    if volume.logits.shape[1] == 2:
        return
    dense = torch.nn.functional.one_hot(volume.labels, volume.logits.shape[1]).movedim(-1, 1).float()
    dropped = fastmed.DiceLoss("sigmoid", include_background=False, backend=volume.backend)
    whole = fastmed.DiceLoss("sigmoid", backend=volume.backend)
    a, b = dropped(volume.logits, dense, volume.mask), whole(volume.logits[:, 1:], dense[:, 1:], volume.mask)
    assert abs(a - b) <= 64 * _EPS


def shifted_softmax(volume: Volume) -> None:
    """A number added to all classes of a voxel does not change a softmax."""
    softmax = volume._replace(activation="softmax")
    # A multiple of 2^-10 below 8, added to such multiples, is exact.
    logits, shift = ((tensor * 1024).round() / 1024 for tensor in (volume.logits, torch.rand(volume.labels.shape) * 8))
    moved = softmax._replace(logits=logits + shift.unsqueeze(1))
    _same(softmax._replace(logits=logits).sums(), moved.sums())


def two_classes_are_a_sigmoid(volume: Volume) -> None:
    """A softmax of two classes is the sigmoid of their difference."""
    pair, labels = (volume.logits[:, :2] * 1024).round() / 1024, (volume.labels == 1).long()
    softmax = volume._replace(logits=pair, labels=labels, activation="softmax").sums()
    difference, target = pair[:, 1:] - pair[:, :1], labels.unsqueeze(1).float()
    sigmoid = volume._replace(logits=difference, labels=target, activation="sigmoid").sums()
    for name in ("tp", "pred", "pred_sq", "target", "nll_pos", "weight"):
        left, right = getattr(softmax, name)[:, 1:], getattr(sigmoid, name)
        assert ((left - right).abs() <= 32 * _EPS * torch.maximum(left.abs(), sigmoid.weight)).all(), name


def mirrored_sigmoid(volume: Volume) -> None:
    """Of opposite logits and targets, positives and negatives change places."""
    dense = (torch.rand(volume.logits.shape) < 0.3).float()
    sigmoid = volume._replace(labels=dense, activation="sigmoid")
    there, back = sigmoid.sums(), sigmoid._replace(logits=-volume.logits, labels=1 - dense).sums()
    assert there.nll_pos is not None
    assert back.nll_neg is not None
    allowed = 32 * _EPS * torch.maximum(there.nll_pos.abs(), there.weight)
    assert ((there.nll_pos - back.nll_neg).abs() <= allowed).all()
    assert ((there.pred - (back.weight - back.pred)).abs() <= 32 * _EPS * there.weight).all()


def identical_masks(volume: Volume) -> None:
    """Dice and Jaccard of a mask and itself lose nothing."""
    dense = torch.nn.functional.one_hot(volume.labels, volume.logits.shape[1]).movedim(-1, 1).float()
    for loss in (fastmed.DiceLoss, fastmed.JaccardLoss):
        assert loss(activation=None, backend=volume.backend)(dense, dense, volume.mask).item() == 0.0


def gradient_of_a_constant_shift(volume: Volume) -> None:
    """The gradients of a softmax add up to nothing over the classes of a voxel."""
    logits = volume.logits.clone().requires_grad_()
    fastmed.DiceCELoss(backend=volume.backend)(logits, volume.labels, volume.mask).backward()
    assert logits.grad is not None
    assert (logits.grad.sum(1).abs() <= 32 * _EPS * (1 + logits.grad.abs().amax(1))).all()


def _maps(volume: Volume) -> tuple[Tensor, Tensor, int]:
    """Predicted and true labels, and the number of classes."""
    return volume.logits.argmax(1), volume.labels, volume.logits.shape[1]


def counts_of_pieces_add(volume: Volume) -> None:
    """Counts of two pieces add, and pooled counts are those of all samples."""
    prediction, labels, classes = _maps(volume)
    options = {"num_classes": classes, "backend": volume.backend}
    whole, at = confusion_counts(prediction, labels, **options), labels.shape[1] // 3
    left = confusion_counts(prediction[:, :at], labels[:, :at], **options)
    right = confusion_counts(prediction[:, at:], labels[:, at:], **options)
    assert torch.equal(left + right, whole)
    assert torch.equal(confusion_counts(prediction, labels, pool="batch", **options), whole.sum(0))


def counts_of_scores_are_those_of_their_labels(volume: Volume) -> None:
    """The largest score is the label, and counts turned over are those of target and prediction exchanged."""
    prediction, labels, classes = _maps(volume)
    counts = confusion_counts(volume.logits, labels, classes, backend=volume.backend)
    assert torch.equal(counts, confusion_counts(prediction, labels, classes, backend=volume.backend))
    assert torch.equal(counts.mT, confusion_counts(labels, prediction, classes, backend=volume.backend))


def perfect_prediction(volume: Volume) -> None:
    """Of a map and itself nothing is off the diagonal, and Dice is 1 where a class is there."""
    _, labels, classes = _maps(volume)
    table = metrics.one_versus_rest(confusion_counts(labels, labels, classes, backend=volume.backend).sum(0))
    assert (table.fp == 0).all()
    assert (table.fn == 0).all()
    assert (metrics.dice(table)[table.tp > 0] == 1).all()


def accuracy_from_its_parts(volume: Volume) -> None:
    """Accuracy is sensitivity times prevalence plus specificity times the rest."""
    prediction, labels, classes = _maps(volume)
    table = metrics.one_versus_rest(confusion_counts(prediction, labels, classes, backend=volume.backend).sum(0))
    prevalence = metrics.prevalence(table)
    parts = metrics.sensitivity(table).nan_to_num() * prevalence
    parts = parts + metrics.specificity(table).nan_to_num() * (1 - prevalence)
    torch.testing.assert_close(metrics.accuracy(table), parts, rtol=1e-12, atol=1e-12)


def _scored(volume: Volume) -> tuple[Tensor, Tensor]:
    return volume.logits.sigmoid(), (torch.rand(volume.logits.shape) < 0.3).float()


def bins_merge(volume: Volume) -> None:
    """Two neighbours of twice as many bins are one bin."""
    scores, target = _scored(volume)
    fine, coarse = (score_histogram(scores, target, bins, backend=volume.backend).counts for bins in (64, 32))
    assert torch.equal(fine.unflatten(-1, (32, 2)).sum(-1), coarse)


def histograms_of_pieces_add(volume: Volume) -> None:
    """Histograms of two pieces add, and every score is counted once."""
    scores, target = _scored(volume)
    whole, at = score_histogram(scores, target, 16, backend=volume.backend), scores.shape[2] // 3
    left = score_histogram(scores[..., :at], target[..., :at], 16, backend=volume.backend)
    right = score_histogram(scores[..., at:], target[..., at:], 16, backend=volume.backend)
    for a, b, both in zip(left[:4], right[:4], whole[:4], strict=True):
        assert torch.equal(a + b, both)
    assert sum(int(field.sum()) for field in whole[:4]) == target.numel()


PROPERTIES = {
    "region_sums": (
        order_of_voxels,
        order_of_samples,
        order_of_classes,
        pieces_add,
        weights_scale,
        ignored_is_removed,
        labels_are_one_hot,
        background_dropped_is_class_removed,
        shifted_softmax,
        two_classes_are_a_sigmoid,
        mirrored_sigmoid,
        identical_masks,
        gradient_of_a_constant_shift,
    ),
    "confusion_counts": (
        counts_of_pieces_add,
        counts_of_scores_are_those_of_their_labels,
        perfect_prediction,
        accuracy_from_its_parts,
    ),
    "score_histogram": (bins_merge, histograms_of_pieces_add),
}


def _parameters() -> list[object]:
    parameters = []
    for op, properties in PROPERTIES.items():
        for backend in backends(op):
            (name,) = backend.values  # type: ignore[attr-defined]
            for check in properties:
                mark = backend.marks  # type: ignore[attr-defined]
                parameters.append(pytest.param(op, check, name, marks=mark, id=f"{check.__name__}-{name}"))
    return parameters


@pytest.mark.parametrize(("op", "check", "backend"), _parameters())
def test_holds(
    op: str, check: Callable[[Volume], None], backend: str, record_property: Callable[[str, object], None]
) -> None:
    source, draws = random.Random(check.__name__), _DRAWS_OF_TRITON if backend == "triton" else _DRAWS
    for _ in range(draws):
        check(_volume(source, backend))
    record_property("property", [op, check.__doc__, backend, draws])
