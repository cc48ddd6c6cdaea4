"""The section of a model card that says what was attached, how to load it, and what an ablation measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._version import __version__
from ..errors import OptionError

BEGIN, END = "<!-- tokenreduce -->", "<!-- end of tokenreduce -->"
_SECTION = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
_HEAD = "---\ntags:\n- tokenreduce\n---\n\n"
COLUMNS = ("reducer", "accuracy", "multiply-adds", "speed-up", "tokens left", "verdict")


def with_section(card: str, section: str) -> str:
    """A model card with this section in place of the one it had, or at its end; a new card where there is none."""
    whole = f"{BEGIN}\n{section.strip()}\n{END}"
    if not card.strip():
        return f"{_HEAD}{whole}\n"
    if _SECTION.search(card):
        return _SECTION.sub(lambda _: whole, card)
    return f"{card.rstrip()}\n\n{whole}\n"


def section(repository: str, model: str, config: Mapping[str, Any], ablation: Any = None) -> str:
    """What the section says.

    Args:
        repository: ``"user/repo"``.
        model: name of the model's class.
        config: of the attachment.
        ablation: rows that an ablation measured; None to leave them out.
    """
    shown = json.dumps(config, indent=2, ensure_ascii=False)
    lines = [
        "## Token reduction",
        "",
        f"Attached to a {text(model)} with [tokenreduce](https://pypi.org/project/tokenreduce/) {__version__}:",
        "",
        *fenced(shown, "json"),
        "",
        "On a model with the weights that it was made for:",
        "",
        *fenced(f'import tokenreduce\n\nhandle = tokenreduce.load(model, "{repository}")', "python"),
        "",
    ]
    if ablation is not None:
        lines += table(ablation)
    return "\n".join(lines)


def table(ablation: Any) -> list[str]:
    """The rows of an ablation as a table, with what they were measured on.

    Raises:
        OptionError: not the result of an ablation.
    """
    document = plain(ablation)
    setup, rows = document["setup"], document["rows"]
    named = {name: setup.get(name) for name in ("model", "data")}
    about = [f"{key} {text(name_of(value))}" for key, value in named.items() if value]
    machine = setup.get("machine")
    about += [text(name_of(machine))] if machine else []
    found = [f"`tokenreduce ablate`, {'; '.join(about)}:" if about else "`tokenreduce ablate`:", ""]
    found += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return [*found, *(f"| {' | '.join(cells(row))} |" for row in rows), ""]


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the table; empty where nothing was measured."""
    if row.get("failed"):
        return [text(row.get("name")), "failed", "", "", "", text(row["failed"])]
    pace = max(row.get("paces") or [], key=lambda one: one["batch"], default=None)
    speed = ""
    if pace is not None:
        ratios = sorted(base / own for base, own in zip(pace["base_seconds"], pace["seconds"], strict=True))
        middle = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
        speed = f"{middle:.2f} (batch {pace['batch']})"
    return [
        text(row.get("name")),
        "" if row.get("accuracy") is None else f"{100 * row['accuracy']:.1f} %",
        "" if row.get("macs_share") is None else f"{100 * row['macs_share']:.0f} %",
        speed,
        "" if row.get("tokens") is None else str(row["tokens"]),
        text(row.get("verdict")),
    ]


def plain(ablation: Any) -> Mapping[str, Any]:
    """The JSON of a :class:`tokenreduce.Result`, whether it is one or its JSON.

    Raises:
        OptionError: something else.
    """
    made = getattr(ablation, "to_json", None)
    document = made() if callable(made) else ablation
    if not isinstance(document, Mapping) or not isinstance(document.get("rows"), Sequence):
        raise OptionError(
            f"ablation= is what tokenreduce.ablate returned, or the JSON of it (tokenreduce ablate --json FILE), got "
            f"{type(ablation).__name__}"
        )
    if not isinstance(document.get("setup"), Mapping) or not all(isinstance(row, Mapping) for row in document["rows"]):
        raise OptionError("ablation= has no 'setup' and 'rows' as the JSON of an ablation has them")
    return document


def name_of(value: Any) -> Any:
    """What the setup of an ablation calls something."""
    return value.get("name") or value.get("processor") or "" if isinstance(value, Mapping) else value


def text(value: Any) -> str:
    """A name as one line of Markdown that marks nothing up."""
    line = " ".join(str("" if value is None else value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", line)


def fenced(code: str, language: str) -> list[str]:
    """A block of code, fenced by more backticks than there are in it."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *code.splitlines(), fence]
