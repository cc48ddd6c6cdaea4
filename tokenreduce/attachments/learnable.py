"""Learnable reducers as a part of a model: where they are put, and on which device."""

from __future__ import annotations

from torch import nn

from ..backbones.dispatch import device_of
from ..backbones.stack import Stack
from ..engine.binding import SUBMODULE
from ..errors import UnsupportedModelError

TAKES_STOCK = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")
"""Classes of torch, by name: not every build of torch has them all."""


def move_to_block(module: nn.Module, block: nn.Module) -> None:
    """Put weights on the device and in the dtype of a block, and in its mode."""
    like = next((p for p in block.parameters() if p.is_floating_point()), None)
    if like is not None:
        module.to(device_of(block), like.dtype)
    module.train(block.training)


def check_order(model: nn.Module) -> None:
    """Raise UnsupportedModelError where a wrapper in the model has taken stock of its parameters already.

    DistributedDataParallel averages, and FSDP shards, what was there when they were made; new weights are left out.
    """
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith("torch.") and kind.__name__ in TAKES_STOCK:
                raise UnsupportedModelError(
                    f"the model is wrapped in {kind.__name__} already, which would leave out the weights of a "
                    "learnable reducer; attach to the plain model first, then wrap it"
                )


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
