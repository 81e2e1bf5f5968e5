"""The operators a compiler sees: torch.library schemas, fakes and autograd around the backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from . import dispatch, formulas
from .contract import (
    BASIC,
    EXTRA_COLUMNS,
    HARD_TP,
    STATISTICS,
    Backend,
    Bins,
    CountInput,
    LossWeights,
    RankStatistics,
    RatioLinear,
    RegionInput,
    RegionSums,
    Request,
    Scored,
    Wanted,
    changed,
)

_OPERANDS = (
    "Tensor input, Tensor target, Tensor? mask, str activation, int? ignore_index, Tensor? uncertain, "
    "float label_smoothing, float gamma"
)
_library = torch.library.Library("fastmed", "DEF")
_library.define(
    f"region_sums({_OPERANDS}, bool nll, bool soft, bool hard, bool? validate, str backend) -> (Tensor, Tensor)"
)
_library.define(
    f"region_sums_backward({_OPERANDS}, Tensor gradient, Tensor? scale, str backend) -> Tensor",
)
_PASSES = (
    "Tensor input, Tensor target, Tensor? mask, str[] activation, int? ignore_index, Tensor? uncertain, "
    "float[] label_smoothing, float[] gamma"
)
_library.define(
    f"region_passes({_PASSES}, bool[] nll, bool[] soft, bool hard, bool? validate, str backend) -> (Tensor, Tensor)"
)
_library.define(f"region_passes_backward({_PASSES}, Tensor gradient, bool[] soft, str backend) -> Tensor")
_library.define(
    f"region_loss({_OPERANDS}, Tensor? region_weight, Tensor? nll_pos_weight, Tensor? nll_neg_weight, "
    "float[] loss, bool? validate, str backend) -> (Tensor, Tensor)"
)
_library.define(
    "confusion_counts(Tensor input, Tensor target, Tensor? mask, int num_classes, Tensor? threshold, "
    "int? ignore_index, bool pooled, bool? validate, str backend) -> Tensor"
)
_library.define(
    "score_histogram(Tensor scores, Tensor target, Tensor? mask, str transform, int bins, float low, float high, "
    "bool? validate, str backend) -> Tensor"
)
_library.define("rank_statistics(Tensor scores, Tensor target, Tensor? mask, bool? validate, str backend) -> Tensor")


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the sums and losses for logits of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unstack(stacked: Tensor, counts: Tensor | None, activation: str, wanted: Wanted) -> RegionSums:
    """The stacked sums by name; statistics that were not computed become None."""
    tp, pred, pred_sq, target, target_sq, nll_pos, nll_neg, weight, tp_sq, difference = stacked[:HARD_TP].unbind(0)
    has_nll = wanted.nll and activation != "none"
    return RegionSums(
        tp,
        pred,
        pred_sq,
        target,
        target_sq,
        nll_pos if has_nll else None,
        nll_neg if has_nll and activation == "sigmoid" else None,
        weight,
        tp_sq if wanted.soft else None,
        difference if wanted.soft else None,
        counts if wanted.hard else None,
    )


def _hard_counts(stacked: Tensor) -> Tensor:
    """Hard counts (N, C, 4) = tn, fp, fn, tp; -1 in a sample with labels out of range."""
    tp, pred, target, total = stacked[HARD_TP:].unbind(0)
    counts = torch.stack([total - pred - target + tp, pred - tp, target - tp, tp], dim=-1)
    return counts.nan_to_num(-1.0).to(torch.int64)


def _select(operands: RegionInput, backend: str) -> Backend:
    input, target = operands.input, operands.target
    return dispatch.select(
        Request("region_sums", input.device.type, input.dtype, target.dtype, input.shape[1]), backend
    )


def _is_reported(invalid: Tensor, validate: bool | None) -> bool:
    """Whether labels out of range raise: at once where looking costs no device synchronisation, or if asked."""
    looked_at = invalid.is_cpu if validate is None else validate
    return looked_at and any(invalid.tolist())


def _raise_out_of_range(argument: str, count: int, num_classes: int, ignore_index: int | None) -> NoReturn:
    extra = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
    raise ValueError(f"{argument}: {count} labels are out of range, allowed are 0 to {num_classes - 1}{extra}")


def _raise_unknown(target: Tensor, known: Tensor, count: int, allowed: str) -> NoReturn:
    """Names task and value of the first label (N, T, V) that is not known."""
    sample, task, voxel = (~known).nonzero()[0].tolist()
    value = target[sample, task, voxel].item()
    raise ValueError(f"target: got {value:g} for task {task} ({count} such values in all), allowed are {allowed}")


def _raise_not_soft(operands: RegionInput, count: int) -> NoReturn:
    target = operands.target.to(torch.float64)
    known = ((target >= 0) & (target <= 1)) | target.isnan() | (target == -1)
    if operands.ignore_index is not None:
        known |= target == operands.ignore_index
    if operands.mask is not None:
        known |= operands.mask == 0
    _raise_unknown(target, known, count, "0 to 1, NaN (missing) and -1 (uncertain)")


def _raise_not_binary(target: Tensor, mask: Tensor | None, ignore_index: int | None, count: int) -> NoReturn:
    target, allowed = target.to(torch.float64), "0, 1, and NaN or -1 (missing)"
    known = (target == 0) | (target == 1) | target.isnan() | (target == -1)
    if ignore_index is not None:
        known |= target == ignore_index
        allowed += f", or {ignore_index} (ignore_index)"
    if mask is not None:
        known |= ~mask
    _raise_unknown(target, known, count, allowed)


def _raise_invalid(operands: RegionInput, count: int) -> NoReturn:
    if operands.uncertain is not None:
        _raise_not_soft(operands, count)
    _raise_out_of_range("target", count, operands.input.shape[1], operands.ignore_index)


def _as_table(tensor: Tensor) -> Tensor:
    rows, columns = tensor.shape
    by_row, by_column = tensor.stride()
    # One view instead of the two of a transposition and a new dimension: this is the path of small batches.
    return tensor.as_strided((1, columns, rows), (rows * by_row, by_column, by_row))


def _as_volume(operands: RegionInput) -> RegionInput:
    """The operands as kernels see them: the rows of a table (N, C) are the voxels of one sample."""
    if operands.input.ndim > 2:
        return operands
    input, target, mask = operands[:3]
    mask = mask if mask is None else _as_table(mask)
    return operands._replace(input=_as_table(input), target=_as_table(target), mask=mask)


def _operands(arguments: Sequence[Any]) -> RegionInput:
    return _as_volume(RegionInput(*arguments))


def _of_table(gradient: Tensor, input: Tensor) -> Tensor:
    """The gradient of an input in its shape, from that of the input as backends see it."""
    if input.ndim == 3:
        return gradient
    _, by_column, by_row = gradient.stride()
    return gradient.as_strided(input.shape, (by_row, by_column))


_FIELDS = len(RegionInput._fields)


def _region_sums(*arguments: Any) -> tuple[Tensor, Tensor]:
    *fields, nll, soft, hard, validate, backend = arguments
    operands = _operands(fields)
    stacked, invalid = _select(operands, backend).region_sums(operands, Wanted(nll, soft, hard))
    if _is_reported(invalid, validate):
        _raise_invalid(operands, int(invalid.sum()))
    counts = _hard_counts(stacked) if hard else stacked.new_empty(0, dtype=torch.int64)
    return stacked.to(sums_dtype(operands.input.dtype)), counts


def _region_sums_backward(*arguments: Any) -> Tensor:
    *fields, gradient, scale, backend = arguments
    operands = _operands(fields)
    return _of_table(_select(operands, backend).region_sums_backward(operands, gradient, scale), arguments[0])


def _each_pass(arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The operands of each of several passes over the same tensors."""
    input, target, mask, activations, ignore_index, uncertain, smoothings, gammas = arguments[:_FIELDS]
    return [
        (input, target, mask, activation, ignore_index, uncertain, smoothing, gamma)
        for activation, smoothing, gamma in zip(activations, smoothings, gammas, strict=True)
    ]


