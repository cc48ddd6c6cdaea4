"""What attach puts on a model, and the check that nothing else is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..backbones.dispatch import is_replaced
from ..backbones.stack import Stack
from ..engine.binding import SUBMODULE, Binding
from ..engine.wrappers import BlockForward, Replicate, StackForward, StandIn, refuse_script
from ..errors import UnsupportedModelError

Replacement = tuple[nn.Module, str, Callable[..., Any]]
"""A module, an attribute of it, and what it is to be."""


def check_originals(stack: Stack, patches: list[Replacement]) -> None:
    """Raise UnsupportedModelError where something else has replaced what would be replaced now."""
    for module, attribute, _ in patches:
        if is_replaced(module, attribute):
            raise UnsupportedModelError(
                f"{attribute} of this {type(module).__name__} was replaced on the instance by a patch; attaching would "
                "lose that. Undo it first, attach, and apply it again afterwards. (Hooks of accelerate may stay.)"
            )
    for module, attribute, function in stack.originals():
        if getattr(type(module), attribute) is not function:
            raise UnsupportedModelError(
                f"{type(module).__name__} defines its own {attribute}(), which this adapter does not know; "
                "write an adapter for it (tokenreduce.backbones.Adapter), or use the library's class"
            )


def replacements(binding: Binding) -> list[Replacement]:
    """All that stands in for something of the model: the stack's method, each block's, and a learnable reducer."""
    module, entry = binding.stack.module, binding.stack.entry
    patches: list[Replacement] = [(module, entry, StackForward(binding))]
    patches += [(block, "forward", BlockForward(binding, block, i)) for i, block in enumerate(binding.stack.blocks)]
    if isinstance(binding.active, nn.Module):
        patches.append((binding.stack.home, SUBMODULE, binding.active))
    for module, attribute, function in binding.stack.replacements():
        patches.append((module, attribute, StandIn(module, attribute, function)))
    return patches + replicas(patches)


def replicas(patches: Sequence[Replacement]) -> list[Replacement]:
    """What keeps replicas (``torch.nn.DataParallel``) from running the originals, and scripts from being made."""
    replaced: dict[nn.Module, list[str]] = {}
    for module, attribute, function in patches:
        if not isinstance(function, nn.Module):
            replaced.setdefault(module, []).append(attribute)
    found: list[Replacement] = []
    for module, names in replaced.items():
        found.append((module, "_replicate_for_data_parallel", Replicate(module, names)))
        found.append((module, "__prepare_scriptable__", refuse_script))
    return found
