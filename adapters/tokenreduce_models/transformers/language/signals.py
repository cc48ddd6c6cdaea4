"""Which signals a tower gives at the hand-over."""

from __future__ import annotations

from typing import Any

from torch import nn

from .families import LVLM, TOWER, feature_layer
from .merged_tower import SIGNALS, gives_signals
from .towers import family_of


def tower_signals(inner: nn.Module, family: LVLM) -> frozenset[str]:
    """The signals of an inner model's vision tower."""
    tower = getattr(inner, family.tower)
    if family.tokens == "merge":
        return SIGNALS if gives_signals(tower) else frozenset()
    kind = family_of(tower)
    if kind is None:
        return frozenset()
    config: Any = inner.config
    if family.tokens == "cell" or (family.read == "config" and not isinstance(feature_layer(config), int)):
        return frozenset()
    names = set(TOWER)
    if kind.prefix:  # a class token
        names |= {"class_attention", "class_features"}
    if family.tokens in ("patch", "tile"):
        names.add("projector")
    return frozenset(names)


def projector_of(inner: nn.Module, family: LVLM) -> nn.Module | None:
    """What takes encoder features one by one into the language model's space; None where they go in cells."""
    if family.projector is None or family.tokens not in ("patch", "tile"):
        return None
    projector: nn.Module = getattr(inner, family.projector)
    return projector
