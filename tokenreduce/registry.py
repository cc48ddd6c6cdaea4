"""Finds plugins and keeps what they offer. Imports no torch; one broken plugin never takes the rest down."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pluggy

from . import hookspecs
from .errors import PluginError, UnknownNameError, nearest
from .spec import AdapterSpec, LoaderSpec, PresetSpec, ReducerSpec, Spec, TaskSpec

S = TypeVar("S", bound=Spec)
KINDS: dict[str, type[Spec]] = {
    "tokenreduce_reducers": ReducerSpec,
    "tokenreduce_adapters": AdapterSpec,
    "tokenreduce_tasks": TaskSpec,
    "tokenreduce_presets": PresetSpec,
    "tokenreduce_loaders": LoaderSpec,
}
_ORDER = {"baseline": 0, "control": 1, "method": 2}


@dataclass(frozen=True)
class Entry:
    """A spec and where it comes from."""

    spec: Spec
    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (plugin {self.plugin!r})"


@dataclass(frozen=True)
class Broken:
    """A plugin, or one of its names, that cannot be used, and why."""

    plugin: str
    distribution: str
    version: str
    reason: str
    names: tuple[str, ...] = ()


@dataclass
class Registry:
    """What the installed plugins offer. Make one with :meth:`discover`."""

    reducers: dict[str, Entry] = field(default_factory=dict)
    adapters: dict[str, Entry] = field(default_factory=dict)
    tasks: dict[str, Entry] = field(default_factory=dict)
    presets: dict[str, Entry] = field(default_factory=dict)
    loaders: dict[str, Entry] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    disabled: tuple[str, ...] = ()

    @classmethod
    def discover(cls) -> Registry:
        """Scan the entry-point group ``tokenreduce``; ``TOKENREDUCE_DISABLE_PLUGINS=a,b`` skips plugins."""
        skip = {name.strip() for name in os.environ.get("TOKENREDUCE_DISABLE_PLUGINS", "").split(",")} - {""}
        registry = cls(disabled=tuple(sorted(skip)))
        found: dict[str, list[tuple[str, str]]] = {}
        for point in importlib.metadata.entry_points(group=hookspecs.PROJECT):
            dist = point.dist
            origin = (dist.metadata["Name"], dist.version) if dist is not None else ("unknown", "?")
            if point.name not in skip and origin not in found.setdefault(point.name, []):
                found[point.name].append(origin)
        offers: list[tuple[str, Entry]] = []
        for plugin, origins in sorted(found.items()):
            if len(origins) > 1:
                both = " and ".join(f"{name} {version}" for name, version in origins)
                reason = f"two distributions register a plugin of this name: {both}; uninstall one"
                registry.broken.append(Broken(plugin, *origins[0], reason))
                continue
            offers += registry._load(plugin, *origins[0])
        registry._fill(offers)
        return registry

    def _load(self, plugin: str, distribution: str, version: str) -> list[tuple[str, Entry]]:
        """Register one plugin with a manager of its own and collect its specs."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        offers: list[tuple[str, Entry]] = []
        try:
            if not manager.load_setuptools_entrypoints(hookspecs.PROJECT, name=plugin):
                raise PluginError("its entry point could not be registered")
            manager.check_pending()
            for hook, kind in KINDS.items():
                for specs in getattr(manager.hook, hook)():
                    for spec in specs:
                        if not isinstance(spec, kind):
                            raise PluginError(f"{hook} must yield {kind.__name__}, got {type(spec).__name__}")
                        offers.append((hook, Entry(spec, plugin, distribution, version)))
        except Exception as error:  # a stranger's code: whatever it raises is reported, not passed on
            reason = f"{type(error).__name__}: {error}"
            names = tuple(entry.spec.name for _, entry in offers)
            self.broken.append(Broken(plugin, distribution, version, reason, names))
            return []
        return offers

    def _fill(self, offers: list[tuple[str, Entry]]) -> None:
        """Take every name that is offered once; a name offered twice is broken for both."""
        count = Counter((hook, entry.spec.name) for hook, entry in offers)
        for hook, entry in offers:
            name = entry.spec.name
            table: dict[str, Entry] = getattr(self, hook.removeprefix("tokenreduce_"))
            if count[hook, name] == 1:
                table[name] = entry
                continue
            rivals = " and ".join(str(e) for h, e in offers if h == hook and e.spec.name == name)
            reason = f"the name {name!r} is offered by {rivals}; disable one with TOKENREDUCE_DISABLE_PLUGINS"
            self.broken.append(Broken(entry.plugin, entry.distribution, entry.version, reason, (name,)))
        ordered = sorted(self.reducers.items(), key=lambda item: (_ORDER.get(_role(item[1]), 9), item[0]))
        self.reducers = dict(ordered)

    def entry(self, kind: str, name: str) -> Entry:
        """The entry ``name`` of ``kind``: ``"reducer"``, ``"adapter"``, ``"task"``, ``"preset"`` or ``"loader"``.

        Raises:
            PluginError: a plugin that offers the name is broken or clashes.
            UnknownNameError: nobody offers the name.
        """
        table: dict[str, Entry] = getattr(self, f"{kind}s")
        if name in table:
            return table[name]
        for broken in self.broken:
            if name in broken.names or name == broken.plugin:
                raise PluginError(
                    f"{kind} {name!r} cannot be used: plugin {broken.plugin!r} of {broken.distribution} "
                    f"{broken.version}: {broken.reason}. See 'tokenreduce list'."
                )
        raise UnknownNameError(f"no {kind} is called {name!r}.{nearest(name, table)} See 'tokenreduce list'.")

    def load(self, kind: str, name: str) -> Any:
        """Import what ``name`` stands for; the errors of :meth:`entry`, and PluginError if the import fails."""
        entry = self.entry(kind, name)
        try:
            return entry.spec.load()
        except PluginError as error:
            raise PluginError(f"{kind} {error} Provided by {entry}.") from error


def _role(entry: Entry) -> str:
    return str(getattr(entry.spec, "role", ""))


@functools.cache
def default_registry() -> Registry:
    """The registry of this process, made on first use. ``default_registry.cache_clear()`` scans again."""
    return Registry.discover()
