"""From a reducer and a stack to their binding: which signals, which layers, which block of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..backbones.stack import Stack
from ..core.site import Site
from ..engine.binding import Binding
from ..errors import (
    LayerError,
    OptionError,
    UnfitReducerError,
    UnsupportedModelError,
    guard,
)
from ..methods.backbone import Backbone
from ..methods.contract import check_position
from ..methods.reducer import Reducer
from ..registry.registry import Registry
from .controls import with_guide
from .learnable import check_home, with_weights


def bind_stack(
    registry: Registry,
    model: nn.Module,
    stack: Stack,
    reducer: Reducer,
    name: str,
    layers: Sequence[int] | None,
    trace: bool,
    restore: bool | None,
    guided: bool,
) -> tuple[Binding, list[int]]:
    """A reducer bound to a stack, and the layers where it acts.

    Raises:
        UnsupportedModelError: the stack has no blocks, or one several times.
        UnfitReducerError: the backbone cannot feed the reducer. LayerError, OptionError: layers that are not valid.
    """
    blocks = len(stack.blocks)
    if len({id(block) for block in stack.blocks}) < blocks:
        raise UnsupportedModelError(f"stack {stack.name!r} of {type(model).__name__} uses one block several times")
    if not blocks:
        raise UnsupportedModelError(f"stack {stack.name!r} of {type(model).__name__} has no blocks, so no layers")
    levels = stack.levels or [(index,) for index in range(blocks)]
    provides = frozenset[str]().union(*(stack.provides(index) for index in range(blocks)))
    joint = any(len(streams) > 1 for streams in stack.sequences or [tuple(stack.prefix)])
    backbone = Backbone(
        stack.name, len(levels), tuple(stack.prefix), provides, joint, type(model).__name__, stack.guidable
    )
    if layers is not None:
        reducer = reducer.within(check_layers(layers, len(levels), stack.name))
    try:
        with registry.blame("reducer", name):
            settled = reducer.bind(with_guide(backbone) if guided and stack.guidable else backbone)
    except UnfitReducerError as error:
        fit = [other for other in registry.reducers if other != name and runs_on(registry, other, backbone)]
        raise UnfitReducerError(f"{error} Reducers that run here: {', '.join(fit) or '(none)'}.") from error
    with registry.blame("reducer", name):
        chosen = check_layers(settled.layers(len(levels)) if layers is None else layers, len(levels), stack.name)
        settled.check_sites(len(chosen))
    check_position(settled)
    sites = {
        acting_block(stack, levels[layer], settled.at(layer), guided): Site(
            stack.name, layer, i, len(chosen), len(levels)
        )
        for i, layer in enumerate(chosen)
    }
    views = [stack.view(block) for block in stack.blocks]
    if isinstance(settled, nn.Module):
        check_home(stack)
        first = min(sites)
        with registry.blame("reducer", name):
            settled = with_weights(settled, stack, first, views[first], len(chosen))
        reducer = reducer.changed()
    output = stack.output if restore is None else "full" if restore else "reduced"
    return Binding(stack, views, settled, reducer, backbone, sites, output, trace), chosen


def acting_block(stack: Stack, level: Sequence[int], reducer: Reducer, guided: bool = False) -> int:
    """The block of a level where a reducer acts.

    Of the blocks that give every signal it needs, the first whose own sequence has the reducer's first stream;
    otherwise the first.
    """
    given = frozenset({"text_attention"}) if guided and stack.guidable else frozenset[str]()
    fits = [index for index in level if frozenset(reducer.needs) <= stack.provides(index) | given]
    if not fits:
        raise UnfitReducerError(
            f"{type(reducer).__name__} needs {', '.join(sorted(reducer.needs))} at one place; no block of a layer of "
            f"stack {stack.name!r} gives all of them"
        )
    return next((index for index in fits if reducer.streams[0] in stack.role(index).own.split("+")), fits[0])


def runs_on(registry: Registry, name: str, backbone: Backbone) -> bool:
    """Whether a registered reducer runs on the backbone with its default options."""
    failed: list[str] = []
    with guard(failed.append):  # a reducer may raise anything; it is not recommended then
        registry.load("reducer", name)().bind(backbone)
    return not failed


def check_layers(layers: Any, depth: int, stack: str) -> list[int]:
    """Sorted distinct layers.

    Raises:
        LayerError: one lies outside the stack. OptionError: no layers, or not whole numbers.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise OptionError(f"layers is a list of block numbers 0..{depth - 1}, got {layers!r}")
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise OptionError(f"layers is a list of block numbers 0..{depth - 1}, got {layer!r} in it")
        if not 0 <= layer < depth:
            raise LayerError(f"layer {layer} is outside stack {stack!r}; its blocks are 0..{depth - 1}")
    if not layers:
        raise OptionError(f"layers is empty, so nothing would be reduced; name some of 0..{depth - 1}")
    return sorted(set(layers))
