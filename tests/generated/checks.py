"""Holds a generated case to its definition; each check raises AssertionError with what was off."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import definitions
import numpy as np
import pytest
import torch
from cases import Case, CountCase, HistogramCase, RegionCase, simplest
from definitions import Sums, Voxels
from tensors import make
from torch import Tensor

from fastmed import Smooth, formulas, functional, ops, validation
from fastmed.contract import (
    BASIC,
    HARD_TP,
    NLL_NEG,
    NLL_POS,
    WEIGHT,
    LossWeights,
    RatioLinear,
    RegionInput,
    RegionSums,
    Wanted,
)

_LOSSES = {
    "dice": RatioLinear(),
    "dice ce": RatioLinear(lambda_nll=1.0, nll_mean="target", squared=False, first_class=1),
    "dice bce": RatioLinear(lambda_nll=0.7),
    "tversky": RatioLinear(1.0, 0.0, 0.3, 0.7, 1.0, 1.0, squared=False),
    "jaccard": RatioLinear(1.0, -1.0, 1.0, 1.0, 1e-2, 1e-2),
    "batch dice": RatioLinear(pool_batch=True, lambda_nll=1.0, nll_mean="voxels"),
    "balanced bce": RatioLinear(
        lambda_ratio=0.0, lambda_nll=1.0, nll_mean="task", balance_pos=True, balance_neg=True, pool_batch=True
    ),
    "focal": RatioLinear(lambda_ratio=0.0, lambda_nll=1.0),
    "sum": RatioLinear(mean=False, lambda_nll=0.3, smooth_numerator=1.0, smooth_denominator=1.0),
}


def _require(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


@contextlib.contextmanager
def _raising_if(invalid: int, validate: bool | None) -> Iterator[None]:
    """Labels out of range raise where they are looked at, and nothing else does."""
    if not invalid or validate is False:
        yield
        return
    with pytest.raises(ValueError, match=rf"\b{invalid} (labels are|such values in all)"):
        yield


def _precision(case: Case) -> torch.dtype:
    return torch.float64 if case.types[0] == "float64" else torch.float32


def _close(got: Tensor, exact: Tensor, allowed: Tensor, what: str, undefined: Tensor | None = None) -> None:
    """Within the tolerance where the definition is finite, and not finite where it is not.

    Where a neighbour is `undefined`, a result may be NaN as well: one that is finite is right.
    """
    _require(got.shape == exact.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(exact.shape)}")
    got, finite = got.double(), exact.isfinite()
    _require(not got[~finite].isfinite().any(), f"{what}: finite where the definition is {exact[~finite][:3].tolist()}")
    if undefined is not None:
        finite = finite & ~(undefined & got.isnan())
    error = (got - exact)[finite].abs()
    if not (error <= allowed[finite]).all():
        beyond = finite & ~((got - exact).abs() <= allowed)
        off, expected, within = (tensor[beyond][:3].tolist() for tensor in (got, exact, allowed))
        raise AssertionError(f"{what}: {off}, expected {expected} within {within} at {beyond.nonzero()[:3].tolist()}")


def _operands(case: RegionCase, input: Tensor, target: Tensor, mask: Tensor | None) -> RegionInput:
    if case.target != "uncertain":
        options = (case.activation, case.ignore_index, case.label_smoothing, case.gamma)
        return validation.region_input(input, target, mask, *options)
    values = (definitions.UNCERTAIN * case.classes)[: case.classes]
    return validation.binary_input(
        input,
        target,
        mask,
        ignore_index=case.ignore_index,
        missing=["ignore" if math.isnan(value) else Smooth(value, value) for value in values],
        label_smoothing=case.label_smoothing,
        gamma=case.gamma,
        pool_batch=bool(case.loss) and _LOSSES[case.loss].pool_batch,
    )


def _exact_and_rounded(case: RegionCase, of: Voxels) -> tuple[Sums, Sums]:
    """Sums in float64, and by torch at the precision that the input is computed in."""
    return definitions.region_sums(case, of, of.input.double()), definitions.region_sums(
        case, of, of.input.to(_precision(case))
    )


def _band(case: RegionCase, exact: Tensor, rounded: Tensor) -> Tensor:
    """Twice torch's own error, and 16 units in the last place: all terms of a sum have one sign.

    A logarithm of a probability is a difference of numbers of order 1, so it carries units of 1 as well.
    """
    error, eps = (rounded.double() - exact).abs().nan_to_num(0.0, 0.0, 0.0), torch.finfo(_precision(case)).eps
    band = 2 * error + 16 * eps * exact.abs() + 1e-30
    band[[NLL_POS, NLL_NEG]] += 8 * eps * exact[WEIGHT]
    return band


def region_sums(case: RegionCase) -> None:
    """The sums of one pass, and the counts of its hard prediction."""
    tensors = make(case)
    of = definitions.voxels(case, tensors)
    exact, rounded = _exact_and_rounded(case, of)
    wrong = exact.invalid > 0
    nll, soft, hard = case.wanted
    with _raising_if(int(exact.invalid.sum()), case.validate):
        got = ops.region_sums(_operands(case, *tensors), Wanted(nll, soft, hard), case.validate, case.backend)
        stacked = exact.stacked.masked_fill(wrong.view(1, -1, 1), math.nan)
        band = _band(case, stacked, rounded.stacked)
        undefined = ~stacked.isfinite().all(0).all(1, keepdim=True)
        has_nll = nll and case.activation is not None
        present = [True] * 5 + [has_nll, has_nll and case.activation == "sigmoid", True, soft, soft]
        there = [field is not None for field in got[: len(present)]]
        _require(there == present, f"fields that are there: {there}, expected {present}")
        rows = [row for row, is_there in enumerate(present) if is_there]
        names = ", ".join(RegionSums._fields[row] for row in rows)
        _close(torch.stack([got[row] for row in rows]), stacked[rows], band[rows], names, undefined)
        _require((got.counts is not None) == hard, "counts: present or not against the request")
        if got.counts is not None:
            tp, pred, target, total = stacked[HARD_TP:].unbind()
            counts = torch.stack([total - pred - target + tp, pred - tp, target - tp, tp], -1).nan_to_num(-1.0)
            _require(torch.equal(got.counts, counts.long()), f"counts: {got.counts.tolist()}, not {counts.tolist()}")


def _differentiate(case: RegionCase, of: Voxels, dtype: torch.dtype, by: Tensor) -> Tensor:
    leaf = of.input.detach().to(dtype).clone().requires_grad_()
    stacked = definitions.region_sums(case, of, leaf).stacked[: len(by)]
    # Not a product: of a sum that is not finite nothing may reach the other samples.
    return torch.autograd.grad(stacked, leaf, by.to(dtype), allow_unused=True, materialize_grads=True)[0].double()


def region_sums_backward(case: RegionCase) -> None:
    """The gradient of the input, as autograd asks for it."""
    tensors = make(case)
    of = definitions.voxels(case, tensors)
    invalid = definitions.region_sums(case, of, of.input.double()).invalid
    by = torch.randn(HARD_TP if case.wanted[1] else BASIC, case.samples, case.classes, dtype=torch.float64)
    with _raising_if(int(invalid.sum()), case.validate):
        leaf = tensors.input.detach().requires_grad_()
        operands = _operands(case, leaf, tensors.target, tensors.mask)
        sums = ops.region_sums(operands, Wanted(case.wanted[0], case.wanted[1]), case.validate, case.backend)
        rows = [(field, by[row]) for row, field in enumerate(sums[: len(by)]) if field is not None]
        given = [gradient.to(field.dtype) for field, gradient in rows]
        (got,) = torch.autograd.grad([field for field, _ in rows], leaf, given)
        present = torch.tensor([field is not None for field in sums[: len(by)]]).view(-1, 1, 1)
        _close_gradient(case, got, of, torch.where(present, by, 0.0))


def _close_gradient(case: RegionCase, got: Tensor, of: Voxels, by: Tensor) -> None:
    """Twice torch's own error, half a unit of the result's type, and what rounding of the terms makes of it."""
    exact = _differentiate(case, of, torch.float64, by)
    error = (_differentiate(case, of, _precision(case), by) - exact).abs().nan_to_num(0.0, 0.0, 0.0)
    result, compute = torch.finfo(got.dtype), torch.finfo(_precision(case))
    terms = by.abs().nan_to_num(0.0).sum()
    weight = of.mask.double().amax() if of.mask.numel() else 1.0
    allowed = 2 * error + result.eps * exact.abs() + result.tiny + 16 * compute.eps * terms * weight
    _require(got.dtype == of.input.dtype, f"gradient: {got.dtype}, expected {of.input.dtype}")
    got, undefined = got.reshape(exact.shape), ~exact.isfinite()
    if case.values != "nan":
        # Autograd multiplies 0 by an infinite logarithm, where the gradient has a limit.
        exact = torch.where(undefined, got.double(), exact)
        allowed = torch.where(undefined, math.inf, allowed)
    _close(got, exact, allowed, "gradient", undefined.any(1, keepdim=True))


def _loss_weights(case: RegionCase) -> LossWeights:
    return LossWeights(*(torch.rand(3, case.classes) + 0.1)) if case.weighted else LossWeights()


def region_loss(case: RegionCase) -> None:
    """The loss of a fused finaliser, and its gradient."""
    tensors = make(case)
    of = definitions.voxels(case, tensors)
    loss, weights = _LOSSES[case.loss], _loss_weights(case)
    exact, rounded = _exact_and_rounded(case, of)
    in_float64 = LossWeights(*(None if weight is None else weight.double() for weight in weights))

    def evaluate(sums: Sums) -> Tensor:
        stacked = sums.stacked.double().masked_fill((sums.invalid > 0).view(1, -1, 1), math.nan)
        return formulas.ratio_linear(_named(case, stacked), loss, in_float64)

    with _raising_if(int(exact.invalid.sum()), case.validate):
        leaf = tensors.input.detach().requires_grad_()
        operands = _operands(case, leaf, tensors.target, tensors.mask)
        got = ops.region_loss(operands, loss, weights, case.validate, case.backend)
        value = evaluate(exact)
        by = formulas.ratio_linear_gradient(_named(case, exact.stacked), loss, in_float64)
        eps, terms = torch.finfo(_precision(case)).eps, (by * exact.stacked[:BASIC]).abs().nan_to_num(0.0).sum()
        own = (evaluate(rounded) - value).abs()
        _close(got, value, 2 * own + 32 * eps * (terms + value.abs() + 1.0), "loss")
        if value.isfinite():
            (gradient,) = torch.autograd.grad(got, leaf)
            _close_gradient(case, gradient, of, by)


def _named(case: RegionCase, stacked: Tensor) -> RegionSums:
    return ops.unstack(stacked, None, case.activation or "none", Wanted())


def confusion_counts(case: CountCase) -> None:
    """Counts are exact."""
    tensors = make(case)
    of = definitions.voxels(case, tensors)
    thresholds = torch.randn(case.classes).tolist() if case.threshold == "each class" else [0.3] * case.classes
    expected, invalid = definitions.confusion_counts(case, of, thresholds)
    threshold = thresholds if case.threshold == "each class" else 0.3
    with _raising_if(invalid, case.validate):
        got = functional.confusion_counts(
            tensors.input,
            tensors.target,
            case.classes,
            ignore_index=case.ignore_index,
            mask=tensors.mask,
            threshold=threshold if case.kind == "threshold" else None,
            pool=case.pool,
            validate=case.validate,
            backend=case.backend,
        )
        _require(got.dtype == torch.int64, f"counts: {got.dtype}")
        _require(got.shape == expected.shape, f"counts: shape {tuple(got.shape)}, expected {expected.shape}")
        off = got.cpu().numpy() != expected
        _require(
            not off.any(), f"counts: {got.numpy()[off][:5]}, expected {expected[off][:5]} at {np.argwhere(off)[:5]}"
        )


def score_histogram(case: HistogramCase) -> None:
    """Counts are exact where scores are binned as they are; else a score next to an edge may fall on either side."""
    tensors = make(case)
    of = definitions.voxels(case, tensors)
    with _raising_if(definitions.unknown_labels(of), case.validate):
        got = functional.score_histogram(
            tensors.input,
            tensors.target,
            case.bins,
            activation=case.activation,
            spacing=case.spacing,
            limits=case.limits,
            mask=tensors.mask,
            validate=case.validate,
            backend=case.backend,
        )
        low, high = case.limits or ((0.0, 1.0) if case.spacing == "uniform" else (-16.0, 16.0))
        exact = (case.activation, case.spacing) in ((None, "uniform"), ("sigmoid", "logit"))
        for task in range(case.classes):
            for label in (0, 1):
                binned = definitions.scores_of(case, of, task, label)
                row = torch.cat([got.below[task, label, None], got.counts[task, label], got.above[task, label, None]])
                _require(int(got.nan[task, label]) == binned.nan, f"NaN scores: {int(got.nan[task, label])}")
                _close_counts(row.cpu().numpy(), binned.values, case.bins, low, high, exact)


def _close_counts(row: np.ndarray, values: np.ndarray, bins: int, low: float, high: float, exact: bool) -> None:
    if exact:
        expected = definitions.columns(values, bins, low, high)
        _require((row == expected).all(), f"bins: {row.tolist()}, expected {expected.tolist()}")
        return
    near = 2.0**-21 * max(high - low, abs(low), abs(high))
    edges, under = np.linspace(low, high, bins + 1), row.cumsum()
    fewest, most = (np.searchsorted(np.sort(values), edges + shift) for shift in (-near, near))
    _require(under[-1] == len(values), f"bins: {under[-1]} scores, expected {len(values)}")
    _require(((fewest <= under[:-1]) & (under[:-1] <= most)).all(), f"bins: {row.tolist()} of {values.tolist()}")


CHECKS = {
    check.__name__: check
    for check in (region_sums, region_sums_backward, region_loss, confusion_counts, score_histogram)
}


def problem(case: Case) -> str | None:
    """What is wrong in a case, or None."""
    try:
        CHECKS[case.op](case)  # type: ignore[operator]
    except AssertionError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def report(case: Case) -> str:
    """The case, a plainer one that fails too, and what is wrong in it."""
    plainest = simplest(case, lambda plainer: problem(plainer) is not None)
    return f"{problem(plainest)}\n    {plainest}\n    found as {case}"