def _region_passes(*arguments: Any) -> tuple[Tensor, Tensor]:
    nll, soft, hard, validate, backend = arguments[_FIELDS:]
    results: list[tuple[Tensor, Tensor]] = []
    for fields, *wanted in zip(_each_pass(arguments), nll, soft, strict=True):
        # All passes have the same hard target, and labels out of range.
        is_first = not results
        results.append(_region_sums(*fields, *wanted, hard and is_first, validate if is_first else False, backend))
    return torch.stack([stacked for stacked, _ in results]), results[0][1]


def _region_passes_backward(*arguments: Any) -> Tensor:
    gradient, soft, backend = arguments[_FIELDS:]
    total: Tensor | None = None
    for fields, by_sums, has_soft in zip(_each_pass(arguments), gradient, soft, strict=True):
        operands, rows = _operands(fields), HARD_TP if has_soft else BASIC
        total = _select(operands, backend).region_sums_backward(operands, by_sums[:rows], None, total)
    assert total is not None
    return _of_table(total, arguments[0])


def _region_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    operands = _operands(arguments[:_FIELDS])
    region, pos, neg, numbers, validate, backend = arguments[_FIELDS:]
    loss, weights = RatioLinear.of_numbers(tuple(numbers)), LossWeights(region, pos, neg)
    chosen = _select(operands, backend)
    fused = getattr(chosen, "region_loss", None)
    if fused is not None:
        value, gradient, invalid = fused(operands, loss, weights)
    else:
        wanted = Wanted(nll=loss.lambda_nll != 0)
        stacked, invalid = chosen.region_sums(operands, wanted)
        sums = unstack(stacked, None, operands.activation, wanted)
        value = formulas.ratio_linear(sums, loss, weights)
        gradient = formulas.ratio_linear_gradient(sums, loss, weights)
    if _is_reported(invalid, validate):
        _raise_invalid(operands, int(invalid.sum()))
    dtype = sums_dtype(operands.input.dtype)
    return (value, gradient) if value.dtype == gradient.dtype == dtype else (value.to(dtype), gradient.to(dtype))


