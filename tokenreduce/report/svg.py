"""Small pieces of SVG as text: elements, labels, axes. Colours are CSS variables, so that a page can set them.

No piece has an id, so that many drawings can stand in one page. Text is escaped here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .formatting import clean

INK, SOFT, LINE, PAPER = (
    "var(--ink, #1b1d22)",
    "var(--soft, #5d626d)",
    "var(--line, #d9dbe0)",
    "var(--paper, #ffffff)",
)
FONT = 12.5


def element(name: str, *inside: str, **attributes: Any) -> str:
    """``<name attribute="...">inside</name>``.

    Args:
        inside: SVG, already escaped.
        attributes: ``_`` in a name stands for ``-``; numbers are rounded, None is left out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            said = short(value) if isinstance(value, float) else clean(str(value))
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(said)}"')
    return f"<{' '.join(parts)}>{''.join(inside)}</{name}>" if inside else f"<{' '.join(parts)}/>"


def text(x: float, y: float, words: str, **attributes: Any) -> str:
    """A label; ``words`` are escaped."""
    style = {"fill": INK, "font_size": FONT, **attributes}
    return element("text", escape(clean(words)) or " ", x=float(x), y=float(y), **style)


def title(words: str) -> str:
    """What shows when the mouse rests on the element that this is the first in."""
    return element("title", escape(clean(words)) or " ")


def drawing(width: float, height: float, name: str, *inside: str, class_: str = "chart") -> str:
    """The whole drawing, as wide as there is room."""
    return element(
        "svg",
        title(name),
        *inside,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {short(width)} {short(height)}",
        class_=class_,
        role="img",
        aria_label=name,
        font_family="inherit",
    )


def path(points: Sequence[tuple[float, float]], **attributes: Any) -> str:
    """A line through points."""
    steps = " ".join(f"{'L' if i else 'M'}{short(x)} {short(y)}" for i, (x, y) in enumerate(points))
    return element("path", d=steps or "M0 0", **{"fill": "none", "stroke": INK, **attributes})


def short(value: float) -> str:
    """A number with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


@dataclass(frozen=True)
class Scale:
    """Numbers ``low`` to ``high`` laid on ``start`` to ``end``, with ``ticks`` at round ones."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scale(values: Sequence[float], start: float, end: float, *, count: int = 5, zero: bool = False) -> Scale:
    """A scale that holds the values, a little room, and round ticks.

    Args:
        count: about so many steps.
        zero: begin at 0.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    room = high - low or abs(high) * 0.2 or 1.0
    low, high = (low if zero else low - 0.06 * room), high + 0.06 * room
    step = round_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Scale(low, high, start, end, ticks)


def round_step(least: float) -> float:
    """The next of ... 0.1, 0.2, 0.5, 1, 2, 5, 10 ... at or above a number."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def tick_words(ticks: Sequence[float]) -> list[str]:
    """All ticks with as many decimals as their step needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return [f"{tick + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]


def axes(across: Scale, up: Scale, name_across: str, name_up: str) -> str:
    """Frame, grid lines and names of both axes."""
    left, right, bottom, top = across.start, across.end, up.start, up.end
    parts = []
    for tick, words in zip(up.ticks, tick_words(up.ticks), strict=True):
        y = up(tick)
        parts.append(path([(left, y), (right, y)], stroke=LINE))
        parts.append(text(left - 7, y + 4, words, text_anchor="end", fill=SOFT, font_size=FONT - 1))
    for tick, words in zip(across.ticks, tick_words(across.ticks), strict=True):
        x = across(tick)
        parts.append(path([(x, bottom), (x, bottom + 4)], stroke=SOFT))
        parts.append(text(x, bottom + 17, words, text_anchor="middle", fill=SOFT, font_size=FONT - 1))
    parts.append(path([(left, bottom), (right, bottom)], stroke=SOFT))
    parts.append(text((left + right) / 2, bottom + 35, name_across, text_anchor="middle"))
    parts.append(text(left - 34 if name_up else left, top - 12, name_up))
    return "".join(parts)
