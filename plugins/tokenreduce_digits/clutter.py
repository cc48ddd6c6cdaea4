"""Scenes for the zero-shot task: one whole digit among fragments of others, to be found and named.

The digit is 12 x 12 pixels on patch boundaries as in :mod:`.scenes`; fragments are crops of 4 to 8 pixels a
side of other digit images, anywhere but on the digit or within ``MARGIN`` pixels of it. A fragment is never
as tall as a digit, so what is whole can be told from the picture.

Axes: S scenes, P pixels per side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .captions import class_of
from .scenes import CELL, GRID, PATCH, PIXELS, RGB, load_images, resize
from .words import COLOURS

SIDE = CELL * PATCH
FRAGMENTS = (3, 6)  # least and most
FRAGMENT_SIDE = (4, 8)  # pixels, least and most
MARGIN = 2  # pixels between a fragment and the digit
LEAST_INK = 0.2  # mean ink of a fragment, 0 to 1
FRAGMENT, GROUND = 10, 11  # patch labels beside the ten digits
NO_PART = CELL * CELL

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True)
class Cluttered:
    """One picture, its digit, and the boxes of what is in it."""

    pixels: np.ndarray  # (3, P, P) in 0..1
    digit: int
    colour: str
    place: tuple[int, int]  # row, column in patches
    fragments: tuple[tuple[Box, str], ...]

    @property
    def target(self) -> int:
        """Index of the right caption."""
        return class_of(self.digit, self.colour)


class ClutterFactory:
    """Makes scene number ``i`` of a split from ``(seed, i)`` alone: any scene can be had again."""

    def __init__(self, split: str, seed: int, augment: bool | None = None) -> None:
        self.images, self.labels = load_images(split)
        self.by_label = [np.flatnonzero(self.labels == d) for d in range(10)]
        self.plain = [resize(image, SIDE, None) for image in self.images]
        self.seed = seed
        self.augment = (split == "train") if augment is None else augment

    def __call__(self, index: int) -> Cluttered:
        rng = np.random.default_rng([self.seed, index])
        digit, tint = int(rng.integers(10)), int(rng.integers(len(COLOURS)))
        row, col = (int(v) for v in rng.integers(0, GRID - CELL + 1, 2))
        pixels = np.clip(rng.normal(0.12, 0.04, (3, PIXELS, PIXELS)), 0, 1).astype(np.float32)
        fragments = []
        for _ in range(int(rng.integers(FRAGMENTS[0], FRAGMENTS[1] + 1))):
            ink, box, other = self._fragment(rng, (row * PATCH, col * PATCH))
            _draw(pixels, ink, box, other, rng)
            fragments.append((box, COLOURS[other]))
        image = self.images[rng.choice(self.by_label[digit])]
        whole = resize(image, SIDE, rng if self.augment else None)
        _draw(pixels, whole, (row * PATCH, col * PATCH, SIDE, SIDE), tint, rng)
        return Cluttered(pixels, digit, COLOURS[tint], (row, col), tuple(fragments))

    def _fragment(self, rng: np.random.Generator, digit: tuple[int, int]) -> tuple[np.ndarray, Box, int]:
        """Ink, box and colour of a crop of some digit image, away from the digit at ``digit`` (top, left)."""
        while True:
            height, width = (int(v) for v in rng.integers(FRAGMENT_SIDE[0], FRAGMENT_SIDE[1] + 1, 2))
            top, left = int(rng.integers(PIXELS - height + 1)), int(rng.integers(PIXELS - width + 1))
            above = top + height + MARGIN <= digit[0] or top >= digit[0] + SIDE + MARGIN
            beside = left + width + MARGIN <= digit[1] or left >= digit[1] + SIDE + MARGIN
            if not (above or beside):
                continue
            image = self.plain[int(rng.integers(len(self.plain)))]
            y, x = int(rng.integers(SIDE - height + 1)), int(rng.integers(SIDE - width + 1))
            ink = image[y : y + height, x : x + width]
            if ink.mean() >= LEAST_INK:
                return ink, (top, left, height, width), int(rng.integers(len(COLOURS)))


def _draw(pixels: np.ndarray, ink: np.ndarray, box: Box, tint: int, rng: np.random.Generator) -> None:
    """Lay ink (height, width) in 0..1 over ``pixels`` in a colour of varied brightness."""
    top, left, height, width = box
    colour = RGB[tint] * rng.uniform(0.8, 1.0)
    part = pixels[:, top : top + height, left : left + width]
    part += ink[None] * (colour[:, None, None] - part)


def pixel_values(scenes: list[Cluttered]) -> Tensor:
    """(S, 3, P, P) in -1..1."""
    return (torch.from_numpy(np.stack([s.pixels for s in scenes])) - 0.5) / 0.5


def targets(scenes: list[Cluttered]) -> Tensor:
    """(S,) index of the right caption."""
    return torch.tensor([s.target for s in scenes])


def patch_labels(scenes: list[Cluttered]) -> tuple[Tensor, Tensor, Tensor]:
    """What each patch shows, (S, GRID * GRID) each.

    Digit, or FRAGMENT, or GROUND; colour, ``len(COLOURS)`` = ground; which of the digit's nine patches it is,
    NO_PART = none of them.
    """
    digit = np.full((len(scenes), GRID, GRID), GROUND)
    colour = np.full((len(scenes), GRID, GRID), len(COLOURS))
    part = np.full((len(scenes), GRID, GRID), NO_PART)
    for i, scene in enumerate(scenes):
        for (top, left, height, width), name in scene.fragments:
            rows = slice(top // PATCH, (top + height - 1) // PATCH + 1)
            columns = slice(left // PATCH, (left + width - 1) // PATCH + 1)
            digit[i, rows, columns] = FRAGMENT
            colour[i, rows, columns] = COLOURS.index(name)
        row, col = scene.place
        digit[i, row : row + CELL, col : col + CELL] = scene.digit
        colour[i, row : row + CELL, col : col + CELL] = COLOURS.index(scene.colour)
        part[i, row : row + CELL, col : col + CELL] = np.arange(NO_PART).reshape(CELL, CELL)
    digits, colours, parts = (torch.from_numpy(labels).flatten(1) for labels in (digit, colour, part))
    return digits, colours, parts


def windows(scenes: list[Cluttered], side: int, seed: int) -> Tensor:
    """(S, side * side) patch numbers of a square part of each picture that holds the whole digit."""
    rng = np.random.default_rng([seed, side])
    corners = [[rng.integers(max(0, at + CELL - side), min(at, GRID - side) + 1) for at in s.place] for s in scenes]
    row, col = torch.tensor(np.array(corners)).T[..., None, None]
    step = torch.arange(side)
    numbers: Tensor = ((row + step[:, None]) * GRID + col + step).flatten(1)
    return numbers
