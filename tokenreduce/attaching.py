"""``attach``: settle everything, prove it, and only then touch the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Stack
from .bound import Bound
from .errors import (
    AlreadyAttachedError,
    LayerError,
    OptionError,
    UnfitReducerError,
    UnknownOptionError,
    UnsupportedModelError,
    nearest,
)
from .finding import find_adapter
from .handle import Attachment, Patch
from .learnable import NAME, check_home, check_place, with_weights
from .proof import prove
from .reducer import Backbone, Reducer
from .registry import Registry, default_registry
from .settling import with_guide
from .spec import Spec
from .standins import BlockForward, StackForward
from .streams import Site


def attach(
    model: nn.Module,
    reducer: str | Reducer | Mapping[str, Any],
    *,
    layers: Sequence[int] | None = None,
    adapter: str | None = None,
    trace: bool = False,
    restore: bool | None = None,
    replace: bool = False,
    guide: Tensor | None = None,
    **options: Any,
) -> Attachment:
    """Make a model drop and merge tokens inside, until ``detach()``.

    Args:
        model: a model that an adapter takes (``tokenreduce list``).
        reducer: a name, a :class:`Reducer`, or one of these (or ``{"reducer": name, **options}``) per stack. Of a
            learnable one the model gets a copy, as its submodule ``tokenreduce``.
        layers: zero-based blocks (levels, in METER) where it acts; the method's default if None.
        adapter: name of the adapter, if not to be found.
        trace: keep for each pass where every input token went (``handle.trace()``).
        restore: True: every token back at its place at the end of the stack; False: leave the tokens as they
            are; None: what the model's head expects.
        replace: detach what is attached already.
        guide: text features for a dual encoder, as ``handle.guide(guide)`` sets them later.
        **options: the reducer's options (``tokenreduce info NAME``).

    Raises:
        UnknownNameError, OptionError, UnknownOptionError, LayerError: a name or value that is not valid.
        UnsupportedModelError: no adapter takes the model, or a block has no exact view.
        UnfitReducerError: the backbone cannot feed the reducer.
        AlreadyAttachedError: there is an attachment already.
        PluginError: the plugin is broken.

    The model is untouched after any of them.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"attach expects a torch.nn.Module, got {type(model).__name__}")
    if restore is not None and not isinstance(restore, bool):
        raise OptionError(f"restore must be True, False or None, got {restore!r}")
    registry = default_registry()
    plan = _plan(registry, reducer, layers, options)
    old = attachment(model)
    if old is None:
        with torch.random.fork_rng(devices=[]):  # new weights disturb no draw that follows
            return _attach(registry, model, plan, adapter, trace, restore, guide)
    if not replace:
        raise AlreadyAttachedError(
            f"{type(old.model).__name__} already has {old.config['reducer']!r}; call .detach() on its handle "
            "(tokenreduce.attachment(model) finds it), or pass replace=True"
        )
    old.detach()
    try:
        with torch.random.fork_rng(devices=[]):
            return _attach(registry, model, plan, adapter, trace, restore, guide)
    except BaseException:
        old.install()
        raise


def attachment(model: nn.Module) -> Attachment | None:
    """The attachment that a model, or a part of it, carries; None if there is none. Works on a deepcopy too."""
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, StackForward):
                return value.bound.handle
    return None


Plan = dict[str | None, tuple[Reducer, str, Sequence[int] | None]]


def _plan(
    registry: Registry,
    reducer: str | Reducer | Mapping[str, Any],
    layers: Sequence[int] | None,
    options: dict[str, Any],
) -> Plan:
    """Reducers by stack (None: the default stack), each with its name and layers."""
    if not isinstance(reducer, Mapping):
        return {None: (*make_reducer(registry, reducer, options), layers)}
    if options or layers is not None:
        given = ", ".join([*options, *(["layers"] if layers is not None else [])])
        raise OptionError(f"with a reducer per stack, put {given} inside: {{stack: {{'reducer': name, ...}}}}")
    if not reducer:
        raise OptionError("a reducer per stack needs at least one stack, got {}")
    plan: Plan = {}
    for stack, value in reducer.items():
        own = dict(value) if isinstance(value, Mapping) else {"reducer": value}
        if "reducer" not in own:
            raise OptionError(f"stack {stack!r} needs {{'reducer': name, ...}}, got {value!r}")
        own_layers = own.pop("layers", None)
        plan[stack] = (*make_reducer(registry, own.pop("reducer"), own), own_layers)
    return plan


def check_config(config: Mapping[str, Any]) -> None:
    """Make the reducers of a config, and let them go; raises what :func:`attach` would for its names and options."""
    options = {name: value for name, value in config.items() if name not in ("adapter", "trace", "restore")}
    _plan(default_registry(), options.pop("reducer"), options.pop("layers", None), options)


