"""Which adapter takes a model."""

from __future__ import annotations

import sys
import warnings

from torch import nn

from ..backbones.adapter import Adapter
from ..backbones.stack import Stack
from ..errors import PluginError, TokenReduceError, UnsupportedModelError
from ..registry.registry import Registry

Found = tuple[str, Adapter, dict[str, Stack]]


def find_adapter(registry: Registry, model: nn.Module, name: str | None) -> Found:
    """The adapter that takes the model, by name and as an object, and the model's stacks.

    Raises:
        UnsupportedModelError: none does, or it says why not.
    """
    found: list[tuple[str, Adapter]] = []
    broken: list[str] = []
    for candidate in [name] if name else registry.adapters:
        library = getattr(registry.entry("adapter", candidate).spec, "library", "")
        if not name and library and library not in sys.modules:
            continue  # no model of a library that was never imported
        try:
            with registry.blame("adapter", candidate):
                adapter: Adapter = registry.load("adapter", candidate)()
                if adapter.accepts(model):
                    found.append((candidate, adapter))
        except PluginError as error:  # one that is broken does not keep the others from their models
            if name:
                raise
            broken.append(str(error))
    if found and broken:
        warnings.warn(" ".join(broken), RuntimeWarning, stacklevel=4)
    if found:
        return widest(registry, model, found)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if name:
        raise UnsupportedModelError(f"adapter {name!r} does not take {kind}; leave adapter= out to search all")
    wrapped = [key for key in ("_orig_mod", "module") if isinstance(getattr(model, key, None), nn.Module)]
    hint = f" It is a wrapper: attach to model.{wrapped[0]} before wrapping." if wrapped else ""
    known = "; ".join(
        f"{n}: {getattr(e.spec, 'models', '') or e.spec.description}" for n, e in registry.adapters.items()
    )
    hint += f" Broken: {' '.join(broken)}" if broken else ""
    raise UnsupportedModelError(f"no adapter takes {kind}.{hint} Supported: {known or '(no adapters installed)'}.")


def widest(registry: Registry, model: nn.Module, found: list[tuple[str, Adapter]]) -> Found:
    """Of several adapters that take a model, the one with most blocks of it: METER's, not that of its tower.

    Raises:
        UnsupportedModelError, PluginError: every one of them refuses the model, or fails; the first one's reason.
    """
    best: tuple[int, Found] | None = None
    reasons: list[TokenReduceError] = []
    for name, adapter in found:
        entry = registry.entry("adapter", name)
        if entry.missing:
            reasons.append(PluginError(f"the adapter {name!r} needs {entry.missing}: {entry.install}"))
            continue
        try:
            with registry.blame("adapter", name):
                stacks = adapter.stacks(model)
        except (UnsupportedModelError, PluginError) as error:
            reasons.append(error)
            continue
        size = sum(len(stack.blocks) for stack in stacks.values())
        if best is None or size > best[0]:
            best = size, (name, adapter, stacks)
    if best is None:
        raise reasons[0]
    return best[1]
