"""An ablation as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import PluginError
from ..lab.result import Result
from .canvas import look
from .charts import against_macs, against_throughput, swatch, tokens_by_layer
from .formatting import clean, mark, one_line
from .page_table import group_table, main_table
from .sample_pictures import WIDTH, group_by_sample
from .series import Line, level, lines
from .setup_facts import command, facts, headline, text_of
from .verdict_groups import break_even_table, verdict_table, verdicts

if TYPE_CHECKING:
    from jinja2 import Environment


def render_report(result: Result) -> str:
    """The page: verdicts, table, charts, pictures, definitions, setup. It fetches nothing and runs no script.

    Raises:
        PluginError: jinja2 or matplotlib is not installed.
    """
    environment = check_installed()
    drawn = lines(result)
    charts = [("Accuracy and speed", against_throughput(result)), ("Accuracy and work", against_macs(result))]
    page = environment.get_template("page.html.j2").render(
        headline=headline(result),
        facts=facts(result.setup),
        command=command(result.setup),
        verdicts=verdicts(result),
        grid=verdict_table(result),
        pays=break_even_table(result),
        table=main_table(result),
        failed=sum(row.failed is not None for row in result.rows),
        count=len(result.rows),
        charts=[(name, chart) for name, chart in charts if chart],
        legend=[(swatch(line, f"swatch-{i}"), line.name, _span(line)) for i, line in enumerate(drawn)],
        steps=tokens_by_layer(result),
        by_group=group_table(result),
        samples=group_by_sample(result.pictures),
        width=WIDTH,
        definitions=_pairs(result.setup.get("definitions")),
        notes=notes(result),
    )
    return clean(page)


def check_installed() -> Environment:
    """What fills in the page; to be called before the work that the page is to show.

    Raises:
        PluginError: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise PluginError(f"the report needs jinja2 ({error}): pip install 'tokenreduce[lab]'") from error
    with look():  # matplotlib
        pass
    environment = Environment(
        loader=PackageLoader("tokenreduce.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["mark"] = mark
    return environment


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
    """The levels of a line's rows, where there are several."""
    levels = [said for row in line.rows if (said := level(row))]
    return f"{levels[0].split(' %')[0]} to {levels[-1]}" if len(levels) > 1 else ""


def _pairs(value: Any) -> list[tuple[str, str]]:
    """A dictionary of text as pairs; whatever else, as far as it can be read."""
    if isinstance(value, dict):
        return [(one_line(key), text_of(inner)) for key, inner in value.items()]
    return [("", text_of(value))] if value else []