def _raise_not_counted(operands: CountInput, count: int) -> NoReturn:
    if operands.threshold is not None:
        _raise_not_binary(operands.target, operands.mask, operands.ignore_index, count)
    argument = "target" if operands.input.ndim == 3 else "input or target"
    _raise_out_of_range(argument, count, operands.num_classes, operands.ignore_index)


def _confusion_counts(*arguments: Any) -> Tensor:
    *fields, validate, backend = arguments
    operands = CountInput(*fields)
    input, target = operands.input, operands.target
    request = Request("confusion_counts", input.device.type, input.dtype, target.dtype, operands.num_classes)
    counts, invalid = dispatch.select(request, backend).confusion_counts(operands)
    if _is_reported(invalid, validate):
        _raise_not_counted(operands, int(invalid.sum()))
    return counts


def _scored(scores: Tensor, target: Tensor, mask: Tensor | None) -> Scored:
    """The operands as backends see them: the rows of a table (N, T) are the voxels of one sample."""
    if scores.ndim == 2:
        return Scored(_as_table(scores), _as_table(target), None if mask is None else _as_table(mask))
    return Scored(scores, target, mask)


def _score_histogram(
    scores: Tensor,
    target: Tensor,
    mask: Tensor | None,
    transform: str,
    bins: int,
    low: float,
    high: float,
    validate: bool | None,
    backend: str,
) -> Tensor:
    operands = _scored(scores, target, mask)
    request = Request("score_histogram", scores.device.type, scores.dtype, target.dtype, scores.shape[1])
    chosen = dispatch.select(request, backend)
    counts, invalid = chosen.score_histogram(operands, Bins(transform, bins, low, high))
    if _is_reported(invalid, validate):
        _raise_not_binary(operands.target, operands.mask, None, int(invalid.sum()))
    return counts


