"""From a reducer and a stack to their binding: which layers, which signals, which block of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .._torch import parameter_width
from ..backbones.block import BlockView
from ..backbones.stack import Stack
from ..core.schedules import check_layers
from ..core.signals import GUIDED
from ..core.site import Site
from ..engine.binding import Binding
from ..engine.equivalence import prove
from ..engine.head_proof import heads_of
from ..errors import OptionError, TokenReduceError, UnfitReducerError, UnsupportedModelError, guard
from ..methods.backbone import Backbone
from ..methods.contract import check_position
from ..methods.reducer import BaseReducer
from ..methods.site_reducer import SiteReducer
from ..registry.registry import Registry
from .controls import with_guide
from .learnable import check_home, check_order, move_to_block


@dataclass(frozen=True)
class Wanted:
    """What is asked of one stack.

    Args:
        reducer: with its options.
        name: that stands for it in a config.
        layers: where it is to act, None for its own choice.
        trace, restore: as ``attach`` has them.
        guided: whether text features guide the model.
    """

    reducer: BaseReducer
    name: str
    layers: Sequence[int] | None
    trace: bool
    restore: bool | None
    guided: bool


def bind_stack(registry: Registry, model: nn.Module, stack: Stack, wanted: Wanted) -> tuple[Binding, list[int]]:
    """A reducer bound to a stack, and the layers where it acts.

    Raises:
        UnsupportedModelError: the stack has no blocks, or one several times.
        UnfitReducerError: the backbone cannot feed the reducer. LayerError, OptionError: layers that are not valid.
    """
    kind, name, guided = type(model).__name__, wanted.name, wanted.guided and stack.guidable
    check_blocks(stack, kind)
    levels = stack.levels or [(index,) for index in range(len(stack.blocks))]
    plain = describe_stack(stack, len(levels), kind)
    backbone = with_guide(plain) if guided else plain
    with registry.blame("reducer", name):
        layers = wanted.reducer.layers(backbone) if wanted.layers is None else wanted.layers
        chosen = check_layers(layers, len(levels), stack.name)
        reducer = wanted.reducer if wanted.layers is None else wanted.reducer.within(chosen)
        reducer.check_sites(len(chosen))
    views = [view_of(stack, index) for index in range(len(stack.blocks))]
    heads = heads_of(stack, [levels[layer] for layer in chosen]) if reducer.masks_heads else {}
    widths = {name: stream_width(stack, views, levels[chosen[0]], name) for name in stack.prefix}
    known: dict[str, Any] = {"sites": len(chosen), "width": widths[stack.main_stream], "widths": widths, "heads": heads}
    plain, backbone = (replace(one, **known) for one in (plain, backbone))
    try:
        with registry.blame("reducer", name), torch.inference_mode(False), torch.device("cpu"):  # weights to train
            active = reducer.bind(backbone)
    except UnfitReducerError as error:
        fit = [other for other in registry.reducers if other != name and runs_on(registry, other, backbone)]
        raise UnfitReducerError(f"{error} Reducers that run here: {', '.join(fit) or '(none)'}.") from error
    check_position(active)
    sites = {
        acting_block(stack, levels[layer], active, layer, guided): Site(stack.name, layer, i, len(chosen), len(levels))
        for i, layer in enumerate(chosen)
    }
    if isinstance(active, nn.Module):
        check_order(model)
        check_home(stack)
        move_to_block(active, stack.blocks[min(sites)])
    if active.ragged and wanted.restore is False and (stack.reads_all or stack.output != "reduced"):
        raise OptionError(
            f"restore=False: samples keep different numbers of tokens with {name} here, and what follows the stack "
            f"{stack.name!r} reads all of them and would read what fills up the shorter ones; leave restore out"
        )
    if wanted.restore is False and stack.whole:
        raise OptionError(
            f"restore=False: {kind} needs every token of the stack {stack.name!r} at its place; leave restore out"
        )
    output = None if wanted.restore is None else "full" if wanted.restore else "reduced"
    return Binding(stack, views, prove(stack), active, reducer, plain, sites, output, wanted.trace), chosen


def view_of(stack: Stack, index: int) -> BlockView:
    """The view of a block.

    Raises:
        UnsupportedModelError: there is none, and why.
    """
    block = stack.blocks[index]
    try:
        return stack.view(block)
    except TokenReduceError:
        raise
    except Exception as error:  # a part that the adapter expects is not there, or is something else
        raise UnsupportedModelError(
            f"{type(block).__name__} {index} of stack {stack.name!r} has no view ({type(error).__name__}: {error}); "
            "attach to the plain model before what has changed the block"
        ) from error


def check_blocks(stack: Stack, model: str) -> None:
    """Raise UnsupportedModelError for a stack without blocks, or with one block several times."""
    if len({id(block) for block in stack.blocks}) < len(stack.blocks):
        raise UnsupportedModelError(f"stack {stack.name!r} of {model} uses one block several times")
    if not stack.blocks:
        raise UnsupportedModelError(f"stack {stack.name!r} of {model} has no blocks, so no layers")


def describe_stack(stack: Stack, depth: int, model: str) -> Backbone:
    """What a reducer may know of a stack before it is known where it acts."""
    provides = frozenset[str]().union(*(stack.provides(index) for index in range(len(stack.blocks))))
    one_sequence = any(len(streams) > 1 for streams in stack.sequences or [tuple(stack.prefix)])
    streams, protected = tuple(stack.prefix), dict(stack.prefix)
    return Backbone(stack.name, depth, streams, provides, one_sequence, model, stack.guidable, protected=protected)


def stream_width(stack: Stack, views: Sequence[BlockView], level: Sequence[int], stream: str) -> int:
    """Width of a stream's tokens in a layer: of the block that updates it, or of a memory."""
    for index in level:
        if stream in stack.role(index).own.split("+"):
            return parameter_width(stack.blocks[index])
    return views[level[0]].memory_width or parameter_width(stack.blocks[level[0]])


def acting_block(stack: Stack, level: Sequence[int], active: SiteReducer, layer: int, guided: bool = False) -> int:
    """The block of a layer where a reducer acts.

    Of the blocks that give every signal it needs, the first whose own sequence has the reducer's first stream;
    otherwise the first.
    """
    part = active.reducer.at(layer)
    there: SiteReducer = active if part is active.reducer else part  # of a chain, what acts in this layer
    given = frozenset(GUIDED) if guided and stack.guidable else frozenset[str]()
    fits = [index for index in level if frozenset(there.needs) <= stack.provides(index) | given]
    if not fits:
        offers = " or ".join(", ".join(sorted(stack.provides(index) | given)) for index in level)
        raise UnfitReducerError(
            f"{type(active.reducer).__name__} needs {', '.join(sorted(there.needs))} at one place; a block of layer "
            f"{layer} of stack {stack.name!r} gives {offers}. Choose another saliency, or let the parts of a chain act "
            "in different layers"
        )
    return next((index for index in fits if there.streams[0] in stack.role(index).own.split("+")), fits[0])


def runs_on(registry: Registry, name: str, backbone: Backbone) -> bool:
    """Whether a registered reducer runs on the backbone with its default options."""
    failed: list[str] = []
    with guard(failed.append):  # a reducer may raise anything; it is not recommended then
        registry.load("reducer", name)().bind(backbone)
    return not failed
