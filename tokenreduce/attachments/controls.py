"""What a handle changes on a running attachment: how much is removed, whether anything is, and by which text."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.binding import Binding
from ..errors import OptionError
from ..methods.backbone import Backbone
from ..methods.reducer import Reducer

_COUNTING = threading.Lock()


@contextmanager
def pause(bindings: list[Binding]) -> Iterator[None]:
    """Passes that begin inside reduce nothing, on all these stacks."""
    _count(bindings, 1)
    try:
        yield
    finally:
        _count(bindings, -1)


def _count(bindings: list[Binding], change: int) -> None:
    with _COUNTING:  # adding is not one step for other threads
        for bound in bindings:
            bound.pauses += change


def with_guide(backbone: Backbone) -> Backbone:
    """What a backbone provides once text features guide it."""
    return replace(backbone, provides=backbone.provides | {"text_attention"})


def rebind(bound: Binding, guided: bool, factor: float) -> Reducer:
    """A reducer for the stack, as configured or with ``factor`` times the removal; its weights are not made.

    Raises:
        UnfitReducerError: the backbone cannot feed it, or it has no option to scale.
    """
    backbone = with_guide(bound.backbone) if guided else bound.backbone
    made = bound.original.bind(backbone)
    if factor == 1:
        return made
    sites = len(bound.sites)
    with torch.random.fork_rng(devices=[]):  # a class may draw weights as it is made, which are let go
        made = made.changed(**made.scaled(factor, sites)).bind(backbone)
    made.check_sites(sites)
    return made


def set_reducer(bound: Binding, reducer: Reducer) -> None:
    """Have the stack use another reducer from the next pass on; a learnable one takes over its options alone."""
    if isinstance(bound.reducer, nn.Module):
        copy_options(bound.reducer, reducer)
    else:
        bound.reducer = reducer


def copy_options(module: nn.Module, other: Reducer) -> None:
    """Give a module the plain attributes of another of its class; its weights and all that torch keeps stay."""
    kept = {*vars(nn.Module()), *module._parameters, *module._buffers, *module._modules}
    vars(module).update({name: value for name, value in vars(other).items() if name not in kept})


def set_scale(bindings: list[Binding], factor: Any) -> None:
    """Set how many times the configured removal is in force; all stacks or, after an error, none.

    Raises:
        OptionError: not a number of 0 and more.
        UnfitReducerError: a method cannot be scaled.
    """
    number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not number or not math.isfinite(factor) or factor < 0:
        raise OptionError(f"factor must be a number of 0 and more (1: as configured), got {factor!r}")
    made = [rebind(bound, bound.guide is not None, float(factor)) for bound in bindings]
    for bound, reducer in zip(bindings, made, strict=True):
        set_reducer(bound, reducer)
        bound.factor = float(factor)


def set_guide_and_reducer(bound: Binding, guide: Tensor | None, reducer: Reducer) -> None:
    """Set the features that guide a stack together with the reducer settled for them."""
    set_reducer(bound, reducer)
    bound.guide = guide
