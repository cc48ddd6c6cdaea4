"""Data files: JSON lines, each a picture, what is asked of it, and what is right. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import OptionError, nearest
from .loader import Record

SYNONYMS = {"question": "text", "caption": "text", "label": "answer"}
FIELDS = ("image", "text", "answer", "answers", "choices", "group")


def read_records(path: str | Path) -> list[Record]:
    """The records of a data file, one JSON object per line; blank lines are skipped.

    ``image``: the picture's file, relative to the folder of the data file. ``text`` (or ``question``, ``caption``):
    what is asked or said. ``answer`` (or ``label``): what is right, or ``answers``: a list, the votes of several
    people. ``choices``: a list of answers to choose among. ``group``: for a score per group. Answers, choices and
    groups are text or whole numbers, null is as if left out, ``id`` may be there and is not read.

    Raises:
        OptionError: no such file, nothing in it, or a line that is not of this form (the message has its number).
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f"expected a file of JSON lines, there is none at {path}; give the path of a .jsonl file")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not text in UTF-8 ({error}); a data file has one JSON object per line") from error
    records = [_record(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise OptionError(f'{path} is empty; a line looks like {{"image": "a.jpg", "text": "...", "answer": "yes"}}')
    return records


def _record(line: str, path: Path, number: int) -> Record:
    where = f"{path}, line {number}"
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{where}: expected one JSON object, got {_short(line)} ({error})") from error
    if not isinstance(given, dict):
        raise OptionError(f'{where}: expected a JSON object such as {{"image": "a.jpg"}}, got {_short(line)}')
    values = _values(given, where)
    answers = _texts(values, "answers", where)
    if "answer" in values:
        if answers:
            raise OptionError(f"{where}: expected 'answer' or 'answers', got both; leave one out")
        answers = (_text(values["answer"], "answer", where),)
    return Record(
        image=_image(values, path.parent, where),
        text=_text(values.get("text", ""), "text", where, numbers=False),
        answers=answers,
        choices=_texts(values, "choices", where),
        group=_text(values.get("group", ""), "group", where),
    )


def _values(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Values by field, synonyms resolved, nulls left out."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        field = SYNONYMS.get(key, key)
        if key == "id" or value is None:
            continue
        if field not in FIELDS:
            raise OptionError(f"{where}: no field is called {key!r}.{nearest(key, [*FIELDS, *SYNONYMS])} Leave it out.")
        if field in values:
            raise OptionError(f"{where}: {key!r} says again what {field!r} is; leave one out")
        values[field] = value
    return values


def _image(values: dict[str, Any], folder: Path, where: str) -> Path:
    name = values.get("image", "")
    if not isinstance(name, str) or not name:
        raise OptionError(f"{where}: expected 'image', the path of a picture, got {_short(values.get('image'))}")
    image = folder / name
    if not image.is_file():
        raise OptionError(f"{where}: no picture at {image}; paths are relative to the folder of the data file")
    return image


def _texts(values: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    given = values.get(field)
    if given is None:
        return ()
    if not isinstance(given, list) or not given:
        raise OptionError(f"{where}: expected {field!r} to be a list of one text or more, got {_short(given)}")
    return tuple(_text(value, field, where) for value in given)


def _text(value: Any, field: str, where: str, numbers: bool = True) -> str:
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = "text or a whole number" if numbers else "text"
        raise OptionError(f"{where}: expected {field!r} to be {kind}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    """A value in a message, on one line and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
