"""``attach``: resolve everything, check it, and only then touch the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.wrappers import StackForward
from ..errors import (
    AlreadyAttachedError,
    OptionError,
    UnsupportedCallError,
    UnsupportedModelError,
    nearest,
)
from ..methods.factory import ReducerPlan, plan_reducers
from ..methods.reducer import BaseReducer
from ..registry.registry import Registry, default_registry
from ..registry.targets import names_from_file
from .adapter_lookup import find_adapter
from .checkpoint import CONFIG, check_option_versions, fill, read_document, read_tensors
from .handle import Attachment
from .replacements import check_originals, replacements
from .resolution import Wanted, bind_stack


def attach(
    model: nn.Module,
    reducer: str | BaseReducer | Mapping[str, Any],
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
            learnable one the weights become the model's submodule ``tokenreduce``.
        layers: zero-based blocks (levels, in METER) where it acts; the method's default if None.
        adapter: name of the adapter, if not to be found.
        trace: keep for each pass where every input token went (``handle.last.trace``).
        restore: True: every token is restored to its original position at the end of the stack; False: the tokens
            are left as they are; None: what the model's head expects.
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
    plan = plan_reducers(registry, reducer, layers, options)
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
            value = getattr(value, "__func__", value)  # accelerate binds what it finds
            if isinstance(value, StackForward):
                owner: Attachment | None = value.owner
                return owner
    return None


def _attach(
    registry: Registry,
    model: nn.Module,
    plan: ReducerPlan,
    adapter: str | None,
    trace: bool,
    restore: bool | None,
    guide: Tensor | None,
) -> Attachment:
    adapter, family, stacks = find_adapter(registry, model, adapter)
    refused = family.refusals(model)
    bindings, patches, configs = [], [], {}
    for wanted, (reducer, name, layers) in plan.items():
        if wanted is not None and wanted not in stacks:
            if wanted in refused:
                raise UnsupportedModelError(
                    f"the stack {wanted!r} of {type(model).__name__} cannot be reduced: {refused[wanted]}; "
                    f"it has: {', '.join(stacks)}"
                )
            raise UnsupportedModelError(f"{type(model).__name__} has no stack {wanted!r}.{nearest(wanted, stacks)}")
        stack = stacks[wanted] if wanted is not None else next(iter(stacks.values()))
        asked = Wanted(reducer, name, layers, trace, restore, guide is not None)
        binding, chosen = bind_stack(registry, model, stack, asked)
        patches += replacements(binding)
        check_originals(stack, patches)
        try:
            binding.guard.check()
        except UnsupportedCallError as error:  # the same words, before anything is touched
            raise UnsupportedModelError(str(error)) from error
        bindings.append(binding)
        configs[wanted] = {"reducer": name, "layers": chosen, **binding.active.reducer.options()}
    common = {"adapter": adapter, "trace": trace, "restore": restore}
    config = {**configs[None], **common} if None in configs else {"reducer": configs, **common}
    handle = Attachment(model, bindings, config, patches)
    for _, _, replacement in patches:
        if isinstance(replacement, StackForward):
            replacement.owner = handle
    if guide is not None:  # of several stacks, the one that it can guide
        handle.guide(
            guide, next((bound.stack.name for bound in bindings if bound.stack.guidable), bindings[0].stack.name)
        )
    handle.install()
    return handle


def load(model: nn.Module, folder: str | Path, replace: bool = False, trust: bool = False) -> Attachment:
    """Attach what ``handle.save(folder)`` wrote, learned weights included.

    Args:
        model: one that the config fits; with the weights that it was trained to, which are saved apart.
        folder: with ``tokenreduce.json`` and, for learnable reducers, ``reducer.safetensors``.
        replace: detach what is attached already.
        trust: import classes that the folder names by their module; without, a class that no plugin offers must have
            been imported before.

    Raises:
        OptionError: a file is missing, or is not what ``save`` writes.
        UnfitReducerError: weights that are missing, too many, or of other shapes; the message names them.

    And what :func:`tokenreduce.attach` raises. The model is untouched after any of them.
    """
    folder = Path(folder)
    document = read_document(folder)
    read_tensors(folder)
    old = attachment(model)
    with names_from_file(str(folder / CONFIG), trust):
        check_option_versions(document, folder / CONFIG)
        handle = attach(model, **document["config"], replace=replace)
    try:
        fill({name: one.reducer for name, one in handle.stacks.items()}, folder, type(model).__name__)
        for stack, factor in document.get("factors", {}).items():
            handle.scale(factor, stack)
    except BaseException:
        handle.detach()
        if old is not None:
            old.install()
        raise
    return handle
