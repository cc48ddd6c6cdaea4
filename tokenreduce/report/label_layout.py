"""Where to write names in a chart so that they hide nothing: a greedy search over places around each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """Words wanted near a point; ``x``, ``y`` and ``anchor`` say where they went."""

    words: str
    x: float
    y: float
    anchor: str


def place_labels(
    wanted: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    taken: Sequence[tuple[float, float]],
    bounds: Box,
    size: float,
) -> list[Label | None]:
    """A place for each label, or None where every place would hide a sign or another label.

    Args:
        wanted: words, and the points that they may stand beside, the best first.
        taken: signs (x, y) to keep clear of.
        bounds: left, top, right, bottom of the room there is.
        size: of the letters.
    """
    boxes: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in taken]
    placed: list[Label | None] = []
    for words, points in wanted:
        wide, high = 0.64 * size * len(words), size
        found = None
        for x, y in points:
            for label, box in _around(words, x, y, wide, high):
                inside = box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
                if inside and not any(_meet(box, other) for other in boxes):
                    found = label
                    boxes.append(box)
                    break
            if found is not None:
                break
        placed.append(found)
    return placed


def _around(words: str, x: float, y: float, wide: float, high: float) -> list[tuple[Label, Box]]:
    """Right, left, above, below, and the corners."""
    places = []
    for right, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
        anchor = {1: "start", -1: "end", 0: "middle"}[right]
        at = x + right * (9 if not down else 6)
        base = y + 0.35 * high + down * (0.85 * high + (3 if right else 5))
        left = at - {1: 0, -1: wide, 0: wide / 2}[right]
        places.append((Label(words, at, base, anchor), (left, base - 0.8 * high, left + wide, base + 0.2 * high)))
    return places


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
