"""What a reducer may know of the stack that it acts on."""

from __future__ import annotations

from dataclasses import dataclass


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
