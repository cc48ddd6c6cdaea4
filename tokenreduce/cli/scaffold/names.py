"""The names of a new plugin: what the user types, the distribution, the Python package, the class."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass

from ...errors import OptionError
from ...registry.registry import Registry

LONGEST = 24  # characters: generated lines stay within the usual length
_NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """All that follows from the name of a plugin."""

    name: str

    @property
    def distribution(self) -> str:
        """What pip calls it, and its folder."""
        return f"tokenreduce-{self.name}"

    @property
    def package(self) -> str:
        """What is imported."""
        return "tokenreduce_" + re.sub(r"[._-]", "_", self.name)

    @property
    def class_name(self) -> str:
        """``key-norm`` gives ``KeyNorm``."""
        return "".join(part.capitalize() for part in re.split(r"[._-]", self.name))


def plugin_names(name: str, registry: Registry) -> Names:
    """The names of a new plugin.

    Raises:
        OptionError: not a name that a spec, a distribution and a Python package can all have, or one that is taken.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        near = (f"my-{near}" if near[:1].isdigit() else near)[:LONGEST].rstrip("-")
        hint = f"; try {near!r}" if near else ""
        raise OptionError(
            "a name is lower-case letters and digits, a letter first, parts joined by '-', '_' or '.', at most "
            f"{LONGEST} characters; got {name!r}{hint}"
        )
    names = Names(name)
    if keyword.iskeyword(names.class_name):
        raise OptionError(f"the class would be called {names.class_name}, a word of Python; try '{name}-tokens'")
    taken = holder(names, registry)
    if taken:
        raise OptionError(f"the name {name!r} is taken: {taken}; choose another, such as 'my-{name}'")
    return names


def holder(names: Names, registry: Registry) -> str:
    """Who has the name already, in words; "" if nobody."""
    for kind, table in registry.tables.items():
        for name, entry in table.items():
            if name == names.name:
                return f"it is a {kind} of {entry}"
            if entry.plugin == names.name:
                return f"it is the plugin that offers the {kind} {name!r}, of {entry.distribution} {entry.version}"
    for broken in registry.broken:
        if names.name in (broken.plugin, *broken.names):
            return f"it belongs to {broken}, which is broken"
    found = importlib.util.find_spec(names.package)
    if found is not None and found.origin is not None:
        return f"a Python package {names.package} is there already, at {found.origin}"
    return ""
