"""``attach``: resolve everything, check it, and only then touch the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.causal import CausalStack
from ..backbones.dispatch import is_replaced
from ..backbones.stack import Stack
from ..engine.binding import BaseBinding
from ..engine.causal.binding import CausalBinding
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
from . import saved_model
from .adapter_lookup import find_adapter
from .checkpoint import CONFIG, check_option_versions, fill, read_document, read_tensors
from .handle import Attachment
from .hub import attachment_folder
from .language import bind_language, check_placing, check_plain, choose_stack, language_replacements
from .readout import check_asked, read_alone
from .replacements import Replacement, check_originals, replacements
from .resolution import Wanted, bind_stack
from .sharding import check_sharding
from .towers import check_tower_signals, following


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
    unit: str | None = None,
    positions: str = "original",
    readout_only: bool = False,
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
        unit: in a language model with images, what is reduced by itself, and what an integer ``keep`` counts: each
            ``"image"`` (the default at the hand-over), each ``"tile"`` of an image that has several, or each
            ``"sample"`` (the default between layers).
        positions: in a language model, ``"original"``: every token keeps the position that it had in the prompt;
            ``"compact"``: what is left is numbered anew, as some papers publish.
        readout_only: let the last block compute only the tokens that the head reads (the class token). The model's
            output is the same up to rounding; whatever asks for other tokens is refused, here or in the call, and a
            part of the model that is called by itself gives the computed tokens alone. A method does not act after the
            attention of that block, where nobody reads what it leaves.
        **options: the reducer's options (``tokenreduce info NAME``).

    Raises:
        UnknownNameError, OptionError, UnknownOptionError, LayerError: a name or value that is not valid.
        UnsupportedModelError: no adapter takes the model, a block has no exact view, or with ``readout_only`` the head
            reads every token.
        UnfitReducerError: the backbone cannot feed the reducer.
        AlreadyAttachedError: there is an attachment already.
        PluginError: the plugin is broken.

    The model is untouched after any of them.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"attach expects a torch.nn.Module, got {type(model).__name__}")
    if restore is not None and not isinstance(restore, bool):
        raise OptionError(f"restore must be True, False or None, got {restore!r}")
    check_asked(readout_only, trace, restore)
    registry = default_registry()
    plan = plan_reducers(registry, reducer, layers, options)
    check_placing(unit, positions)
    asked = Asked(adapter, trace, restore, guide, unit, positions, readout_only)
    old = attachment(model)
    if old is None:
        with torch.random.fork_rng(devices=[]):  # new weights disturb no draw that follows
            return _attach(registry, model, plan, asked)
    if not replace:
        raise AlreadyAttachedError(
            f"{type(old.model).__name__} already has {old.config['reducer']!r}; call .detach() on its handle "
            "(tokenreduce.attachment(model) finds it), or pass replace=True"
        )
    old.detach()
    try:
        with torch.random.fork_rng(devices=[]):
            return _attach(registry, model, plan, asked)
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


@dataclass(frozen=True)
class Asked:
    """What attach is asked for beside reducers."""

    adapter: str | None
    trace: bool
    restore: bool | None
    guide: Tensor | None
    unit: str | None
    positions: str
    readout_only: bool


def _attach(registry: Registry, model: nn.Module, plan: ReducerPlan, asked: Asked) -> Attachment:
    adapter, family, stacks = find_adapter(registry, model, asked.adapter)
    check_sharding(model)
    refused = family.refusals(model)
    bindings: list[BaseBinding] = []
    patches: list[Replacement] = []
    configs: dict[str | None, dict[str, Any]] = {}
    for named, (reducer, name, layers) in plan.items():
        wanted = Wanted(reducer, name, layers, asked.trace, asked.restore, asked.guide is not None)
        if named is None:
            stack = choose_stack(registry, model, stacks, wanted)
        else:
            stack = _named_stack(model, stacks, refused, named)
        own: dict[str, Any] = {"reducer": name}
        if isinstance(stack, CausalStack):
            causal, acting = bind_language(registry, model, stack, wanted, asked.unit, asked.positions)
            bindings.append(causal)
            own |= {} if acting is None else {"layers": acting}
            configs[stack.name] = {**own, **causal.active.reducer.options()}
            continue
        binding, chosen = bind_stack(registry, model, stack, wanted)
        patches += replacements(binding)
        check_originals(stack, patches)
        try:
            binding.guard.check()
        except UnsupportedCallError as error:  # the same words, before anything is touched
            raise UnsupportedModelError(str(error)) from error
        bindings.append(binding)
        configs[named] = {**own, "layers": chosen, **binding.active.reducer.options()}
    common: dict[str, Any] = {"adapter": adapter, "trace": asked.trace, "restore": asked.restore}
    if asked.readout_only:
        read_alone(bindings, type(model).__name__)
        common["readout_only"] = True
    causals = [binding for binding in bindings if isinstance(binding, CausalBinding)]
    towers = [binding.stack for binding in bindings if not isinstance(binding, CausalBinding)]
    if not causals:
        check_plain(towers, asked.unit, asked.positions, type(model).__name__)
    check_tower_signals(causals, towers)
    if any(stack.carries for stack in towers) and not causals:
        causals = [following(stacks, asked.trace, asked.positions, type(model).__name__)]
        bindings += causals
    if causals:
        causals[0].stack.language.tower_reduced = bool(towers)
        causals[0].stack.language.prove()
        patches += language_replacements(causals)
        check_originals(causals[0].stack, patches)
        common |= {"unit": asked.unit, "positions": asked.positions}
    saving = saved_model.replacement(model)
    if saving is not None and not is_replaced(model, saved_model.METHOD):
        patches.append((model, saved_model.METHOD, saving))
    config = {**configs[None], **common} if None in configs else {"reducer": configs, **common}
    handle = Attachment(model, bindings, config, patches)
    for _, _, replacement in patches:
        if isinstance(replacement, (StackForward, saved_model.SavePretrained)):
            replacement.owner = handle
    if asked.guide is not None:  # of several stacks, the one that it can guide
        handle.guide(
            asked.guide, next((bound.stack.name for bound in bindings if bound.stack.guidable), bindings[0].stack.name)
        )
    handle.install()
    return handle


def _named_stack(model: nn.Module, stacks: Mapping[str, Stack], refused: Mapping[str, str], name: str) -> Stack:
    kind = type(model).__name__
    if name in stacks:
        return stacks[name]
    if name in refused:
        raise UnsupportedModelError(
            f"the stack {name!r} of {kind} cannot be reduced: {refused[name]}; it has: {', '.join(stacks)}"
        )
    raise UnsupportedModelError(f"{kind} has no stack {name!r}.{nearest(name, stacks)}")


def load(
    model: nn.Module,
    folder: str | Path,
    replace: bool = False,
    trust: bool = False,
    *,
    revision: str | None = None,
    token: Any = None,
) -> Attachment:
    """Attach what ``handle.save(folder)`` or ``handle.push_to_hub("user/repo")`` wrote, learned weights included.

    Args:
        model: one that the config fits; with the weights that it was trained to, which are saved apart.
        folder: with ``tokenreduce.json`` and, for learnable reducers, ``reducer.safetensors``; or ``"user/repo"`` of
            the Hugging Face hub, of which these two files are fetched (a folder of that name here comes first).
        replace: detach what is attached already.
        trust: import classes that the folder names by their module; without, a class that no plugin offers must have
            been imported before.
        revision: commit, branch or tag of a repository.
        token: for a private one, as huggingface_hub takes it.

    Raises:
        OptionError: a file is missing, or is not what ``save`` writes; or the hub says no.
        PluginError: a repository was named, and huggingface_hub is not installed.
        UnfitReducerError: weights that are missing, too many, or of other shapes; the message names them.

    And what :func:`tokenreduce.attach` raises. The model is untouched after any of them.
    """
    folder = attachment_folder(folder, revision, token)
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
