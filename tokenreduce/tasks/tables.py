"""Tables of records: comma- or tab-separated values with the names of the fields in the first line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._documents import read_text, short
from ..errors import OptionError

TABLES = {".csv": ",", ".tsv": "\t"}
"""What separates the values, by the end of the file's name."""
LISTS = ("answers", "choices", "images")
BETWEEN = "|"


def table_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a table as the objects of JSON lines would be, and where each stands; empty cells are left out.

    Raises:
        OptionError: nothing in it, no field called image in the first line, a row of another length, or a broken quote.
    """
    text = read_text(path, "a table has the names of its fields in the first line, such as image,answer")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=TABLES[path.suffix.lower()], strict=True)
    names: list[str] = []
    seen = False
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [cell.strip() for cell in row]
                check_names(names, where)
                continue
            if len(row) != len(names):
                raise OptionError(
                    f"{where}: expected {len(names)} values ({', '.join(names)}), got {len(row)}; put a text with "
                    "separators in it between quotes"
                )
            seen = True
            yield {name: _cell(name, cell) for name, cell in zip(names, row, strict=True) if cell != ""}, where
    except csv.Error as error:
        raise OptionError(f"{path}, line {reader.line_num}: cannot be read as a table ({error})") from error
    if not seen:
        raise OptionError(f"{path} has no rows; a table looks like: image,answer (new line) a.jpg,yes")


def check_names(names: list[str], where: str) -> None:
    """Raise OptionError for a first line that does not name fields."""
    if not {"image", "images"} & set(names):
        raise OptionError(
            f"{where}: expected the names of the fields, one of them 'image', got {short(', '.join(names))}; write "
            "them above the rows: image,question,answers"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"{where}: {', '.join(map(repr, twice))} stands there several times; leave the others out")


def _cell(name: str, cell: str) -> Any:
    return [part.strip() for part in cell.split(BETWEEN)] if name in LISTS else cell
