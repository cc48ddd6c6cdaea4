"""Finds plugins and keeps what they offer. Imports no torch; one broken plugin never takes the rest down."""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import PluginError, TokenReduceError, UnknownNameError, guard, nearest, reason_of
from .discovery import read_plugin
from .entry_points import Point, entry_points, output_apart
from .hookspecs import PROJECT
from .kinds import KINDS, Kind
from .spec import Spec, one_line

_ORDER = {"baseline": 0, "control": 1, "method": 2}


@dataclass(frozen=True)
class Entry:
    """A spec and where it comes from; ``module`` is that of the entry point."""

    spec: Spec
    plugin: str
    distribution: str
    version: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (plugin {self.plugin!r})"

    @property
    def library(self) -> str:
        """Top-level module that it needs, "" for none."""
        return str(getattr(self.spec, "library", ""))

    @property
    def missing(self) -> str:
        """The first of the modules that it needs which is not installed, "" where all are there."""
        wanted = (self.library, *getattr(self.spec, "requires", ()))
        return next((module for module in wanted if module and not _is_installed(module)), "")

    @property
    def usable(self) -> bool:
        """Whether all of them are installed."""
        return not self.missing

    @property
    def install(self) -> str:
        """The command that installs what is missing."""
        return f"pip install {shlex.quote(getattr(self.spec, 'install', '') or self.missing)}"


def _is_installed(module: str) -> bool:
    found = [False]
    with guard(lambda reason: None):  # of "a.b" the package a is imported, which may raise anything
        found.append(importlib.util.find_spec(module) is not None)
    return found[-1]


@dataclass(frozen=True)
class Broken:
    """A plugin, or one of its names, that cannot be used, and why."""

    plugin: str
    distribution: str
    version: str
    reason: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution} {self.version}"


