"""A place where a reducer acts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A place where reduction may happen: between the attention and the MLP of one block, or before the block.

    Args:
        stack: the tower's name.
        layer: zero-based layer (a block, or a level of several blocks).
        index: this is the index-th acting site of the stack.
        total: number of acting sites.
        depth: number of layers in the stack.
    """

    stack: str
    layer: int
    index: int
    total: int
    depth: int