def make_reducer(registry: Registry, reducer: Any, options: Mapping[str, Any]) -> tuple[Reducer, str]:
    """A reducer and the name that stands for it in a config.

    Args:
        reducer: a registered name, ``"module:attribute"``, or a :class:`Reducer` (then without options).
    """
    if isinstance(reducer, Reducer):
        if options:
            raise UnknownOptionError(f"{', '.join(options)}: give options to {type(reducer).__name__}(...) itself")
        target = f"{type(reducer).__module__}:{type(reducer).__qualname__}"
        names = [name for name, entry in registry.reducers.items() if entry.spec.target == target]
        return reducer, names[0] if names else target
    if not isinstance(reducer, str):
        got = f"the class {reducer.__name__}; call it" if inspect.isclass(reducer) else type(reducer).__name__
        raise OptionError(f"reducer is a name, a Reducer or a mapping of stacks, got {got}")
    made = Spec("x", reducer, "").load() if ":" in reducer else registry.load("reducer", reducer)
    if not (inspect.isclass(made) and issubclass(made, Reducer)):
        raise OptionError(f"{reducer!r} stands for {made!r}, which is not a subclass of tokenreduce.Reducer")
    valid = made.option_defaults()
    for name in options:
        if name not in valid:
            raise UnknownOptionError(f"{reducer} has no option {name!r}.{nearest(name, valid)}")
    with registry.blamed("reducer", reducer):
        return made(**options), reducer


def _attach(
    registry: Registry,
    model: nn.Module,
    plan: Plan,
    adapter: str | None,
    trace: bool,
    restore: bool | None,
    guide: Tensor | None,
) -> Attachment:
    adapter, family, stacks = find_adapter(registry, model, adapter)
    refused = family.refused(model)
    bounds, patches, configs = [], [], {}
    for wanted, (reducer, name, layers) in plan.items():
        if wanted is not None and wanted not in stacks:
            if wanted in refused:
                raise UnsupportedModelError(
                    f"the stack {wanted!r} of {type(model).__name__} cannot be reduced: {refused[wanted]}; "
                    f"it has: {', '.join(stacks)}"
                )
            raise UnsupportedModelError(f"{type(model).__name__} has no stack {wanted!r}.{nearest(wanted, stacks)}")
        stack = stacks[wanted] if wanted is not None else next(iter(stacks.values()))
        bound, chosen = _bind(registry, model, stack, reducer, name, layers, trace, restore, guide is not None)
        prove(stack)
        patches += _patches(bound)
        check_originals(stack, patches)
        bounds.append(bound)
        configs[wanted] = {"reducer": name, "layers": chosen, **bound.reducer.options()}
    common = {"adapter": adapter, "trace": trace, "restore": restore}
    config = {**configs[None], **common} if None in configs else {"reducer": configs, **common}
    handle = Attachment(model, bounds, config, patches)
    if guide is not None:  # of several stacks, the one that it can guide
        handle.guide(guide, next((bound.stack.name for bound in bounds if bound.stack.guidable), bounds[0].stack.name))
    handle.install()
    return handle


def _bind(
    registry: Registry,
    model: nn.Module,
    stack: Stack,
    reducer: Reducer,
    name: str,
    layers: Sequence[int] | None,
    trace: bool,
    restore: bool | None,
    guided: bool,
) -> tuple[Bound, list[int]]:
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
        with registry.blamed("reducer", name):
            settled = reducer.bind(with_guide(backbone) if guided and stack.guidable else backbone)
    except UnfitReducerError as error:
        fit = [other for other in registry.reducers if other != name and _fits(registry, other, backbone)]
        raise UnfitReducerError(f"{error} Reducers that run here: {', '.join(fit) or '(none)'}.") from error
    with registry.blamed("reducer", name):
        chosen = check_layers(settled.layers(len(levels)) if layers is None else layers, len(levels), stack.name)
        settled.check_sites(len(chosen))
    check_place(settled)
    sites = {
        place(stack, levels[layer], settled.at(layer), guided): Site(stack.name, layer, i, len(chosen), len(levels))
        for i, layer in enumerate(chosen)
    }
    views = [stack.view(block) for block in stack.blocks]
    if isinstance(settled, nn.Module):
        check_home(stack)
        first = min(sites)
        with registry.blamed("reducer", name):
            settled = with_weights(settled, stack, first, views[first], len(chosen))
        reducer = reducer.changed()
    ending = stack.ending if restore is None else "full" if restore else "none"
    return Bound(stack, views, settled, reducer, backbone, sites, ending, trace), chosen


def place(stack: Stack, level: Sequence[int], reducer: Reducer, guided: bool = False) -> int:
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


def _fits(registry: Registry, name: str, backbone: Backbone) -> bool:
    """Whether a registered reducer runs on the backbone with its default options."""
    try:
        registry.load("reducer", name)().bind(backbone)
    except Exception:  # a stranger's reducer may raise anything; it is not recommended then
        return False
    return True


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


def check_originals(stack: Stack, patches: list[Patch]) -> None:
    """Raise UnsupportedModelError where something else has replaced what would be replaced now."""
    for module, attribute, _ in patches:
        if attribute in vars(module):
            raise UnsupportedModelError(
                f"{attribute} of this {type(module).__name__} was replaced on the instance (by a patch, or by "
                "offloading hooks); attaching would lose that. Undo it first, attach, and apply it again afterwards."
            )
    for module, attribute, function in stack.originals():
        if getattr(type(module), attribute) is not function:
            raise UnsupportedModelError(
                f"{type(module).__name__} defines its own {attribute}(), which this adapter does not know; "
                "write an adapter for it (tokenreduce.Adapter), or use the library's class"
            )


def _patches(bound: Bound) -> list[Patch]:
    patches: list[Patch] = [(bound.stack.module, bound.stack.entry, StackForward(bound))]
    patches += [(block, "forward", BlockForward(bound, block, i)) for i, block in enumerate(bound.stack.blocks)]
    if isinstance(bound.reducer, nn.Module):
        patches.append((bound.stack.home, NAME, bound.reducer))
    return patches + bound.stack.patches()
