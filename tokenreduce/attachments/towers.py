"""A vision tower that is reduced in front of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..backbones.causal import CausalStack
from ..backbones.stack import Stack
from ..engine.causal.binding import POSITIONS, CausalBinding
from ..engine.causal.run import TOWER
from ..errors import OptionError, UnfitReducerError
from ..methods.backbone import Backbone
from ..methods.baselines import NoReduction

RESTORED = frozenset({"encoder_features", "class_features", "projector"})
"""Signals that a reduced tower gives for every token."""


def following(stacks: Mapping[str, Stack], trace: bool, positions: str, model: str) -> CausalBinding:
    """The hand-over where no reducer acts but the tower's: it has no sites of its own, and keeps the record.

    Raises:
        OptionError: positions cannot be counted anew.
    """
    stack = next(one for one in stacks.values() if isinstance(one, CausalStack) and not one.depth)
    compact = positions == POSITIONS[1]
    if compact and stack.language.compact is not True:
        raise OptionError(f"positions='compact': {stack.language.compact}; leave it at 'original'")
    plain = Backbone(stack.name, 1, ("image",), frozenset(), False, model)
    reducer = NoReduction()
    return CausalBinding(stack, reducer.bind(plain), reducer, plain, {}, trace, stack.unit, compact)


def check_tower_signals(bindings: Sequence[CausalBinding], towers: Sequence[Stack]) -> None:
    """Raise UnfitReducerError where a reducer at the hand-over reads of a reduced tower what it has for some tokens."""
    for binding in bindings if towers else ():
        missing = frozenset(binding.active.needs) & (TOWER - RESTORED)
        if not binding.stack.depth and missing:
            raise UnfitReducerError(
                f"{type(binding.active.reducer).__name__} reads {', '.join(sorted(missing))} of the vision tower at "
                f"the hand-over, but the stack {towers[0].name!r} is reduced too, and tokens that are gone there have "
                "none; choose a reducer that reads the tokens alone (for example, random), or reduce one of the two"
            )
