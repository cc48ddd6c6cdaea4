"""What a reducer may know of the stack that it acts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Backbone:
    """What a reducer may know of the stack it will act on.

    Args:
        stack: the tower's name.
        depth: number of layers.
        streams: names of its streams.
        provides: the signals it can give.
        one_sequence: whether its streams form one sequence, if there are several.
        model: class name of the model, for messages.
        guidable: whether text features can guide it (``handle.guide``).
        width: C of the tokens that are reduced, 0 before it is known.
        sites: number of places where the reducer acts, 0 before that is known.
        widths: C of each stream's tokens, by name; empty before it is known.
        protected: number of protected tokens in front of each stream, such as a class token.
        heads: of each sequence that the blocks of a layer update, by name, the number of heads of its attentions: of
            self-attention, and then of cross-attention where there is one. Of a reducer that masks them
            (``masks_heads``), after they have been checked; empty for others.
    """

    stack: str
    depth: int
    streams: tuple[str, ...]
    provides: frozenset[str]
    one_sequence: bool
    model: str
    guidable: bool = False
    width: int = 0
    sites: int = 0
    widths: Mapping[str, int] = field(default_factory=dict)
    protected: Mapping[str, int] = field(default_factory=dict)
    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