def _rank_statistics(
    scores: Tensor, target: Tensor, mask: Tensor | None, validate: bool | None, backend: str
) -> Tensor:
    operands = _scored(scores, target, mask)
    request = Request("rank_statistics", scores.device.type, scores.dtype, target.dtype, scores.shape[1])
    stacked, invalid = dispatch.select(request, backend).rank_statistics(operands)
    if _is_reported(invalid, validate):
        _raise_not_binary(operands.target, operands.mask, None, int(invalid.sum()))
    undefined = stacked[_U].isnan()
    if _is_reported(undefined, validate):
        raise ValueError(
            f"scores: got NaN for task {undefined.tolist().index(True)}, allowed are numbers, which have a rank; "
            "give those labels a mask of False to leave them out"
        )
    return stacked


_U = RankStatistics._fields.index("u")


for _name, _body in {
    "region_sums": _region_sums,
    "region_sums_backward": _region_sums_backward,
    "region_passes": _region_passes,
    "region_passes_backward": _region_passes_backward,
    "region_loss": _region_loss,
    "confusion_counts": _confusion_counts,
    "score_histogram": _score_histogram,
    "rank_statistics": _rank_statistics,
}.items():
    _library.impl(_name, _body, "CompositeExplicitAutograd")


def _stacked(input: Tensor, rows: int) -> Tensor:
    samples = input.shape[0] if input.ndim == 3 else 1
    return input.new_empty((rows, samples, input.shape[1]), dtype=sums_dtype(input.dtype))


