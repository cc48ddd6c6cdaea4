"""What a handle changes on a running attachment: how much is removed, whether anything is, and by which text."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.signals import GUIDED
from ..engine.binding import BaseBinding
from ..errors import OptionError
from ..methods.backbone import Backbone
from ..methods.site_reducer import SiteReducer

_COUNTING = threading.Lock()


@contextmanager
def pause(bindings: Sequence[BaseBinding]) -> Iterator[None]:
    """Passes that begin inside reduce nothing, on all these stacks."""
    _count(bindings, 1)
    try:
        yield
    finally:
        _count(bindings, -1)


def _count(bindings: Sequence[BaseBinding], change: int) -> None:
    with _COUNTING:  # adding is not one step for other threads
        for binding in bindings:
            binding.pauses += change


def with_guide(backbone: Backbone) -> Backbone:
    """What a backbone provides once text features guide it."""
    return replace(backbone, provides=backbone.provides | set(GUIDED))


def rebind(binding: BaseBinding, guided: bool, factor: float) -> SiteReducer:
    """What runs on the stack, as configured or with ``factor`` times the removal; new weights are arbitrary.

    Raises:
        UnfitReducerError: the backbone cannot feed it, or it has no option to scale.
    """
    backbone = with_guide(binding.backbone) if guided else binding.backbone
    with torch.random.fork_rng(devices=[]):  # weights that are drawn here are let go
        active = binding.original.bind(backbone)
        if factor == 1:
            return active
        scaled = active.reducer.scaled(factor, backbone.sites)
        scaled.check_sites(backbone.sites)
        again: SiteReducer = scaled.bind(backbone)
    return again


def set_active(binding: BaseBinding, active: SiteReducer) -> None:
    """Have the stack use another reducer from the next pass on; one with weights takes over its options alone."""
    if isinstance(binding.active, nn.Module):
        binding.active.take_options(active.reducer)
        binding.acting.take_options(active.reducer)
    else:
        binding.active = active
        binding.note_idle()


def set_scale(bindings: Sequence[BaseBinding], factor: Any) -> None:
    """Set how many times the configured removal is in force; all stacks or, after an error, none.

    Raises:
        OptionError: not a non-negative number.
        UnfitReducerError: a method cannot be scaled.
    """
    number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not number or not math.isfinite(factor) or factor < 0:
        raise OptionError(f"factor must be a non-negative number (1: as configured), got {factor!r}")
    made = [rebind(binding, binding.guide is not None, float(factor)) for binding in bindings]
    for binding, active in zip(bindings, made, strict=True):
        set_active(binding, active)
        binding.factor = float(factor)


def set_guide_and_reducer(
    binding: BaseBinding, guide: Tensor | None, space: Callable[[Tensor], Tensor] | None, active: SiteReducer
) -> None:
    """Set the features that guide a stack, and their space, together with the reducer that was bound for them."""
    set_active(binding, active)
    binding.guide, binding.space = guide, space
