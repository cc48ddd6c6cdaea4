"""What attach puts on a model, and the check that nothing else is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..backbones.stack import Stack
from ..engine.binding import Binding
from ..engine.wrappers import BlockForward, StackForward
from ..errors import (
    UnsupportedModelError,
)
from .learnable import SUBMODULE

Replacement = tuple[nn.Module, str, Callable[..., Any]]
"""A module, an attribute of it, and what it is to be."""


def check_originals(stack: Stack, patches: list[Replacement]) -> None:
    """Raise UnsupportedModelError where something else has replaced what would be replaced now."""
    for module, attribute, _ in patches:
        if attribute in vars(module):
            raise UnsupportedModelError(
                f"{attribute} of this {type(module).__name__} was replaced on the instance (by a patch, or by "
                "offloading hooks); attaching would lose that. Undo it first, attach, and apply it again afterwards."
            )
    for module, attribute, function in stack.originals():
        if getattr(type(module), attribute) is not function:
            raise UnsupportedModelError(
                f"{type(module).__name__} defines its own {attribute}(), which this adapter does not know; "
                "write an adapter for it (tokenreduce.backbones.Adapter), or use the library's class"
            )


def replacements(binding: Binding) -> list[Replacement]:
    """All that stands in for something of the model: the stack's method, each block's, and a learnable reducer."""
    patches: list[Replacement] = [(binding.stack.module, binding.stack.entry, StackForward(binding))]
    patches += [(block, "forward", BlockForward(binding, block, i)) for i, block in enumerate(binding.stack.blocks)]
    if isinstance(binding.active, nn.Module):
        patches.append((binding.stack.home, SUBMODULE, binding.active))
    return patches + binding.stack.replacements()
