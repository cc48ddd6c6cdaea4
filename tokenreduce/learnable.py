"""Weights of learnable reducers: made, put in place, and the module that they become a part of."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from .adapter import BlockView, Stack
from .errors import UnfitReducerError, UnsupportedModelError
from .proof import parameter_width
from .reducer import Reducer

NAME = "tokenreduce"  # of the submodule
PLACES = ("middle", "start")


def check_place(reducer: Reducer) -> None:
    """Raise UnfitReducerError for a place that there is not, or where the signals that it needs are not."""
    kind = type(reducer).__name__
    if reducer.place not in PLACES:
        raise UnfitReducerError(f"{kind}.place must be 'middle' or 'start' (of a block), got {reducer.place!r}")
    if reducer.place == "start" and reducer.needs:
        raise UnfitReducerError(
            f"{kind} acts before a block (place = 'start'), where there are no signals yet, but needs "
            f"{', '.join(sorted(reducer.needs))}; leave 'needs' empty, or act in the 'middle'"
        )


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
    if hasattr(home, NAME):
        raise UnsupportedModelError(
            f"this {kind} has something called {NAME!r} already, where a learnable reducer would be registered; rename "
            "or remove that first"
        )
