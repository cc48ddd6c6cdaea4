"""Why some families cannot lose tokens, in words that the adapters of several libraries share."""

from __future__ import annotations

WINDOWS = "attends within windows of a full grid of tokens, where none may leave its place"
POOLING = "pools neighbouring tokens of a full grid as it goes, where none may leave its place"
RELATIVE = "has a relative position bias for every two tokens of a full grid, where none may leave its place"


def sentence(model: object, part: object, why: str) -> str:
    """What follows the name of a model's class: the reason, and the part that has it where that is not the whole."""
    return why if part is model else f"holds {type(part).__name__}, which {why}"
