"""Data files: JSON lines, each a picture, what is asked of it, and what is right. Imports no torch."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from .._documents import check_document, read_text, short
from ..errors import OptionError, nearest
from .loader import Record

SYNONYMS = {"question": "text", "caption": "text", "label": "answer"}
FORMS = {  # what each field holds, in words
    "image": "the path of a picture",
    "text": "text",
    "answer": "text or a whole number",
    "answers": "a list of one text or more",
    "choices": "a list of one text or more",
    "group": "text or a whole number",
}
HALF = re.compile("[\ud800-\udfff]")
Word = str | int
Words = Annotated[list[Word], MinLen(1)]


@dataclass
class Line:
    """One line of a data file, synonyms resolved and nulls left out."""

    image: Annotated[str, MinLen(1)]
    text: str = ""
    answer: Word | None = None
    answers: Words | None = None
    choices: Words | None = None
    group: Word = ""


def read_records(path: str | Path) -> list[Record]:
    """The records of a data file, one JSON object per line; blank lines are skipped.

    ``image``: the picture's file, relative to the folder of the data file. ``text`` (or ``question``, ``caption``):
    what is asked or said. ``answer`` (or ``label``): what is right, or ``answers``: a list, the votes of several
    people. ``choices``: a list of answers to choose among. ``group``: for a score per group. Answers, choices and
    groups are text or whole numbers, null is as if left out, ``id`` may be there and is not read. Texts are put into
    Unicode's composed form (NFC).

    Raises:
        OptionError: no such file, nothing in it, or a line that is not of this form (the message has its number).
    """
    path = Path(path)
    if not is_file(path):
        raise OptionError(f"expected a file of JSON lines, there is none at {path}; give the path of a .jsonl file")
    text = read_text(path, "a data file has one JSON object per line")
    refuse_other_forms(text, path)
    records = [_record(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not records:
        raise OptionError(f'{path} is empty; a line looks like {{"image": "a.jpg", "text": "...", "answer": "yes"}}')
    return records


def refuse_other_forms(text: str, path: Path) -> None:
    """Raise OptionError for a table, or for one JSON document over several lines."""
    form = "a data file has one JSON object per line"
    if path.suffix.lower() in (".csv", ".tsv"):
        raise OptionError(f'{path} is a table; {form}, so write each row as one, such as {{"image": "a.jpg"}}')
    if text.lstrip().startswith("[") or text.strip().partition("\n")[0].strip() == "{":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(whole, dict) and "image" in whole:
            raise OptionError(f"{path} holds one JSON object over several lines; {form}")
        if not isinstance(whole, list) or any(isinstance(one, dict) for one in whole):
            raise OptionError(f"{path} holds one JSON document; {form}, so write each of its entries as one")


def _record(line: str, path: Path, number: int) -> Record:
    where = f"{path}, line {number}"
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{where}: expected one JSON object, got {short(line)} ({error})") from error
    if not isinstance(given, dict):
        raise OptionError(f'{where}: expected a JSON object such as {{"image": "a.jpg"}}, got {short(line)}')
    values = _values(given, where)
    if HALF.search(json.dumps(values, ensure_ascii=False)):
        raise OptionError(f"{where}: holds half of a surrogate pair, which is no text; write the whole sign")
    if not isinstance(values.get("image"), str) or not values["image"]:
        raise OptionError(f"{where}: expected 'image', the path of a picture, got {short(values.get('image'))}")
    found = check_document(Line, values, where, FORMS)
    if found.answer is not None and found.answers is not None:
        raise OptionError(f"{where}: expected 'answer' or 'answers', got both; leave one out")
    return Record(
        image=_image(found.image, path.parent, where),
        text=_text(found.text),
        answers=_texts(found.answers if found.answer is None else [found.answer]),
        choices=_texts(found.choices),
        group=_text(found.group),
    )


def _values(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Values by field, synonyms resolved, nulls left out."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        field = SYNONYMS.get(key, key)
        if key == "id" or value is None:
            continue
        if field not in FORMS:
            raise OptionError(f"{where}: no field is called {key!r}.{nearest(key, [*FORMS, *SYNONYMS])} Leave it out.")
        if field in values:
            raise OptionError(f"{where}: {key!r} says again what {field!r} is; leave one out")
        values[field] = value
    return values


def _image(name: str, folder: Path, where: str) -> Path:
    """The picture's file, its name composed in either way."""
    if "://" in name:
        raise OptionError(f"{where}: {short(name)} is an address, and nothing is downloaded; give the path of a file")
    if name.startswith("data:") or len(name) > 4096 or "\0" in name:
        raise OptionError(
            f"{where}: expected 'image' to be {FORMS['image']}, got {len(name)} letters ({short(name, 40)}); pixels in "
            "the line are not read, so write them to a file"
        )
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        if is_file(folder / form):
            return folder / form
    raise OptionError(
        f"{where}: no picture at {short(str(folder / name), 400)}; paths are relative to the folder of the data file"
    )


def is_file(path: Path) -> bool:
    """Whether there is a file that can be looked at."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or a folder without permission
        return False


def _texts(given: list[Word] | None) -> tuple[str, ...]:
    return tuple(_text(value) for value in given or ())


def _text(value: Word) -> str:
    return unicodedata.normalize("NFC", str(value))
