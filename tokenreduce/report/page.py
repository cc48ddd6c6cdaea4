"""An ablation as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..errors import PluginError
from ..lab.result import Result, Row
from .charts import against_macs, against_throughput
from .formatting import clean, mark_answer, number, one_line
from .overlay import group_by_sample
from .page_table import Cell, Column, about, cells, columns
from .series import Line, level, lines, swatch
from .setup_facts import command, facts, headline, text_of
from .token_steps import tokens_by_layer
from .verdict_groups import pays, verdict_table, verdicts

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Body:
    """The rows of one variant in the table."""

    rows: tuple[tuple[Row, str, list[Cell]], ...]


def render_report(result: Result) -> str:
    """The page: setup, verdicts, table, charts, pictures, definitions. It fetches nothing and runs no script.

    Raises:
        PluginError: jinja2 is not installed.
    """
    environment = _environment()
    table = columns(result)
    drawn = lines(result)
    page = environment.get_template("page.html.j2").render(
        headline=headline(result),
        facts=facts(result.setup),
        command=command(result.setup),
        verdicts=verdicts(result),
        grid=verdict_table(result),
        pays=pays(result),
        columns=table,
        groups=_headings(table),
        bodies=bodies(result, table, drawn),
        failed=[row for row in result.rows if row.failed is not None],
        count=len(result.rows),
        charts=[(name, _safe(chart)) for name, chart in charts(result) if chart],
        legend=[(_safe(swatch(line)), line.name, _span(line)) for line in drawn],
        steps=[(name, _safe(drawing)) for name, drawing in tokens_by_layer(result)],
        by_group=by_group(result),
        pictures=[
            (group, _safe(group.original), [(p, _safe(view), counts) for p, view, counts in group.pictures])
            for group in group_by_sample(result.pictures)
        ],
        definitions=_pairs(result.setup.get("definitions")),
        notes=notes(result),
    )
    return clean(page)


def charts(result: Result) -> list[tuple[str, str]]:
    """Names and SVG; an empty one where there is nothing to draw."""
    return [
        ("Accuracy and speed", against_throughput(result)),
        ("Accuracy and work", against_macs(result)),
    ]


def bodies(result: Result, table: list[Column], drawn: list[Line]) -> list[Body]:
    """The rows in their order, those of one variant together, each with the swatch of its line."""
    swatches = {row.name: swatch(line) for line in drawn for row in line.rows}
    found: dict[tuple[str, str], list[tuple[Row, str, list[Cell]]]] = {}
    for row in result.rows:
        made = (row, _safe(swatches.get(row.name, "")), cells(row, table))
        found.setdefault((row.role, row.variant or row.name), []).append(made)
    return [Body(tuple(rows)) for rows in found.values()]


def by_group(result: Result) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Accuracy per group of samples: names of the groups, and a row for each row that has any."""
    names = sorted({str(name) for row in result.rows for name in row.groups})
    rows = [
        (row.name, [number(100 * row.groups[name], 1) if name in row.groups else number(None) for name in names])
        for row in result.rows
        if row.groups
    ]
    return names, rows


def notes(result: Result) -> list[tuple[str, str]]:
    """Remarks of the reducers and of the ablation; one that several rows share stands once."""
    found: dict[str, list[str]] = {}
    for row in result.rows:
        for note in row.notes:
            found.setdefault(str(note), []).append(row.variant or row.name)
    general = result.setup.get("notes")
    said = [("", str(note)) for note in general] if isinstance(general, (list, tuple)) else []
    return said + [(", ".join(dict.fromkeys(names)), note) for note, names in found.items()]


def _span(line: Line) -> str:
    """The levels of a line's rows."""
    levels = [said for row in line.rows if (said := level(row))]
    if len(levels) > 1:
        return f"{levels[0].split(' %')[0]} to {levels[-1]}"
    return levels[0] if levels else ""


def _headings(table: list[Column]) -> list[tuple[str, list[Column]]]:
    """Columns side by side under one heading."""
    return [(name, list(members)) for name, members in groupby(table, key=lambda column: column.group)]


def _pairs(value: Any) -> list[tuple[str, str]]:
    """A dictionary of text as pairs; whatever else, as far as it can be read."""
    if isinstance(value, dict):
        return [(one_line(key), text_of(inner)) for key, inner in value.items()]
    return [("", text_of(value))] if value else []


def _safe(svg: str) -> Any:
    """SVG of this package, in which all text is escaped already."""
    from markupsafe import Markup

    return Markup(svg)


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise PluginError(f"the report needs jinja2 ({error}): pip install 'tokenreduce[lab]'") from error
    environment = Environment(
        loader=PackageLoader("tokenreduce.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"about": about, "judged": lambda answer, expected: mark_answer(answer, expected)[1]}
    return environment
