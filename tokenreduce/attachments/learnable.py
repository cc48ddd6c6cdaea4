"""Learnable reducers as a part of a model: where they are put, and on which device."""

from __future__ import annotations

from torch import nn

from ..backbones.stack import Stack
from ..errors import UnsupportedModelError

SUBMODULE = "tokenreduce"
"""Name under which a learnable reducer is a part of the model."""


def move_to_block(module: nn.Module, block: nn.Module) -> None:
    """Put weights on the device and in the dtype of a block, and in its mode."""
    like = next((p for p in block.parameters() if p.is_floating_point()), None)
    if like is not None:
        module.to(like.device, like.dtype)
    module.train(block.training)


def check_home(stack: Stack) -> None:
    """Raise UnsupportedModelError where a reducer cannot become a submodule."""
    home, kind = stack.home, type(stack.home).__name__
    if isinstance(home, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise UnsupportedModelError(
            f"a learnable reducer cannot become a part of a {kind}, which runs or counts its parts; let the adapter's "
            f"{type(stack).__name__}.home name a module around it"
        )
    if hasattr(home, SUBMODULE):
        raise UnsupportedModelError(
            f"this {kind} has something called {SUBMODULE!r} already, where a learnable reducer would be registered; "
            "rename or remove that first"
        )
