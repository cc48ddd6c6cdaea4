"""The charts of a report: accuracy against speed and against work, and tokens layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..lab.result import Result, Row, SiteTokens
from .canvas import INK, PAPER, inline_svg, look, new_figure, say
from .formatting import finite, interval, number, one_line, percent
from .labels import write_names
from .series import Line, lines, measure, pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 1e12  # larger numbers are left out


def against_throughput(result: Result) -> str:
    """Accuracy against samples per second at the largest batch, as SVG; "" where nothing was timed."""
    batches = {pace.batch for row in result.rows if (pace := row.pace()) is not None}
    at = f" (batch {max(batches)})" if batches else ""
    return _accuracy(result, "speed", _throughput, f"samples per second{at}", lambda a, b: a > b)


def against_macs(result: Result) -> str:
    """Accuracy against multiply-adds per sample, as SVG; "" where they are not known."""
    known = [value for row in result.rows if (value := finite(row.macs)) is not None]
    unit, name = (1e9, "billions") if max(known, default=0) >= 2e9 else (1e6, "millions")

    def across(row: Row) -> float | None:
        return None if (value := finite(row.macs)) is None else value / unit

    return _accuracy(result, "work", across, f"multiply-adds per sample ({name})", lambda a, b: a < b)


def tokens_by_layer(result: Result) -> list[tuple[str, str]]:
    """Steps of the token counts, one drawing per variant and stack: (name, SVG); rows without sites are left out."""
    sites = [site for row in result.rows if row.failed is None for site in _sites(row)]
    depth = {stack: 1 + max(s.layer for s in sites if s.stack == stack) for stack in {site.stack for site in sites}}
    most = max((site.tokens_in for site in sites), default=0)
    drawings: list[tuple[str, str]] = []
    for line in lines(result):
        stacks = list(dict.fromkeys(site.stack for row in line.rows for site in _sites(row)))
        for stack in stacks if line.rows[0].role != "baseline" else []:
            name = f"{line.name}, {stack}" if len(stacks) > 1 else line.name
            drawings.append((name, _steps(line, stack, depth[stack], most, f"steps-{len(drawings)}")))
    return drawings


def swatch(line: Line, key: str) -> str:
    """A short piece of the line with its marker, for a legend."""
    with look():
        figure = new_figure(30, 14)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 30), ylim=(0, 14))
        axes.set_axis_off()
        axes.plot([1, 29], [7, 7], color=line.colour, linestyle=line.dash, linewidth=1.8)
        axes.plot([15], [7], **_marker(line))
        return inline_svg(figure, "", key, class_="swatch")


def courses(row: Row, stack: str, depth: int) -> dict[str, list[tuple[float, float]]]:
    """Corners (layer, tokens) of each stream of a row that changes; the image stream in any case."""
    found: dict[str, list[tuple[float, float]]] = {}
    for site in sorted(_sites(row, stack), key=lambda site: site.layer):
        course = found.setdefault(site.stream, [(0.0, float(site.tokens_in))])
        course += [(site.layer + 0.5, course[-1][1]), (site.layer + 0.5, float(site.tokens_out))]
    for course in found.values():
        course.append((float(depth), course[-1][1]))
    return {
        stream: course
        for stream, course in found.items()
        if "image" in stream or len({y for _, y in course}) > 1 or len(found) == 1
    }


def _accuracy(
    result: Result, key: str, across: Callable[[Row], float | None], name: str, better: Callable[[float, float], bool]
) -> str:
    drawn = [(line, found) for line in lines(result) if (found := _points(line, across))]
    points = [(x, y) for _, found in drawn for _, x, y in found]
    if not points:
        return ""
    with look():
        figure, axes = _axes(410, 320, name, "accuracy (%)")
        axes.margins(0.07, 0.1)
        broad: dict[str, Any] = {"color": INK, "alpha": 0.17, "linewidth": 7, "solid_capstyle": "round"}
        axes.plot(*zip(*pareto(points, better), strict=True), drawstyle="steps-post", **broad)
        for line, found in drawn:
            course = [x for _, x, _ in found], [y for *_, y in found]
            axes.plot(*course, color=line.colour, linestyle=line.dash, linewidth=1.7)
            for row, x, _ in found:
                ends = [100 * end for end in row.interval or () if _fits(end)]
                axes.plot([x] * len(ends), ends, color=line.colour, alpha=0.45, linewidth=1.2)
        for line, found in drawn:  # after every line, so that none crosses a marker
            for row, x, y in found:
                words = f"{one_line(row.name)}: {percent(row.accuracy)} {interval(row.interval)}"
                axes.plot([x], [y], gid=say(words.strip()), **_marker(line))
        names = [(one_line(line.name, 24), line.colour, [(x, y) for _, x, y in found[::-1]]) for line, found in drawn]
        write_names(axes, names, points)
        return inline_svg(figure, f"accuracy against {name}, {len(points)} rows", key)


def _steps(line: Line, stack: str, depth: int, most: int, key: str) -> str:
    """The rows of a variant in one stack, the more is gone the stronger the line."""
    rows = [row for row in line.rows if _sites(row, stack)]
    with look():
        figure, axes = _axes(280, 190, "layer", "tokens")
        ends = []
        for place, row in enumerate(rows):
            strength = 1.0 if len(rows) == 1 else 0.4 + 0.6 * place / (len(rows) - 1)
            for stream, course in courses(row, stack, depth).items():
                x, y = zip(*course, strict=True)
                words = f"{one_line(row.name)}, {one_line(stream)}: {number(y[0])} to {number(y[-1])} tokens"
                dash = "-" if "image" in stream else ":"
                axes.plot(x, y, gid=say(words), color=line.colour, alpha=strength, linestyle=dash, linewidth=1.8)
                ends += [y[-1]] if dash == "-" else []
        axes.set(xlim=(0, 1.2 * depth), ylim=(0, 1.08 * most or 1))
        write_names(axes, [(number(y), line.colour, [(depth, y)]) for y in sorted(ends)], [])
        return inline_svg(figure, f"tokens after each layer of {one_line(stack)}: {one_line(line.name)}", key)


def _points(line: Line, across: Callable[[Row], float | None]) -> list[tuple[Row, float, float]]:
    """Those rows of a line that have a place in a chart."""
    known = [(row, across(row), row.accuracy) for row in line.rows]
    return [(row, x, 100 * y) for row, x, y in known if x is not None and y is not None and _fits(x, y)]


def _sites(row: Row, stack: str | None = None) -> list[SiteTokens]:
    """The row's sites, or those of one stack."""
    known = [site for site in row.sites if _fits(site.layer, site.tokens_in, site.tokens_out)]
    return [site for site in known if stack is None or site.stack == stack]


def _fits(*values: float) -> bool:
    """Whether a chart can hold these numbers."""
    return all((known := finite(value)) is not None and abs(known) < MOST for value in values)


def _marker(line: Line) -> dict[str, Any]:
    size = {"*": 12.0, "D": 6.5, "s": 7.0}.get(line.marker, 8.0)  # so that all look alike in size
    return {"marker": line.marker, "markersize": size, "color": line.colour, "markeredgecolor": PAPER}


def _axes(width: float, height: float, across: str, up: str) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = figure.add_axes((40 / width, 40 / height, 1 - 52 / width, 1 - 64 / height))
    axes.set_xlabel(across)
    axes.set_title(up, loc="left")
    axes.ticklabel_format(style="plain", useOffset=False)
    axes.locator_params(nbins=5)
    axes.locator_params("x", integer=across == "layer")
    return figure, axes


def _throughput(row: Row) -> float | None:
    return measure(row.pace(), "throughput")
