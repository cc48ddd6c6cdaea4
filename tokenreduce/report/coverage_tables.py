"""The tables of ``tokenreduce coverage``, as Markdown: a row for each reducer, a column for each kind of stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from typing import NamedTuple

from ..lab.coverage import Cell


class _Column(NamedTuple):
    stack: str
    texts: tuple[str, ...]  # a cell for each reducer
    models: list[str]
    refused: bool

    def of_models(self) -> str:
        return "; ".join(self.models)


def markdown(cells: Sequence[Cell]) -> str:
    """The cells as one table per adapter, models that are alike in one column, with numbered remarks below."""
    remarks: dict[str, int] = {}
    lines: list[str] = []
    for adapter in dict.fromkeys(cell.adapter for cell in cells):
        lines += _section(adapter, [cell for cell in cells if cell.adapter == adapter], remarks)
    if remarks:
        lines += ["## Remarks", ""]
        lines += [f"{number}. {text[:1].upper()}{text[1:]}." for text, number in remarks.items()]
    return "\n".join(lines).rstrip() + "\n"


def _section(adapter: str, cells: Sequence[Cell], remarks: dict[str, int]) -> Iterator[str]:
    """The lines of one adapter: which models each column is about, the table, stacks that no reducer runs on."""
    columns = _columns(cells, remarks)
    usable = [column for column in columns if not column.refused]
    titles = list(_titles([column.stack for column in usable]))
    yield from (f"## `{adapter}`", "")
    for title, column in zip(titles, usable, strict=True):
        yield f"- {title}: {column.of_models()}"
    for column in columns:
        if column.refused:
            yield f"- `{column.stack}`, no reducer{column.texts[0].removeprefix('no')}: {column.of_models()}"
    yield ""
    if not usable:
        return
    yield "| reducer | " + " | ".join(titles) + " |"
    yield "|---|" + "---|" * len(usable)
    reducers = dict.fromkeys(cell.reducer for cell in cells)
    for number, reducer in enumerate(reducers):
        yield f"| `{reducer}` | " + " | ".join(column.texts[number] for column in usable) + " |"
    yield ""


def _columns(cells: Sequence[Cell], remarks: dict[str, int]) -> list[_Column]:
    """Stacks on which every reducer does the same, with the models that have them, in the order of the cells."""
    stacks: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        stacks.setdefault((cell.stack, cell.example), []).append(cell)
    columns: dict[tuple[str, tuple[str, ...]], _Column] = {}
    for (stack, example), row in stacks.items():
        texts = tuple(_text(cell, remarks) for cell in row)
        refused = len(set(texts)) == 1 and row[0].tokens is None
        columns.setdefault((stack, texts), _Column(stack, texts, [], refused)).models.append(example)
    return list(columns.values())


def _titles(stacks: Sequence[str]) -> Iterator[str]:
    """The name of each stack; one that occurs several times has a letter each time."""
    for number, stack in enumerate(stacks):
        letter = f" {_letters(stacks[:number].count(stack))}" if stacks.count(stack) > 1 else ""
        yield f"`{stack}`{letter}"


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    high, low = divmod(number, len(ascii_uppercase))
    return (_letters(high - 1) if high else "") + ascii_uppercase[low]


def _text(cell: Cell, remarks: dict[str, int]) -> str:
    said = [cell.reason] if cell.reason else list(cell.notes)
    numbers = [str(remarks.setdefault(text, len(remarks) + 1)) for text in said]
    small = f" ({', '.join(numbers)})" if numbers else ""
    if cell.tokens is None:
        return f"no{small}"
    needs = ", ".join(signal.removesuffix("_attention") for signal in cell.signals) or "nothing"
    return f"{needs}{small}"
