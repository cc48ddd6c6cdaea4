"""Reducers on a language model with images: bound to its stacks, and what attach puts on the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..backbones.causal import TEXT_BEHIND, CausalStack
from ..backbones.stack import Stack
from ..core.schedules import check_layers
from ..core.site import Site
from ..engine.causal.binding import POSITIONS, CausalBinding
from ..engine.causal.forward import CausalForward
from ..engine.causal.run import HANDOVER, NEXT, TOWER
from ..engine.causal.units import UNITS
from ..engine.wrappers import StandIn
from ..errors import LayerError, OptionError, UnfitReducerError, UnsupportedModelError
from ..methods.backbone import Backbone
from ..methods.contract import check_position
from ..methods.site_reducer import SiteReducer
from ..registry.registry import Registry
from .replacements import Replacement, replicas
from .resolution import Wanted, runs_on

ROWS = TEXT_BEHIND | {"readout_attention", "text_attention", *NEXT}


def check_placing(unit: Any, positions: Any) -> None:
    """Raise OptionError for a unit or positions that there are not."""
    if unit is not None and unit not in UNITS:
        raise OptionError(f"unit must be one of {', '.join(map(repr, UNITS))}, got {unit!r}")
    if positions not in POSITIONS:
        raise OptionError(f"positions must be one of {', '.join(map(repr, POSITIONS))}, got {positions!r}")


def check_plain(stacks: Sequence[Stack], unit: Any, positions: Any, model: str) -> None:
    """Raise OptionError where no stack is a language model's, but one of its settings is given."""
    given = [f"unit={unit!r}"] if unit is not None else []
    given += [f"positions={positions!r}"] if positions != POSITIONS[0] else []
    if positions != POSITIONS[0] and any(stack.carries for stack in stacks):
        given.remove(f"positions={positions!r}")
    if given:
        stack = stacks[0]
        raise OptionError(
            f"{' and '.join(given)} is for language models with images; the stack {stack.name!r} of {model} takes a "
            "picture as a whole and keeps positions. Leave it out"
        )


def bind_language(
    registry: Registry, model: nn.Module, stack: CausalStack, wanted: Wanted, unit: str | None, positions: str
) -> tuple[CausalBinding, list[int] | None]:
    """A reducer bound to a stack of a language model, and the layers after which it acts (None: the hand-over).

    Raises:
        UnfitReducerError: the stack cannot feed the reducer, or it learns. LayerError, OptionError: layers or
        positions that are not valid. UnsupportedModelError: ``restore`` was given.
    """
    kind, name, language = type(model).__name__, wanted.name, stack.language
    if wanted.restore is not None:
        raise UnsupportedModelError(
            f"restore={wanted.restore} is for encoders; to the world outside its layers a language model's sequence "
            "keeps its length anyhow. Leave it out"
        )
    if positions == "compact" and language.compact is not True:
        raise OptionError(f"positions='compact': {language.compact}; leave it at 'original'")
    if unit == "tile" and not language.tiled:
        raise OptionError(
            f"unit='tile': the images of {type(language.module).__name__} are of one piece; unit must be one of "
            f"{', '.join(map(repr, UNITS[:2]))} here"
        )
    if not stack.depth and wanted.layers is not None:
        raise LayerError(
            f"layers={list(wanted.layers)}: the hand-over lies before the first layer and has none itself; leave "
            "layers out, or name the stack 'language'"
        )
    layered = bool(stack.depth)
    plain = Backbone(stack.name, max(stack.depth, 1), ("image",), stack.provides(0), False, kind)
    with registry.blame("reducer", name):
        if layered:
            layers = wanted.reducer.layers(plain) if wanted.layers is None else wanted.layers
            chosen = check_layers(layers, stack.depth, stack.name)
            reducer = wanted.reducer if wanted.layers is None else wanted.reducer.within(chosen)
        else:
            chosen, reducer = [0], wanted.reducer.within([0])
        reducer.check_sites(len(chosen))
    try:
        with registry.blame("reducer", name), torch.inference_mode(False), torch.device("cpu"):
            active = reducer.bind(plain)
    except UnfitReducerError as error:
        fit = [other for other in registry.reducers if other != name and runs_on(registry, other, plain)]
        raise UnfitReducerError(f"{error} Reducers that run here: {', '.join(fit) or '(none)'}.") from error
    if isinstance(active, nn.Module):
        raise UnfitReducerError(
            f"{type(active.reducer).__name__} learns weights inside the layers it acts in, and the layers of a "
            "language model run whole, as their library wrote them; train it on an encoder, or use a method without "
            "weights"
        )
    check_position(active)
    if layered and NEXT & frozenset(active.needs) and stack.depth - 1 in chosen:
        raise LayerError(
            f"{name} reads what the next layer would attend to, and none comes after layer {stack.depth - 1}, the "
            f"last of stack {stack.name!r}; name layers up to {stack.depth - 2}"
        )
    depth = max(stack.depth, 1)
    sites = {
        layer if layered else HANDOVER: Site(stack.name, layer, i, len(chosen), depth) for i, layer in enumerate(chosen)
    }
    compact = positions == "compact"
    binding = CausalBinding(stack, active, reducer, plain, sites, wanted.trace, unit or stack.unit, compact)
    return binding, chosen if layered else None


def choose_stack(registry: Registry, model: nn.Module, stacks: dict[str, Stack], wanted: Wanted) -> Stack:
    """The stack for a reducer for which none was named: the first that has its layers and gives its signals.

    Of models that are not language models it is the first stack.
    """
    first = next(iter(stacks.values()))
    if not isinstance(first, CausalStack):
        return first
    fits = [stack for stack in stacks.values() if isinstance(stack, CausalStack)]
    if wanted.layers is not None:
        fits = [stack for stack in fits if stack.depth]
    for stack in fits:
        backbone = Backbone(stack.name, max(stack.depth, 1), ("image",), stack.provides(0), False, type(model).__name__)
        try:
            with registry.blame("reducer", wanted.name):
                bound: SiteReducer = wanted.reducer.bind(backbone)
        except UnfitReducerError:
            continue
        if frozenset(bound.needs) <= stack.provides(0):
            return stack
    return fits[0]


def language_replacements(bindings: Sequence[CausalBinding]) -> list[Replacement]:
    """All that stands in for something of a language model whose stacks are reduced."""
    language = bindings[0].stack.language
    needs = [(binding.stack.depth, frozenset(binding.active.needs)) for binding in bindings]
    language.wanted = frozenset().union(*(names & TOWER for depth, names in needs if not depth))
    language.reads_rows = any(names & ROWS for depth, names in needs if depth)
    forward: Callable[..., Any] = CausalForward(language, bindings)
    patches: list[Replacement] = [(language.module, "forward", forward)]
    for module, attribute, function in language.replacements():
        patches.append((module, attribute, StandIn(module, attribute, function)))
    return patches + replicas(patches)
