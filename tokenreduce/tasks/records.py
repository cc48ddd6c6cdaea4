"""Data files and folders: pictures, what is asked of them, and what is right. Imports no torch."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from .._documents import check_document, read_text, short
from ..errors import OptionError, nearest
from .folders import FolderRecords, is_folder, read_folder
from .loader import Record
from .tables import TABLES, table_rows

SYNONYMS = {"question": "text", "caption": "text", "sentence": "text", "label": "answer"}
FORMS = {  # what each field holds, in words
    "image": "the path of a picture",
    "images": "a list of two paths or more",
    "text": "text",
    "answer": "text or a whole number",
    "answers": "a list of one text or more",
    "choices": "a list of one text or more",
    "group": "text or a whole number",
}
__all__ = ["FolderRecords", "is_file", "read_records"]

HALF = re.compile("[\ud800-\udfff]")
Word = str | int
Words = Annotated[list[Word], MinLen(1)]


@dataclass
class Line:
    """One line of a data file, synonyms resolved and nulls left out."""

    image: Annotated[str, MinLen(1)] = ""
    images: Annotated[list[str], MinLen(2)] | None = None
    text: str = ""
    answer: Word | None = None
    answers: Words | None = None
    choices: Words | None = None
    group: Word = ""


def read_records(path: str | Path) -> list[Record]:
    """The records of a data file or folder.

    A file of JSON lines has one object per line, blank lines are skipped. A table (.csv, .tsv) has the names of the
    same fields in its first line, several answers or choices in a cell between ``|``. A folder has one folder of
    pictures per class (:class:`FolderRecords`).

    ``image``: the picture's file, relative to the folder of the data file, or ``images``: a list, for models that
    compare several. ``text`` (or ``question``, ``caption``, ``sentence``): what is asked or said. ``answer`` (or
    ``label``): what is right, or ``answers``: a list, the votes of several people. ``choices``: a list of answers
    to choose among. ``group``: for a score per group. Answers, choices and groups are text or whole numbers, null
    is as if left out, ``id`` may be there and is not read. Texts are put into Unicode's composed form (NFC).

    Raises:
        OptionError: no such file, nothing in it, or a line that is not of this form (the message has its number).
    """
    path = Path(path)
    if is_folder(path):
        return read_folder(path)
    if not is_file(path):
        raise OptionError(
            f"expected a data file, there is none at {path}; give the path of a .jsonl or .csv file, or of a folder "
            "with one folder of pictures per class"
        )
    if path.suffix.lower() in TABLES:
        return [_record(values, path, where) for values, where in table_rows(path)]
    text = read_text(path, "a data file has one JSON object per line")
    refuse_other_forms(text, path)
    lines = [(line, f"{path}, line {number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    records = [_record(_json_line(line, where), path, where) for line, where in lines]
    if not records:
        raise OptionError(f'{path} is empty; a line looks like {{"image": "a.jpg", "text": "...", "answer": "yes"}}')
    return records


def refuse_other_forms(text: str, path: Path) -> None:
    """Raise OptionError for one JSON document over several lines."""
    form = "a data file has one JSON object per line"
    if text.lstrip().startswith("[") or text.strip().partition("\n")[0].strip() == "{":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(whole, dict) and "image" in whole:
            raise OptionError(f"{path} holds one JSON object over several lines; {form}")
        if not isinstance(whole, list) or any(isinstance(one, dict) for one in whole):
            raise OptionError(f"{path} holds one JSON document; {form}, so write each of its entries as one")


def _json_line(line: str, where: str) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{where}: expected one JSON object, got {short(line)} ({error})") from error
    if not isinstance(given, dict):
        raise OptionError(f'{where}: expected a JSON object such as {{"image": "a.jpg"}}, got {short(line)}')
    return given


def _record(given: Mapping[str, Any], path: Path, where: str) -> Record:
    values = _values(given, where)
    if HALF.search(json.dumps(values, ensure_ascii=False)):
        raise OptionError(f"{where}: holds half of a surrogate pair, which is no text; write the whole sign")
    one, several = values.get("image"), "images" in values
    if not several and (not isinstance(one, str) or not one):
        raise OptionError(f"{where}: expected 'image', the path of a picture, got {short(one)}")
    found = check_document(Line, values, where, FORMS)
    if several and found.image:
        raise OptionError(f"{where}: expected 'image' or 'images', got both; leave one out")
    if found.answer is not None and found.answers is not None:
        raise OptionError(f"{where}: expected 'answer' or 'answers', got both; leave one out")
    first, *more = [_image(name, path.parent, where) for name in found.images or [found.image]]
    return Record(
        image=first,
        more=tuple(more),
        text=_text(found.text),
        answers=_texts(found.answers if found.answer is None else [found.answer]),
        choices=_texts(found.choices),
        group=_text(found.group),
    )


def _values(given: Mapping[str, Any], where: str) -> dict[str, Any]:
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
