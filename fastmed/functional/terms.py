"""Losses as terms: what each needs of a pass over the voxels, and its formula on the sums.

Terms that need the same of a pass share one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import formulas, ops, validation
from ..contract import LossWeights, RatioLinear, RegionInput, RegionSums, Wanted, changed
from ..distributed import all_reduce_sums
from ..labels import MissingPolicy
from .options import Options

# A constant by name, and no default: the compiler of torch 2.6 cannot make a default that is a tuple.
OVERLAP = Wanted(nll=False)


class Pass(NamedTuple):
    """What a pass over the voxels is asked for; see `RegionInput` and `Wanted`."""

    activation: str | None
    wanted: Wanted
    label_smoothing: float = 0.0
    gamma: float = 0.0
    missing: MissingPolicy | None = None

    def joined(self, other: Pass) -> Pass | None:
        """One pass for both, or None if there is none."""
        if (self.activation, self.missing) != (other.activation, other.missing):
            return None
        nll = self if self.wanted.nll else other
        options = {(each.label_smoothing, each.gamma) for each in (self, other) if each.wanted.nll}
        if len(options) > 1:
            return None
        either = (mine or theirs for mine, theirs in zip(self.wanted, other.wanted, strict=True))
        return changed(nll, wanted=Wanted(*either))

    def operands(self, input: Tensor, target: Tensor, mask: Tensor | None, ignore_index: int | None) -> RegionInput:
        """The operands, checked."""
        if self.missing is None:
            return validation.region_input(
                input, target, mask, self.activation, ignore_index, self.label_smoothing, self.gamma
            )
        return validation.binary_input(
            input,
            target,
            mask,
            ignore_index=ignore_index,
            missing=self.missing,
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
        )


class Term(NamedTuple):
    """A loss as mathematics on the sums of one pass.

    Attributes:
        reads: what it needs of the pass.
        formula: sums to loss, reduced as the options say.
        fused: the same loss for an operator that computes mean and sum at once, if it is of that family.
        factor: the loss is multiplied by it.
    """

    reads: Pass
    formula: Callable[[RegionSums], Tensor]
    fused: tuple[RatioLinear, LossWeights] | None = None
    factor: float = 1.0


def ratio_linear_term(reads: Pass, loss: RatioLinear, weights: LossWeights, options: Options) -> Term:
    """A loss of the family that operators know."""

    def formula(sums: RegionSums) -> Tensor:
        return formulas.ratio_linear_reduced(sums, loss, weights, options.reduction)

    reads = changed(reads, wanted=Wanted(nll=loss.lambda_nll != 0))
    return Term(reads, formula, (loss, weights))


def region_term(
    reads: Pass, per_region: Callable[[RegionSums], Tensor], options: Options, input: Tensor, *, weigh: bool = True
) -> Term:
    """A loss of each region, weighted by class and reduced; `weigh` is False if the formula weighs the classes."""
    first_class = options.first_class(input)
    selection = RatioLinear(first_class=first_class, pool_batch=options.pool == "batch")
    weights = options.weights(input) if weigh else None

    def formula(sums: RegionSums) -> Tensor:
        values = per_region(formulas.regions_of(sums, selection))
        return options.reduce(values if weights is None else values * weights[first_class:])

    return Term(reads, formula)


def _check_hard_counts(counts: Tensor, input: Tensor) -> None:
    expected = (input.shape[1], 4)
    if counts.dtype != torch.int64 or tuple(counts.shape) != expected or counts.device != input.device:
        raise ValueError(
            f"hard_counts: got {counts.dtype} of shape {tuple(counts.shape)} on {counts.device}, "
            f"allowed is torch.int64 of shape {expected} on {input.device}"
        )


def _grouped(terms: Sequence[Term]) -> list[tuple[Pass, list[Term]]]:
    """The passes that the terms need, each with those that share it."""
    groups: list[tuple[Pass, list[Term]]] = []
    for term in terms:
        for i, (shared, members) in enumerate(groups):
            joined = shared.joined(term.reads)
            if joined is not None:
                groups[i] = (joined, [*members, term])
                break
        else:
            groups.append((term.reads, [term]))
    return groups


def _sharing_tensors(groups: list[tuple[Pass, list[Term]]]) -> list[list[tuple[Pass, list[Term]]]]:
    """The passes that read the same tensors: all but for what a missing label stands for."""
    together: list[list[tuple[Pass, list[Term]]]] = []
    for group in groups:
        for others in together:
            if others[0][0].missing == group[0].missing:
                others.append(group)
                break
        else:
            together.append([group])
    return together


def _of_all_ranks(sums: RegionSums, options: Options) -> RegionSums:
    if options.process_group is not None:
        return all_reduce_sums(formulas.pool_batch(sums), options.process_group)
    return sums if options.slab_group is None else all_reduce_sums(sums, options.slab_group)


def _value(terms: Sequence[Term], sums: RegionSums, *, is_alone: bool) -> Tensor:
    """The sum of the terms on the sums of one pass; beside others, a loss of each region becomes one of each sample."""
    values = [term.factor * term.formula(sums) for term in terms]
    return functools.reduce(torch.add, (value if is_alone or value.ndim < 2 else value.mean(1) for value in values))


def evaluate(terms: Sequence[Term], input: Tensor, target: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """The sum of the terms."""
    options.check()
    counts = options.hard_counts
    if counts is not None:
        _check_hard_counts(counts, input)
    is_plain = counts is None and not options.is_distributed and options.reduction != "none"
    if is_plain and len(terms) == 1 and terms[0].fused is not None:
        of_pass = terms[0].reads.operands(input, target, mask, options.ignore_index)
        value = ops.region_loss(of_pass, *terms[0].fused, options.validate, options.backend)
        return value if terms[0].factor == 1.0 else terms[0].factor * value
    total: Tensor | None = None
    for together in _sharing_tensors(_grouped(terms)):
        operands = [reads.operands(input, target, mask, options.ignore_index) for reads, _ in together]
        wanted = [changed(reads.wanted, hard=counts is not None) for reads, _ in together]
        of_passes = ops.region_passes(operands, wanted, options.validate, options.backend)
        if counts is not None and of_passes[0].counts is not None:
            counts += of_passes[0].counts.sum(0)
            counts = None
        for (_, members), sums in zip(together, of_passes, strict=True):
            value = _value(members, _of_all_ranks(sums, options), is_alone=len(terms) == 1)
            total = value if total is None else total + value
    if total is None:
        raise ValueError("terms: got none, allowed is one or more")
    return total
