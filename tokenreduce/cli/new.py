"""``tokenreduce new KIND NAME``: a plugin of one's own to begin with, complete and tested."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..registry.registry import default_registry
from .scaffold.files import KINDS, next_steps, render, write
from .scaffold.names import plugin_names


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("new", help="write a package with a reducer, an adapter or a task to begin with")
    parser.add_argument("kind", choices=KINDS, help="what the plugin offers")
    parser.add_argument("name", metavar="NAME", help="what users will type, such as key-norm")
    parser.add_argument("--into", metavar="FOLDER", type=Path, default=Path(), help="parent folder (the current one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the package, print what to type next."""
    names = plugin_names(arguments.name, default_registry())
    files = render(arguments.kind, names)
    folder = arguments.into / names.distribution
    write(files, folder)
    print(f"written: {folder}")
    for path in files:
        print(f"  {path}")
    print("\nnext:")
    for step in next_steps(arguments.kind, names, folder):
        print(f"  {step}")
    return 0
