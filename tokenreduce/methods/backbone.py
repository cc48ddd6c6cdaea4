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
        joint: whether text and image stand in one sequence.
        model: class name of the model, for messages.
        guidable: whether text features can guide it (``handle.guide``).
    """

    stack: str
    depth: int
    streams: tuple[str, ...]
    provides: frozenset[str]
    joint: bool
    model: str
    guidable: bool = False
