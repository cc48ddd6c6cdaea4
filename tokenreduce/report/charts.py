"""Accuracy against speed and against work, with its intervals and the Pareto front, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..lab.result import Result, Row
from .formatting import finite, macs, number, one_line, percent
from .label_layout import place_labels
from .series import Line, lines, marker, pareto, throughput
from .svg import FONT, INK, axes, drawing, path, scale, text, title

WIDTH, HEIGHT = 460.0, 350.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 16.0, 30.0, 46.0
Point = tuple[Line, Row, float, float]


def against_throughput(result: Result) -> str:
    """Accuracy against samples per second at the largest batch; "" where nothing was timed."""
    batches = {pace.batch for row in result.rows if (pace := row.pace()) is not None}
    at = f" (batch {max(batches)})" if batches else ""
    return _chart(result, throughput, f"samples per second{at}", lambda a, b: a > b)


def against_macs(result: Result) -> str:
    """Accuracy against multiply-adds per sample; "" where they are not known."""
    known = [value for row in result.rows if (value := finite(row.macs)) is not None]
    unit, name = (1e9, "billions") if max(known, default=0) >= 2e9 else (1e6, "millions")
    return _chart(
        result,
        lambda row: None if (value := finite(row.macs)) is None else value / unit,
        f"multiply-adds per sample ({name})",
        lambda a, b: a < b,
    )


def _chart(
    result: Result, across: Callable[[Row], float | None], name: str, better: Callable[[float, float], bool]
) -> str:
    points: list[Point] = []
    for line in lines(result):
        for row in line.rows:
            x, y = across(row), finite(row.accuracy)
            if x is not None and y is not None:
                points.append((line, row, x, 100 * y))
    if not points:
        return ""
    ends = [100 * end for _, row, _, _ in points for end in _interval(row)]
    x_scale = scale([x for _, _, x, _ in points], LEFT, WIDTH - RIGHT)
    y_scale = scale([*(y for *_, y in points), *ends], HEIGHT - BOTTOM, TOP)
    parts = [axes(x_scale, y_scale, name, "accuracy (%)")]
    front = pareto([(x, y) for _, _, x, y in points], better)
    parts.append(_front([(x_scale(x), y_scale(y)) for x, y in front]))
    drawn = [(line, row, x_scale(x), y_scale(y)) for line, row, x, y in points]
    for line, row, x, _ in drawn:
        if interval := _interval(row):
            low, high = (y_scale(100 * end) for end in interval)
            parts.append(path([(x, low), (x, high)], stroke=line.colour, opacity=0.45, stroke_width=1.2))
    by_line: dict[int, list[Point]] = {}
    for point in drawn:
        by_line.setdefault(id(point[0]), []).append(point)
    for members in by_line.values():
        line = members[0][0]
        if len(members) > 1:
            course = [(x, y) for _, _, x, y in members]
            parts.append(path(course, stroke=line.colour, stroke_width=1.7, stroke_dasharray=line.dash))
    parts += [
        marker(line, x, y, title(_said(row, value)))
        for (line, row, x, y), (*_, value, _) in zip(drawn, points, strict=True)
    ]
    parts += _names(list(by_line.values()), drawn)
    return drawing(WIDTH, HEIGHT, f"accuracy against {name}, {len(points)} rows", *parts)


def _front(front: Sequence[tuple[float, float]]) -> str:
    """A broad faint staircase under the points that nothing beats."""
    steps: list[tuple[float, float]] = []
    for x, y in front:
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    return path(
        steps, stroke=INK, stroke_width=7, opacity=0.17, stroke_linejoin="round", stroke_linecap="round", class_="front"
    )


def _names(groups: Sequence[Sequence[Point]], drawn: Sequence[Point]) -> list[str]:
    """Names of the lines beside one of their points, the most reduced first, where there is room."""
    wanted = []
    for members in groups:
        places = [(x, y) for *_, x, y in members[::-1]]
        wanted.append((one_line(members[0][0].name, 24), places))
    labels = place_labels(
        wanted, [(x, y) for *_, x, y in drawn], (LEFT + 2, TOP - 6, WIDTH - 2, HEIGHT - BOTTOM - 2), FONT + 1
    )
    halo = {"paint_order": "stroke", "stroke": "var(--paper, #ffffff)", "stroke_width": 3, "stroke_linejoin": "round"}
    return [
        text(
            label.x, label.y, label.words, text_anchor=label.anchor, fill=members[0][0].colour, font_weight=600, **halo
        )
        for label, members in zip(labels, groups, strict=True)
        if label is not None
    ]


def _interval(row: Row) -> tuple[float, ...]:
    ends = tuple(end for end in row.interval or () if finite(end) is not None)
    return ends if len(ends) == 2 else ()


def _said(row: Row, across: float) -> str:
    """A point in words."""
    ends = _interval(row)
    between = f" ({number(100 * ends[0], 1)} to {number(100 * ends[1], 1)})" if ends else ""
    parts = [f"{one_line(row.name, 60)}: {percent(row.accuracy)}{between}"]
    if speed := throughput(row):
        parts.append(f"{number(speed, 0 if speed >= 10 else 2)} samples/s")
    if finite(row.macs) is not None:
        parts.append(f"{macs(row.macs)} multiply-adds")
    return ", ".join(parts)