@torch.library.register_fake("fastmed::region_sums")
def _(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    stacked, hard = _stacked(input, STATISTICS), arguments[-3]
    return stacked, input.new_empty((*stacked.shape[1:], 4) if hard else (0,), dtype=torch.int64)


@torch.library.register_fake("fastmed::region_passes")
def _(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    stacked, hard = _stacked(input, STATISTICS), arguments[-3]
    counts = input.new_empty((*stacked.shape[1:], 4) if hard else (0,), dtype=torch.int64)
    return stacked.new_empty((len(arguments[2]), *stacked.shape)), counts


@torch.library.register_fake("fastmed::region_sums_backward")
@torch.library.register_fake("fastmed::region_passes_backward")
def _(input: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("fastmed::region_loss")
def _(input: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor]:
    return input.new_empty((), dtype=sums_dtype(input.dtype)), _stacked(input, BASIC)


@torch.library.register_fake("fastmed::confusion_counts")
def _(*arguments: Any) -> Tensor:
    operands = CountInput(*arguments[:-2])
    return operands.target.new_empty(operands.counts_shape, dtype=torch.int64)


@torch.library.register_fake("fastmed::score_histogram")
def _(scores: Tensor, target: Tensor, mask: Tensor | None, transform: str, bins: int, *_arguments: Any) -> Tensor:
    return scores.new_empty((scores.shape[1], 2, bins + EXTRA_COLUMNS), dtype=torch.int64)


@torch.library.register_fake("fastmed::rank_statistics")
def _(scores: Tensor, *_arguments: Any) -> Tensor:
    return scores.new_empty((len(RankStatistics._fields), scores.shape[1]), dtype=torch.float64)


class _Below(NamedTuple):
    """An operator below autograd: where the dispatcher would go on to."""

    op: Any
    body: Callable[..., Any]
    keys: Any

    def run(self, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            # A detour over the dispatcher costs more than the arithmetic on a small batch. It leads elsewhere than
            # to the body only under fake tensors, tracing, tensor subclasses, function transforms and the like.
            is_last = (self.keys & _BELOW_AUTOGRAD).highestPriorityTypeId() in _DEVICES
            if is_last and not torch._C._are_functorch_transforms_active():
                return self.body(*arguments)
            return self.op(*arguments)


_BELOW_AUTOGRAD = torch._C._after_ADInplaceOrView_keyset
_DEVICES = (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)


class _Function(_SingleLevelFunction):
    """`torch.autograd.Function` below the dispatcher, which has taken the transforms of torch.func apart already."""

    apply: ClassVar[Any]


class _OnceDifferentiable(_Function):
    """Runs what computes a gradient, and refuses to be differentiated in its turn."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return run(*arguments)

    @staticmethod
    def backward(ctx: Any, *_by_output: Tensor) -> Any:
        raise NotImplementedError("fastmed losses are differentiable once; the gradient itself has no backward pass")


class _Differentiable(_Function):
    """Runs an operator whose first output is differentiable; its backward pass is `region_sums_backward`."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        first, second = run(*arguments)
        input, target, mask, activation, ignore_index, uncertain, *nll_options = arguments[:_FIELDS]
        ctx.mark_non_differentiable(second)
        # What comes with a loss is its gradient by the sums; what comes with sums are counts.
        by_sums = second if first.ndim == 0 else None
        ctx.rows = HARD_TP if by_sums is None and Wanted(*arguments[_FIELDS:-2]).soft else BASIC
        ctx.save_for_backward(input, target, mask, uncertain, by_sums)
        ctx.options, ctx.nll_options, ctx.backend = (activation, ignore_index), nll_options, arguments[-1]
        return first, second

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Any, ...]:
        input, target, mask, uncertain, by_sums = ctx.saved_tensors
        gradient = (by_output[0][: ctx.rows], None) if by_sums is None else (by_sums, by_output[0])
        operands = (input, target, mask, *ctx.options, uncertain, *ctx.nll_options)
        return torch.ops.fastmed.region_sums_backward.default(*operands, *gradient, ctx.backend), None, None


class _DifferentiablePasses(_Function):
    """Runs `region_passes`; the gradients of all passes go into one tensor."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        stacked, counts = run(*arguments)
        input, target, mask, activations, ignore_index, uncertain, *nll_options = arguments[:_FIELDS]
        ctx.mark_non_differentiable(counts)
        ctx.save_for_backward(input, target, mask, uncertain)
        ctx.options, ctx.nll_options = (activations, ignore_index), nll_options
        ctx.soft, ctx.backend = arguments[_FIELDS + 1], arguments[-1]
        return stacked, counts

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Any, ...]:
        input, target, mask, uncertain = ctx.saved_tensors
        operands = (input, target, mask, *ctx.options, uncertain, *ctx.nll_options)
        op = torch.ops.fastmed.region_passes_backward.default
        return op(*operands, by_output[0], ctx.soft, ctx.backend), None, None


class _GradientAtHand(torch.autograd.Function):
    """A loss whose gradient was computed along with it."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value_and_gradient: tuple[Tensor, Tensor]) -> Tensor:
        value, gradient = value_and_gradient
        ctx.save_for_backward(input, gradient)
        return value

    @staticmethod
    def backward(ctx: Any, by_value: Tensor) -> tuple[Any, ...]:
        input, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _OnceDifferentiable.apply(input, torch.mul, (gradient, by_value)), None
        is_one = by_value.is_cpu and _is_undisturbed(by_value) and by_value.item() == 1.0
        return gradient if is_one else gradient * by_value, None


def _apply_at_one_level(function: type[_Function], below: _Below, arguments: tuple[Any, ...]) -> Any:
    """Differentiates for one of the transforms of torch.func; the operator goes on to those below, if there are any."""

    def run(*arguments: Any) -> Any:
        # A function's own forward runs without gradients, which the transforms below may be asked for.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return below.run(*arguments)

    with enable_single_level_autograd_function():
        return function.apply(arguments[0], run, arguments)


def _register_autograd(name: str, body: Callable[..., Any], function: type[_Function]) -> None:
    """What `torch.library.register_autograd` does, without rebuilding the schema once per argument on each call."""
    op = getattr(torch.ops.fastmed, name).default

    def run(keys: Any, *arguments: Any) -> Any:
        below = _Below(op, body, keys)
        if forward_ad._current_level >= 0 and forward_ad.unpack_dual(arguments[0]).tangent is not None:
            raise NotImplementedError(
                "fastmed losses have no forward-mode derivative; differentiate in reverse: backward(), "
                "torch.func.grad, torch.func.vjp or torch.func.jacrev"
            )
        if not (torch.is_grad_enabled() and arguments[0].requires_grad):
            return below.run(*arguments)
        if torch._C._are_functorch_transforms_active():
            return _apply_at_one_level(function, below, arguments)
        return function.apply(arguments[0], below.run, arguments)

    _library.impl(name, run, "Autograd", with_keyset=True)


_register_autograd("region_sums", _region_sums, _Differentiable)
_register_autograd("region_passes", _region_passes, _DifferentiablePasses)
_register_autograd("region_loss", _region_loss, _Differentiable)
_register_autograd("region_sums_backward", _region_sums_backward, _OnceDifferentiable)
_register_autograd("region_passes_backward", _region_passes_backward, _OnceDifferentiable)


_PLAIN = (Tensor, torch.nn.Parameter)


def _is_undisturbed(input: Tensor) -> bool:
    """Whether nothing looks at the operators that a tensor passes: no compiler, mode, transform, trace or subclass."""
    if torch.compiler.is_compiling() or type(input) not in _PLAIN or forward_ad._current_level >= 0:
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return torch._C._get_tracing_state() is None and not torch._C._dispatch_isTensorSubclassLike(input)


def region_sums(operands: RegionInput, wanted: Wanted, validate: bool | None, backend: str) -> RegionSums:
    """The sums of one pass; the optional ones are None unless wanted and defined."""
    stacked, counts = torch.ops.fastmed.region_sums(*operands, *wanted, validate, backend)
    return unstack(stacked, counts, operands.activation, wanted)


def region_passes(
    operands: Sequence[RegionInput], wanted: Sequence[Wanted], validate: bool | None, backend: str
) -> list[RegionSums]:
    """The sums of several passes over the tensors of the first, whose gradients are added up in one.

    The passes differ in activation, label smoothing and gamma, and in what is wanted but for hard counts, which are
    those of the first.
    """
    if len(operands) == 1:
        return [region_sums(operands[0], wanted[0], validate, backend)]
    input, target, mask, _, ignore_index, uncertain, *_ = operands[0]
    nll, soft, (hard, *_) = zip(*wanted, strict=True)
    stacked, counts = torch.ops.fastmed.region_passes(
        input,
        target,
        mask,
        [each.activation for each in operands],
        ignore_index,
        uncertain,
        [each.label_smoothing for each in operands],
        [each.gamma for each in operands],
        nll,
        soft,
        hard,
        validate,
        backend,
    )
    sums: list[RegionSums] = []
    for of_pass, each, wants in zip(stacked.unbind(0), operands, wanted, strict=True):
        sums.append(unstack(of_pass, counts, each.activation, changed(wants, hard=hard and not sums)))
    return sums


def region_loss(
    operands: RegionInput, loss: RatioLinear, weights: LossWeights, validate: bool | None, backend: str
) -> Tensor:
    """The loss, a scalar; that of a table or a small volume comes with its gradient, and without the dispatcher."""
    input = operands.input
    if input.requires_grad and torch.is_grad_enabled() and _is_undisturbed(input):
        step = getattr(_select(operands, backend), "region_step", None)
        done = step and step(operands, loss, weights)
        if done:
            value, gradient, invalid = done
            if invalid and validate is not False:
                _raise_invalid(_as_volume(operands), invalid)
            differentiable: Tensor = _GradientAtHand.apply(input, (value, gradient))
            return differentiable
    numbers = loss.numbers()
    loss_value: Tensor = torch.ops.fastmed.region_loss(*operands, *weights, numbers, validate, backend)[0]
    return loss_value
