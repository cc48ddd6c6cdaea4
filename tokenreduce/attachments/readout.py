"""``readout_only=True``: what it needs of a model and of a reducer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..engine.binding import BaseBinding, Binding
from ..engine.readout import Readout, prove_rows
from ..errors import OptionError, TokenReduceError, UnfitReducerError, UnsupportedModelError

LEAVE = "leave readout_only out"


def check_asked(readout_only: Any, trace: bool, restore: bool | None) -> None:
    """Raise OptionError if ``readout_only`` is not a bool, or if another option needs every token."""
    if not isinstance(readout_only, bool):
        raise OptionError(f"readout_only must be True or False, got {readout_only!r}")
    if readout_only and trace:
        raise OptionError(
            "trace=True follows every token to the end, where readout_only=True computes only those that the head "
            "reads; leave one of them out"
        )
    if readout_only and restore is not None:
        raise OptionError(
            f"restore={restore} says what all tokens are at the end of the stack, where readout_only=True computes "
            "only those that the head reads; leave one of them out"
        )


def read_alone(bindings: Sequence[BaseBinding], model: str) -> None:
    """Let the last block compute only what the head reads, on every stack that the head reads so.

    Raises:
        UnsupportedModelError: no stack supports it. UnfitReducerError: a reducer acts only on tokens that are not read.
    """
    reasons: list[TokenReduceError] = []
    found = 0
    for binding in bindings:
        try:
            readout = readout_of(binding, model)
        except UnsupportedModelError as error:
            reasons.append(error)
            continue
        assert isinstance(binding, Binding)
        check_acting(binding, readout)
        binding.read_alone(readout)
        found += 1
    if not found:
        raise reasons[0]


def readout_of(binding: BaseBinding, model: str) -> Readout:
    """What the head reads of a stack.

    Raises:
        UnsupportedModelError: more than a few tokens in front, or they cannot be computed by themselves.
    """
    stack = binding.stack
    if not isinstance(binding, Binding):
        raise UnsupportedModelError(
            f"readout_only=True: the layers of the language model of {model} run whole; {LEAVE}, and pass "
            "logits_to_keep=1 to the model's forward, as generate() does"
        )
    readout = Readout(stack, stack.head_rows)
    if not readout.rows or binding.output_name != "reduced":
        raise UnsupportedModelError(
            f"readout_only=True: the head of {model} reads every token at the end of stack {stack.name!r}, or the "
            f"model gives them back, or its adapter does not say what is read; {LEAVE}, or use a model whose head "
            "reads the class token and that gives back logits or features alone (an image classifier "
            "with global_pool='token')"
        )
    role, view = stack.role(readout.index), binding.views[readout.index]
    if role.memory is not None or view.causal:
        raise UnsupportedModelError(
            f"readout_only=True: the last block of stack {stack.name!r} attends to a second sequence, or causally; "
            f"{LEAVE}"
        )
    prove_rows(stack, readout.index, readout.rows)
    return readout


def check_acting(binding: Binding, readout: Readout) -> None:
    """Raise UnfitReducerError where a learnable reducer, or one that acts nowhere else, acts behind what is read."""
    active, last = binding.active, readout.index
    if active.position == "before_block" or last not in binding.sites:
        return
    layer, kind = binding.sites[last].layer, type(active.reducer).__name__
    if isinstance(active, nn.Module):
        raise UnfitReducerError(
            f"readout_only=True: {kind} learns what to remove in layer {layer}, the last one, whose tokens nobody "
            f"reads; name layers= without {layer}, or {LEAVE}"
        )
    if list(binding.live) == [last]:
        raise UnfitReducerError(
            f"readout_only=True: {kind} acts in layer {layer} alone, the last one, whose tokens nobody reads, so "
            f"nothing would be reduced; name earlier layers, or {LEAVE}"
        )
