"""The pictures of a page: each image once, and over it what each row left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import OptionError
from ..lab.result import Picture
from .canvas import inline_svg, look, new_figure
from .formatting import one_line
from .patch_view import decode, draw_patches
from .regions import regions

WIDTH = 200.0  # of a view in pixels


@dataclass(frozen=True)
class View:
    """One row's picture of a sample: its SVG and its counts in words, both "" where it cannot be drawn."""

    picture: Picture
    svg: str
    counts: str


@dataclass(frozen=True)
class Sample:
    """One sample: what is asked, its images (id, PNG in base64, height in pixels), and a view per row.

    The first image is the original, where it can be drawn.
    """

    text: str
    expected: str
    before: str
    images: tuple[tuple[str, str, float], ...]
    views: tuple[View, ...]


def group_by_sample(pictures: Sequence[Picture]) -> list[Sample]:
    """Pictures by sample.

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
    return [_sample(number, members) for number, members in enumerate(samples)]


def _sample(number: int, members: Sequence[Picture]) -> Sample:
    images: dict[str, tuple[str, str, float]] = {}
    views = []
    for place, picture in enumerate(members):
        try:
            high, wide = decode(picture).shape[:2]
        except OptionError:
            views.append(View(picture, "", ""))
            continue
        name, _, height = images.setdefault(
            picture.image, (f"picture-{number}-{len(images)}", picture.image, min(max(WIDTH * high / wide, 1), 4000))
        )
        found = regions(picture.grid, picture.owner)
        with look():
            figure = new_figure(WIDTH, height)
            draw_patches(figure.add_axes((0, 0, 1, 1)), picture, found, WIDTH)
            words = f"{one_line(picture.row)}, sample {number + 1}: {found}"
            svg = inline_svg(figure, words, f"view-{number}-{place}", class_="view", image=name)
        views.append(View(picture, svg, str(found)))
    return Sample(members[0].text, members[0].expected, members[0].before, tuple(images.values()), tuple(views))
