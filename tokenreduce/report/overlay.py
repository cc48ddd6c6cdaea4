"""Pictures as SVG for a page: the original once, and over it what each row left."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..lab.result import Picture
from .formatting import one_line
from .regions import PALETTE, Segment, colours, outline, regions
from .svg import drawing, element, short

UNIT = 10.0  # of a patch's width
GREY, DARK = "#a3a6ad", "#101114"


@dataclass(frozen=True)
class Group:
    """One sample: what is asked, the original, and a picture per row."""

    text: str
    expected: str
    before: str
    original: str
    pictures: tuple[tuple[Picture, str, str], ...]


def group_by_sample(pictures: Sequence[Picture]) -> list[Group]:
    """Pictures by sample, each with its SVG and its counts in words ("" where it cannot be drawn).

    Pictures of the same image, text and answer are of one sample; so are pictures that have the same place among those
    of their row, the same text and answer, and an image of another size.
    """
    samples: list[list[Picture]] = []
    known: dict[tuple[object, ...], int] = {}
    seen: dict[str, int] = {}
    for picture in pictures:
        place = seen[picture.row] = seen.get(picture.row, -1) + 1
        words = picture.text, picture.expected
        keys = (picture.image, *words), (place, *words)
        at = next((known[key] for key in keys if key in known), len(samples))
        if at == len(samples):
            samples.append([])
        for key in keys:
            known.setdefault(key, at)
        samples[at].append(picture)
    return [_group(number, members) for number, members in enumerate(samples)]


def _group(number: int, members: Sequence[Picture]) -> Group:
    first = members[0]
    name = f"sample {number + 1}: {one_line(first.text, 80)}".rstrip(": ")
    images: dict[str, str] = {}
    for picture in members:
        images.setdefault(picture.image, f"picture-{number}-{len(images)}")
    original = original_view(first, images[first.image], f"{name}, the original")
    drawn = {first.image} if original else set()
    made = []
    for picture in members:
        own = picture.image not in drawn
        made.append((picture, reduced_view(picture, images[picture.image], own, name), counts(picture)))
        drawn.add(picture.image)
    return Group(first.text, first.expected, first.before, original, tuple(made))


def counts(picture: Picture) -> str:
    """What was kept, merged and dropped, in words; "" where the owners do not fit the grid."""
    return str(regions(picture.grid, picture.owner)) if _fits(picture) else ""


def original_view(picture: Picture, name: str, words: str) -> str:
    """The image alone, under a name that other drawings of the page refer to; "" without an image."""
    box = _box(picture)
    return drawing(*box, words, _image(picture, box, name), class_="view") if box and _fits(picture) else ""


def reduced_view(picture: Picture, name: str, own: bool, words: str) -> str:
    """What is left of the picture; ``own``: its image stands here for the first time."""
    box = _box(picture)
    if not box or not _fits(picture):
        return ""
    found = regions(picture.grid, picture.owner)
    high = box[1] / picture.grid[0] / UNIT
    image = _image(picture, box, name) if own else element("use", href=f"#{name}")
    parts = [image, _cells(found.gone, GREY, 0.82, high)]
    strokes = [(column + 0.3, row + 0.7, column + 0.7, row + 0.3) for row, column in found.gone]
    parts.append(_lines(strokes, "#5d626d", 0.6, high, opacity=0.55))
    single = [piece for cell in found.kept for piece in outline([cell], 0.04)]
    parts.append(_lines(single, "#000000", 1.6, high, opacity=0.4))
    parts.append(_lines(single, "#ffffff", 0.8, high, opacity=0.9))
    width = 1.6
    borders = [outline(cells, 0.1) for cells in found.merged]
    numbers = colours(found.merged)
    for number in sorted(set(numbers)):
        cells = [
            cell
            for members, own_number in zip(found.merged, numbers, strict=True)
            if own_number == number
            for cell in members
        ]
        parts.append(_cells(cells, PALETTE[number], 0.2, high))
    parts.append(_lines([piece for pieces in borders for piece in pieces], DARK, width + 1.2, high))
    for number in sorted(set(numbers)):
        own_pieces = [
            p for pieces, own_number in zip(borders, numbers, strict=True) if own_number == number for p in pieces
        ]
        parts.append(_lines(own_pieces, PALETTE[number], width, high))
    said = f"{one_line(picture.row, 60)}, {words}: {found}"
    return drawing(*box, said, *parts, class_="view")


def _fits(picture: Picture) -> bool:
    rows, columns = picture.grid
    return rows * columns > 0 and len(picture.owner) == rows * columns


def _box(picture: Picture) -> tuple[float, float] | None:
    """Width and height of the drawing; None where the image is not a PNG in base64."""
    try:
        head = base64.b64decode(picture.image, validate=True)[:24]
        wide, high = struct.unpack(">II", head[16:24])
    except (binascii.Error, ValueError, struct.error):
        return None
    if head[:8] != b"\x89PNG\r\n\x1a\n" or not wide or not high:
        return None
    across = picture.grid[1] * UNIT
    return across, across * high / wide


def _image(picture: Picture, box: tuple[float, float], name: str) -> str:
    return element(
        "image",
        id=name,
        href=f"data:image/png;base64,{picture.image}",
        width=box[0],
        height=box[1],
        preserveAspectRatio="none",
        style="image-rendering:pixelated",
    )


def _cells(cells: Sequence[tuple[int, int]], colour: str, opacity: float, high: float) -> str:
    if not cells:
        return ""
    steps = [
        f"M{short(c * UNIT)} {short(r * UNIT * high)}h{short(UNIT)}v{short(UNIT * high)}h{short(-UNIT)}z"
        for r, c in cells
    ]
    return element("path", d="".join(steps), fill=colour, fill_opacity=opacity)


def _lines(pieces: Sequence[Segment], colour: str, width: float, high: float, opacity: float | None = None) -> str:
    if not pieces:
        return ""
    steps = [
        f"M{short(x0 * UNIT)} {short(y0 * UNIT * high)}L{short(x1 * UNIT)} {short(y1 * UNIT * high)}"
        for x0, y0, x1, y1 in pieces
    ]
    return element(
        "path",
        d="".join(steps),
        fill="none",
        stroke=colour,
        stroke_width=width,
        stroke_linecap="square",
        stroke_opacity=opacity,
        vector_effect="non-scaling-stroke",
    )
