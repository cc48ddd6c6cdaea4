"""What plugins offer, as Markdown: the parts of the documentation that are read off the code."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from typing import Any

from .kinds import KINDS, Kind
from .registry import Registry
from .spec import ReducerSpec, Spec

_ARGUMENT = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", re.M | re.S)
_POSITIONS = {"after_attention": "after the attention of a block, before its MLP", "before_block": "before a block"}


def reducer(registry: Registry, name: str) -> str:
    """Facts, options and docstring of a registered reducer.

    Raises:
        UnknownNameError, PluginError: as :meth:`Registry.load`.
    """
    entry, kind = registry.entry("reducer", name), registry.load("reducer", name)
    spec, made = entry.spec, kind()
    assert isinstance(spec, ReducerSpec)
    text, arguments = docstring(kind)
    rows = [
        ("source", spec.source or "-"),
        ("code", f"`{spec.target}`, plugin `{entry.plugin}` of `{entry.distribution}`"),
        ("role", spec.role + (", learned with the model" if spec.learns else "")),
        ("signals", ", ".join(f"`{signal}`" for signal in spec.needs) or "none"),
        ("streams", ", ".join(f"`{stream}`" for stream in made.streams)),
        (
            "acts",
            f"{_POSITIONS[made.position]}; in layers {', '.join(map(str, made.usual_layers(12)))} of 12 by default",
        ),
    ]
    lines = ["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows), ""]
    options = kind.option_defaults()
    if options:
        lines += ["| option | default | |", "|---|---|---|"]
        lines += [f"| `{key}` | `{value!r}` | {cell(arguments.get(key, ''))} |" for key, value in options.items()]
        lines.append("")
    return "\n".join([*lines, text]).rstrip() + "\n"


def hooks() -> str:
    """Every hook: what it yields, a worked example, and the fields of its spec."""
    parts = []
    for kind in KINDS.values():
        parts += [f"## `{kind.hook}`", "", kind.offers.replace("``", "`"), "", *_example(kind)]
        parts += [f"### `{kind.spec.__name__}`", "", docstring(kind.spec)[0].strip(), "", *_fields(kind.spec), ""]
    return "\n".join(parts).rstrip() + "\n"


def docstring(thing: Any) -> tuple[str, dict[str, str]]:
    """The text of a docstring without its arguments, in Markdown, and the arguments by name."""
    text, _, rest = (inspect.getdoc(thing) or "").partition("\n\nArgs:\n")
    section, _, after = rest.partition("\n\n")
    arguments = {name: " ".join(said.split()) for name, said in _ARGUMENT.findall(section)}
    text = re.sub(r":(?:class|meth|func|data|mod):`~?(?:tokenreduce\.)?([^`]*)`", r"`\1`", f"{text}\n\n{after}".strip())
    return text.replace("``", "`"), arguments


def cell(text: str) -> str:
    """Text as a cell of a table."""
    return text.replace("``", "`").replace("|", "\\|")


def _example(kind: Kind) -> list[str]:
    names = ", ".join(sorted([kind.spec.__name__, "hookimpl"], key=str.swapcase))
    head = [f"from tokenreduce.registry import {names}", "", ""]
    return ["```python notest", *head, "@hookimpl", f"def {kind.hook}():", f"    yield {kind.example}", "```", ""]


def _fields(spec: type[Spec]) -> list[str]:
    said = {**docstring(Spec)[1], **docstring(spec)[1]}
    lines = ["| field | default | |", "|---|---|---|"]
    for one in fields(spec):
        default = "required" if one.default is MISSING else f"`{one.default!r}`"
        lines.append(f"| `{one.name}` | {default} | {cell(said.get(one.name, ''))} |")
    return lines