@dataclass
class Registry:
    """What the installed plugins offer. Make one with :meth:`discover`.

    Attributes:
        tables: entries by kind and name; ``registry.reducers`` is ``registry.tables["reducer"]``, and so on.
        broken: plugins, and names, that cannot be used.
        disabled: plugins that were left out on request.
    """

    tables: dict[str, dict[str, Entry]] = field(default_factory=lambda: {name: {} for name in KINDS})
    broken: list[Broken] = field(default_factory=list)
    disabled: tuple[str, ...] = ()

    def __getattr__(self, plural: str) -> dict[str, Entry]:
        for kind in KINDS.values():
            if kind.plural == plural and "tables" in vars(self):
                return self.tables[kind.name]
        raise AttributeError(f"a Registry has no {plural!r}; it has {', '.join(k.plural for k in KINDS.values())}")

    @classmethod
    def discover(cls) -> Registry:
        """Scan the entry-point group ``tokenreduce``; ``TOKENREDUCE_DISABLE_PLUGINS=a,b`` skips plugins."""
        skip = {name.strip() for name in os.environ.get("TOKENREDUCE_DISABLE_PLUGINS", "").split(",")} - {""}
        registry = cls(disabled=tuple(sorted(skip)))
        points, damaged = entry_points(PROJECT)
        registry.broken += [Broken(name, name, version, reason) for name, version, reason in damaged]
        found: dict[str, dict[tuple[str, str], Point]] = {}
        for one in points:
            if one.point.name not in skip:
                found.setdefault(one.point.name, {}).setdefault((one.distribution, one.version), one)
        offered: list[tuple[Kind, Entry]] = []
        for plugin, origins in sorted(found.items()):
            if len(origins) > 1:
                both = " and ".join(f"{name} {version}" for name, version in origins)
                reason = f"two distributions register a plugin of this name: {both}; uninstall one"
                registry.broken.append(Broken(plugin, *next(iter(origins)), reason))
                continue
            for one in origins.values():
                offered += registry._load(one)
        registry._fill(offered)
        return registry

    def _load(self, one: Point) -> list[tuple[Kind, Entry]]:
        """The specs of one plugin; a broken one is noted and offers nothing."""
        plugin, module = one.point.name, one.point.value.partition(":")[0].strip()
        found: list[tuple[Kind, Entry]] = []
        reasons: list[str] = []
        with output_apart(), guard(reasons.append):
            for kind, spec in read_plugin(one.point):
                found.append((kind, Entry(spec, plugin, one.distribution, one.version, module)))
        if not reasons:
            return found
        names = tuple(entry.spec.name for _, entry in found)
        self.broken.append(Broken(plugin, one.distribution, one.version, one_line(reasons[0]), names))
        return []

    def _fill(self, offers: list[tuple[Kind, Entry]]) -> None:
        """Take every name that is offered once; a name offered twice is broken for both."""
        count = Counter((kind.name, entry.spec.name) for kind, entry in offers)
        for kind, entry in offers:
            name = entry.spec.name
            if count[kind.name, name] == 1:
                self.tables[kind.name][name] = entry
                continue
            rivals = " and ".join(str(e) for k, e in offers if k == kind and e.spec.name == name)
            reason = f"the name {name!r} is offered by {rivals}; disable one with TOKENREDUCE_DISABLE_PLUGINS"
            self.broken.append(Broken(entry.plugin, entry.distribution, entry.version, reason, (name,)))
        ordered = sorted(self.reducers.items(), key=lambda item: (_ORDER.get(_role(item[1]), 9), item[0]))
        self.tables["reducer"] = dict(ordered)

    def add(self, spec: Spec) -> None:
        """Offer one more, as if a plugin had: for tests, and to try a class before there is a package around it.

        Raises:
            PluginError: not a spec, or the name is taken.
        """
        kinds = [kind.name for kind in KINDS.values() if isinstance(spec, kind.spec)]
        if not kinds:
            valid = ", ".join(kind.spec.__name__ for kind in KINDS.values())
            raise PluginError(f"add takes one of {valid}, got {spec!r}")
        table = self.tables[kinds[0]]
        if spec.name in table:
            raise PluginError(f"the name {spec.name!r} is offered by {table[spec.name]} already; take another")
        table[spec.name] = Entry(spec, "added", "added by hand", "0", spec.target.partition(":")[0])

    def copy(self) -> Registry:
        """One that can be added to without changing this one."""
        return Registry(
            {kind: dict(table) for kind, table in self.tables.items()}, broken=list(self.broken), disabled=self.disabled
        )

    def entry(self, kind: str, name: str) -> Entry:
        """The entry ``name`` of a ``kind`` of :data:`KINDS`, such as ``"reducer"``.

        Raises:
            PluginError: a plugin that offers the name is broken or clashes.
            UnknownNameError: nobody offers the name.
        """
        table = self.tables[kind]
        if name in table:
            return table[name]
        for broken in self.broken:
            if name in broken.names or name == broken.plugin:
                raise PluginError(f"{kind} {name!r} cannot be used: {broken}: {broken.reason}. See 'tokenreduce list'.")
        raise UnknownNameError(
            f"no {kind} is called {name!r}.{nearest(name, table)}{self.suspects()} See 'tokenreduce list'."
        )

    def suspects(self) -> str:
        """A sentence on the plugins that are broken before they said what they offer; empty where there are none."""
        unread = [str(broken) for broken in self.broken if not broken.names]
        return f" What these would offer is unknown, as they are broken: {', '.join(unread)}." if unread else ""

    def load(self, kind: str, name: str) -> Any:
        """Import what ``name`` stands for; the errors of :meth:`entry`, and PluginError if the import fails."""
        entry = self.entry(kind, name)
        try:
            return entry.spec.load()
        except PluginError as error:
            raise PluginError(f"{kind} {error} Provided by {entry}.") from error

    @contextmanager
    def blame(self, kind: str, name: str) -> Iterator[None]:
        """Turns whatever the code of a plugin raises by mistake into a PluginError that names its distribution."""
        try:
            yield
        except (TokenReduceError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            entry = self.tables[kind].get(name)
            if entry is None:
                raise
            raise PluginError(
                f"{kind} {name!r} failed with {reason_of(error)}. Provided by {entry}; options and code: "
                f"'tokenreduce info {name}'"
            ) from error


def _role(entry: Entry) -> str:
    return str(getattr(entry.spec, "role", ""))


_in_force: list[Registry] = []


def default_registry() -> Registry:
    """The registry of this process: what is installed, found on first use, or the one in :func:`using`."""
    return _in_force[-1] if _in_force else _installed()


@contextmanager
def use_registry(registry: Registry) -> Iterator[Registry]:
    """A context in which ``attach`` and all else go by another registry."""
    _in_force.append(registry)
    try:
        yield registry
    finally:
        _in_force.pop()


def rescan() -> None:
    """Look again at what is installed, the next time it is asked for."""
    _installed.cache_clear()


@functools.cache
def _installed() -> Registry:
    return Registry.discover()
