"""Weights of learnable reducers: made, put in place, and the module that they become a part of."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from .._torch import parameter_width
from ..backbones.block import BlockView
from ..backbones.stack import Stack
from ..errors import UnsupportedModelError
from ..methods.reducer import Reducer

SUBMODULE = "tokenreduce"  # of the submodule


def with_weights(reducer: Reducer, stack: Stack, block: int, view: BlockView, sites: int) -> Reducer:
    """A copy of a learnable reducer that has weights, on the device and in the dtype of a block.

    Args:
        block: the first one where it acts.
        view: of this block.
        sites: number of places where it acts.
    """
    assert isinstance(reducer, nn.Module)
    module, role = stack.blocks[block], stack.role(block)
    width = parameter_width(module)
    main = "image" if "image" in stack.prefix else next(iter(stack.prefix))
    if main not in role.own.split("+") and view.memory_width is not None:
        width = view.memory_width
    with torch.inference_mode(False):  # its weights are to be trained wherever it is attached
        own = copy.deepcopy(reducer)
        if next(itertools.chain(own.parameters(), own.buffers()), None) is None:
            with torch.device("cpu"):  # the same weights whatever the default device is
                own.build(width, sites)
        like = next((p for p in module.parameters() if p.is_floating_point()), None)
        if like is not None:
            own.to(like.device, like.dtype)
    own.train(module.training)
    return own


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
