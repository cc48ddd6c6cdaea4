"""``tokenreduce info NAME``: options, needs, source, and the backbones it can run on here."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from ..errors import UnknownNameError, nearest
from ..registry.description import reducer
from ..registry.kinds import KINDS
from ..registry.registry import Entry, Registry, default_registry
from ..registry.source import read_class
from ..registry.spec import ReducerSpec


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "info", help="options, needs, source and backbones of a reducer; or an adapter, a task, a preset, a loader"
    )
    parser.add_argument("name")
    parser.add_argument("--markdown", action="store_true", help="a reducer's facts as a page of documentation has them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is known of a name."""
    registry, name = default_registry(), arguments.name
    if arguments.markdown:
        with registry.blame("reducer", name):
            page = reducer(registry, name)
        print(page, end="")
        return 0
    found = [kind for kind in KINDS if name in registry.tables[kind]]
    if not found:
        for broken in registry.broken:
            if name in (broken.plugin, *broken.names):
                registry.entry("reducer", name)  # raises with the reason
        names = [n for table in registry.tables.values() for n in table]
        raise UnknownNameError(
            f"nothing is called {name!r}.{nearest(name, names)}{registry.suspects()} See 'tokenreduce list'."
        )
    for kind in found:
        entry = registry.entry(kind, name)
        print(f"{name} ({kind}): {entry.spec.description}")
        print(f"  from      {entry}")
        print(f"  code      {entry.spec.target}")
        if isinstance(entry.spec, ReducerSpec):
            _reducer(registry, entry, entry.spec)
            continue
        for fact in ("source", "models"):
            if hasattr(entry.spec, fact):
                print(f"  {fact}    {getattr(entry.spec, fact) or '-'}")
        if hasattr(entry.spec, "library"):
            print(f"  library   {_library(entry)}")
    return 0


def _reducer(registry: Registry, entry: Entry, spec: ReducerSpec) -> None:
    read = None if spec.layers is None else read_class(spec.target)
    if read is not None and spec.layers is not None:
        layers, options, doc = list(spec.layers), read.options, read.doc
    else:
        made = registry.load("reducer", spec.name)
        with registry.blame("reducer", spec.name):
            layers, options = made().usual_layers(12), made.option_defaults()
        doc = inspect.getdoc(made) or ""
    print(f"  source    {spec.source or '-'}")
    print(f"  needs     {', '.join(spec.needs) or 'nothing'} (with default options)")
    print(f"  layers    {layers} of 12 by default")
    print("  options")
    for name, default in options.items():
        print(f"    {name} = {default!r}")
    print("  runs on")
    for name, adapter in registry.adapters.items():
        print(f"    {name}: {getattr(adapter.spec, 'models', '') or adapter.spec.description} ({_library(adapter)})")
    for paragraph in doc.split("\n\n"):
        print("\n  " + paragraph.replace("\n", "\n  "))


def _library(entry: Entry) -> str:
    """Whether the library of an adapter or loader is installed here."""
    if entry.missing:
        return f"{entry.missing} is not installed: {entry.install}"
    modules = [module for module in (entry.library, *getattr(entry.spec, "requires", ())) if module]
    if not modules:
        return "no library needed"
    return f"{' and '.join(modules)} {'is' if len(modules) == 1 else 'are'} installed"
