"""What every loss over regions is: a configuration, checked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import validation
from ..contract import changed
from ..functional.entropy import is_dense
from ..functional.options import Options
from ..functional.terms import Term, evaluate
from ..validation import BinaryWeight

_CHOICES: dict[str, Sequence[object]] = {
    "pool": validation.POOLS,
    "reduction": validation.REDUCTIONS,
    "activation": validation.ACTIVATIONS,
    "normalize": validation.NORMALIZATIONS,
}
_BALANCED = ("pos_weight", "neg_weight")
_WEIGHTS = ("class_weight", "pos_weight", "neg_weight", "task_weight", "alpha")


class EagerModule(nn.Module):
    """A module for Python, torch.compile and torch.export; TorchScript is told so, instead of failing on a detail."""

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuses, before TorchScript reads the source."""
        raise NotImplementedError(
            f"TorchScript cannot compile {type(self).__name__}: its options are Python; "
            "use torch.compile or torch.export, or leave the loss out of the module that is scripted"
        )


class ConfiguredLoss(EagerModule):
    """Configuration of a loss; class weights are buffers, so that they follow the module's device."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = {name: value for name, value in options.items() if name not in _WEIGHTS}
        for name in _WEIGHTS:
            if name in options:
                self._set_weight(name, options[name])
        for name, allowed in _CHOICES.items():
            if name in options:
                validation.choice(name, options[name], allowed)
        for name in ("smooth", "gamma"):
            validation.non_negative(name, options.get(name, 0.0))
        validation.smoothing("label_smoothing", options.get("label_smoothing", 0.0))
        if options.get("missing") is not None:
            validation.missing_policy(options["missing"])

    def _set_weight(self, name: str, value: BinaryWeight) -> None:
        if value is None or (isinstance(value, str) and name in _BALANCED):
            validation.choice(name, value, (None, *validation.BALANCES))
            self._options[name] = value
        else:
            validation.weight_of_classes(name, value)
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)

    def arguments(self) -> dict[str, Any]:
        """The options, with weights where the module is."""
        return {**self._options, **self._buffers}

    def extra_repr(self) -> str:
        """The options, as they were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())


class RegionLoss(ConfiguredLoss):
    """A loss over regions: terms on the sums of a pass.

    Shape:
        input (N, C, *spatial); target (N, *spatial) or (N, 1, *spatial) integer, or (N, C, *spatial); mask
        (N, *spatial), (N, 1, *spatial), (N, C, *spatial) or (N, C). Returns a scalar, or what reduction "none" says.
    """

    def __init__(self, terms: Callable[..., list[Term]], needs_target: bool, own: dict[str, Any], **options: Any):
        if options.get("hard_counts") is not None:
            raise TypeError("hard_counts: got it with the options of a loss, allowed is with a call, beside its target")
        # An unknown option is an error here, not at the first batch.
        Options(**options).check()
        super().__init__(**own, **options)
        self._make_terms, self._needs_target = terms, needs_target
        self._prepared: dict[object, tuple[Options, list[Term]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but terms, which hold functions that no pickle takes."""
        return {**self.__dict__, "_prepared": {}}

    def _split(self) -> tuple[Options, dict[str, Any]]:
        """The options of all losses, and the loss's own."""
        arguments = self.arguments()
        shared = {name: arguments.pop(name) for name in Options._fields if name in arguments}
        return Options(**shared), arguments

    def options(self) -> Options:
        """The options of all losses."""
        return self._split()[0]

    def terms(self, input: Tensor, target: Tensor) -> list[Term]:
        """The terms of the loss for operands of this kind."""
        return self._prepare(input, target)[1]

    def _make(self, input: Tensor, target: Tensor) -> tuple[Options, list[Term]]:
        options, own = self._split()
        operands = (input, target) if self._needs_target else (input,)
        return options, self._make_terms(*operands, options, **own)

    def _prepare(self, input: Tensor, target: Tensor) -> tuple[Options, list[Term]]:
        """Options and terms; without weights, which may move or change, those for operands of a kind are made once."""
        are_real = validation.is_real(input) and validation.is_real(target)
        if self._buffers or not are_real or input.ndim < 2:
            return self._make(input, target)
        kind = input.shape[1], self._needs_target and is_dense(input, target)
        if kind not in self._prepared:
            self._prepared[kind] = self._make(input, target)
        return self._prepared[kind]

    def forward(
        self, input: Tensor, target: Tensor, mask: Tensor | None = None, hard_counts: Tensor | None = None
    ) -> Tensor:
        """The loss of these logits; adds the counts of the hard prediction to `hard_counts`, int64 (C, 4), if given."""
        options, terms = self._prepare(input, target)
        if hard_counts is not None:
            options = changed(options, hard_counts=hard_counts)
        return evaluate(terms, input, target, mask, options)
