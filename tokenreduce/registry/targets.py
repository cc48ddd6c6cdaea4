"""Names of the form ``module:attribute``: imported for whoever types them in Python, never because a file says so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..errors import OptionError
from .registry import default_registry
from .spec import Spec

SAFE = f"{__name__.partition('.')[0]}.methods."  # our own, whose import does nothing else
_source: ContextVar[str] = ContextVar("_source", default="")


@contextmanager
def names_from_file(where: str, trust: bool = False) -> Iterator[None]:
    """A context in which names come out of a file: they stand for what has been imported already, or for nothing.

    Args:
        where: the file, for the message.
        trust: import what it names all the same; for files whose author may run code here.
    """
    token = _source.set("" if trust else where)
    try:
        yield
    finally:
        _source.reset(token)


def resolve_target(name: str) -> Any:
    """What ``"module:attribute"`` stands for.

    Raises:
        PluginError: it cannot be imported. OptionError: the name comes out of a file, and has not been imported.
    """
    where = _source.get()
    if not where or name.startswith(SAFE) or name in offered_targets():
        return Spec("target", name, "").load()
    found = imported_class(name)
    if found is None:
        module = name.partition(":")[0]
        raise OptionError(
            f"{where} names {name!r}, which no plugin offers and which has not been imported; code is not run because "
            f"a file says so. If you trust its author, pass trust=True (--trust on the command line), or import "
            f"{module} first"
        )
    return found


def offered_targets() -> set[str]:
    """What the reducers of the installed plugins stand for."""
    return {entry.spec.target for entry in default_registry().reducers.values()}


def imported_class(name: str) -> type | None:
    """The class ``"module:attribute"`` if its module has been imported already, without running anything of it."""
    module, _, attribute = name.partition(":")
    found: Any = sys.modules.get(module) if attribute else None
    for part in attribute.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # getattr would run a module's own __getattr__
    return found if isinstance(found, type) else None
