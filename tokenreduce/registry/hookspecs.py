"""The hooks of a tokenreduce plugin. Project name and entry-point group are both ``tokenreduce``.

A plugin is a module or object with some of these functions, each marked with ``tokenreduce.registry.hookimpl``:

    # my_package/__init__.py
    from tokenreduce.registry import ReducerSpec, hookimpl

    @hookimpl
    def tokenreduce_reducers():
        yield ReducerSpec("key-norm", "my_package.method:KeyNorm", "keep tokens with long keys")

    # pyproject.toml
    [project.entry-points.tokenreduce]
    my-package = "my_package"

It may say which interface it was written against, ``tokenreduce_interface = 1``; without that it is taken to be for
the present one. A plugin for another interface is refused and reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pluggy

from .kinds import HOOKS, Kind
from .spec import Spec

PROJECT = "tokenreduce"
INTERFACE = 1  # of plugins: goes up when one that works today would have to change
hookimpl = pluggy.HookimplMarker(PROJECT)


def hookspec(kind: Kind) -> Any:
    """The specification of a kind's hook, for pluggy."""

    def offer() -> Iterable[Spec]:
        return ()

    offer.__name__ = offer.__qualname__ = kind.hook
    offer.__doc__ = kind.offers
    return pluggy.HookspecMarker(PROJECT)(offer)


SPECS = type("Hooks", (), {name: staticmethod(hookspec(kind)) for name, kind in HOOKS.items()})
"""All hooks, as pluggy's ``add_hookspecs`` takes them."""
