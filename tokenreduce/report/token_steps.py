"""Tokens layer by layer as SVG, one small drawing per variant and stack."""

from __future__ import annotations

from collections.abc import Sequence

from ..lab.result import Result, Row
from .formatting import number, one_line
from .series import Line, level, lines
from .svg import FONT, SOFT, Scale, axes, drawing, element, path, scale, text, title

STEP_WIDTH, STEP_HEIGHT = 310.0, 190.0


def tokens_by_layer(result: Result) -> list[tuple[str, str]]:
    """Steps of the token counts, one drawing per variant and stack: (name, SVG); rows without sites are left out."""
    drawings = []
    depth: dict[str, int] = {}
    most = 0
    for row in result.rows:
        for site in row.sites if row.failed is None else ():
            depth[site.stack] = max(depth.get(site.stack, 0), site.layer + 1)
            most = max(most, site.tokens_in)
    for line in lines(result):
        if line.rows[0].role == "baseline":
            continue
        for stack in dict.fromkeys(site.stack for row in line.rows for site in row.sites):
            several = len({site.stack for row in line.rows for site in row.sites}) > 1
            name = f"{line.name}, {stack}" if several else line.name
            drawings.append((name, _steps(line, stack, depth[stack], most)))
    return drawings


def _steps(line: Line, stack: str, depth: int, most: int) -> str:
    """The rows of a variant in one stack, the more is gone the stronger the line."""
    across = scale([0.0, float(depth)], 40, STEP_WIDTH - 46, count=4)
    ticks = tuple(tick for tick in across.ticks if 0 <= tick <= depth and tick == int(tick))
    across = Scale(0, depth, across.start, across.end, ticks)
    up = scale([0.0, float(most)], STEP_HEIGHT - 42, 26, count=4, zero=True)
    parts = [axes(across, up, "layer", "tokens")]
    rows = [row for row in line.rows if any(site.stack == stack for site in row.sites)]
    ends: list[tuple[float, str]] = []
    for index, row in enumerate(rows):
        strength = 1.0 if len(rows) == 1 else 0.4 + 0.6 * index / (len(rows) - 1)
        for stream, course in courses(row, stack, depth).items():
            corners = [(across(x), up(y)) for x, y in course]
            dash = None if "image" in stream else "3 3"
            words = f"{one_line(row.name, 60)}, {stream}: {number(course[0][1])} to {number(course[-1][1])} tokens"
            parts.append(
                element(
                    "g",
                    title(words),
                    path(corners, stroke=line.colour, stroke_width=1.8, opacity=strength, stroke_dasharray=dash),
                )
            )
            if "image" in stream and (level(row) or len(rows) == 1):
                share = level(row).split(" %")[0]
                ends.append((corners[-1][1], f"{share} %" if share else number(course[-1][1])))
    parts += _ends(ends)
    return drawing(STEP_WIDTH, STEP_HEIGHT, f"tokens after each layer of {stack}: {one_line(line.name, 60)}", *parts)


def _ends(ends: Sequence[tuple[float, str]]) -> list[str]:
    """Levels at the right ends of the lines, those that would lie on another one left out."""
    parts, last = [], float("-inf")
    for y, words in sorted(ends):
        if y - last >= FONT - 2.5:
            parts.append(text(STEP_WIDTH - 41, y + 4, words, fill=SOFT, font_size=FONT - 2.5))
            last = y
    return parts


def courses(row: Row, stack: str, depth: int) -> dict[str, list[tuple[float, float]]]:
    """Corners (layer, tokens) of each stream of a row that changes; the image stream in any case."""
    found: dict[str, list[tuple[float, float]]] = {}
    for site in sorted((site for site in row.sites if site.stack == stack), key=lambda site: site.layer):
        course = found.setdefault(site.stream, [(0.0, float(site.tokens_in))])
        course += [(site.layer + 0.5, course[-1][1]), (site.layer + 0.5, float(site.tokens_out))]
    for course in found.values():
        course.append((float(depth), course[-1][1]))
    return {
        stream: course
        for stream, course in found.items()
        if "image" in stream or len({y for _, y in course}) > 1 or len(found) == 1
    }
