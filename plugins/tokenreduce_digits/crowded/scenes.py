"""Scenes of small handwritten digits among clutter, with a question each.

Digits are as the data set has them, 8 x 8 pixels, which is 2 x 2 patches; the digits of a scene differ, their colours
may repeat. Clutter is fragments of other digits in the same colours, never as tall as a digit, on a ground of stripes
and noise. Each digit stands within a quarter of the picture, and one of them alone in its quarter, whatever is asked.
Held-out digits are those of :mod:`tokenreduce_digits.scenes`.

Axes: S scenes, P pixels per side, T text tokens, N patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..scenes import GRID, PATCH, PIXELS, RGB, load_images, resize
from ..words import ANSWERS, COLOURS, encode
from .questions import KINDS, LENGTH, WORDS, Question, ask

CELL = 2  # patches per side of a digit
STEP = CELL + 1  # patches from a digit to the next one, at least
HALF = GRID // 2
SIDE = CELL * PATCH
DIGITS = (3, 8)  # least and most
FRAGMENTS = (5, 12)
FRAGMENT_SIDE = (3, 5)  # pixels
LEAST_INK = 0.25  # mean ink of a fragment, 0 to 1

Place = tuple[int, int]


@dataclass(frozen=True)
class Crowd:
    """One picture and one question about it, with the places of its digits (row, column in patches)."""

    pixels: np.ndarray  # (3, P, P) in 0..1
    digits: tuple[int, ...]
    tints: tuple[int, ...]
    places: tuple[Place, ...]
    question: Question


class CrowdFactory:
    """Makes scene number ``i`` of a split from ``(seed, i)`` alone: any scene can be had again."""

    def __init__(self, split: str, seed: int, augment: bool | None = None) -> None:
        self.images, self.labels = load_images(split)
        self.by_label = [np.flatnonzero(self.labels == d) for d in range(10)]
        self.seed = seed
        self.augment = (split == "train") if augment is None else augment

    def __call__(self, index: int) -> Crowd:
        rng = np.random.default_rng([self.seed, index])
        count = int(rng.integers(DIGITS[0], DIGITS[1] + 1))
        digits = [int(d) for d in rng.permutation(10)[:count]]
        tints = _tints(rng, count)
        places = _places(rng, count)
        quarters = [(row // HALF, col // HALF) for row, col in places]
        pixels = _ground(rng)
        for _ in range(int(rng.integers(FRAGMENTS[0], FRAGMENTS[1] + 1))):
            self._fragment(rng, pixels, places)
        for digit, tint, (row, col) in zip(digits, tints, places, strict=True):
            image = self.images[rng.choice(self.by_label[digit])]
            ink = resize(image, SIDE, rng) if self.augment else image
            _draw(rng, pixels, ink, row * PATCH, col * PATCH, tint)
        kind = KINDS[int(rng.integers(len(KINDS)))]
        return Crowd(pixels, tuple(digits), tuple(tints), tuple(places), ask(rng, kind, digits, tints, quarters))

    def _fragment(self, rng: np.random.Generator, pixels: np.ndarray, places: list[Place]) -> None:
        """Draw a crop of some digit image, away from the digits; none where twenty tries find no room."""
        for _ in range(20):
            height, width = (int(v) for v in rng.integers(FRAGMENT_SIDE[0], FRAGMENT_SIDE[1] + 1, 2))
            top, left = int(rng.integers(PIXELS - height + 1)), int(rng.integers(PIXELS - width + 1))
            if any(_near(top, height, row) and _near(left, width, col) for row, col in places):
                continue
            image = self.images[int(rng.integers(len(self.images)))]
            y, x = int(rng.integers(8 - height + 1)), int(rng.integers(8 - width + 1))
            ink = image[y : y + height, x : x + width]
            if ink.mean() >= LEAST_INK:
                return _draw(rng, pixels, ink, top, left, int(rng.integers(len(COLOURS))))


def collate(scenes: list[Crowd]) -> dict[str, Tensor]:
    """Model inputs of S scenes: ``pixel_values`` (S, 3, P, P), ``input_ids`` and ``attention_mask`` (S, T), and
    ``answer`` (S,), the index of the right answer."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in scenes]))
    ids, mask = encode([s.question.text for s in scenes], LENGTH, WORDS)
    answers = torch.tensor([ANSWERS.index(s.question.answer) for s in scenes])
    return {"pixel_values": (pixels - 0.5) / 0.5, "input_ids": ids, "attention_mask": mask, "answer": answers}


def patch_labels(scenes: list[Crowd]) -> tuple[Tensor, Tensor, Tensor]:
    """What each patch shows, (S, N) each.

    The digit, 10 = none; its colour, ``len(COLOURS)`` = none; and 1 where a digit is that the question is about.
    """
    digit = np.full((len(scenes), GRID, GRID), 10)
    colour = np.full((len(scenes), GRID, GRID), len(COLOURS))
    asked = np.zeros((len(scenes), GRID, GRID), dtype=np.float32)
    for i, scene in enumerate(scenes):
        for j, (row, col) in enumerate(scene.places):
            box = np.s_[i, row : row + CELL, col : col + CELL]
            digit[box], colour[box] = scene.digits[j], scene.tints[j]
            asked[box] = j in scene.question.asked
    digits, colours, about = (torch.from_numpy(labels).flatten(1) for labels in (digit, colour, asked))
    return digits, colours, about


def _tints(rng: np.random.Generator, count: int) -> list[int]:
    """A colour for each digit; the first digit's occurs once."""
    first = int(rng.integers(len(COLOURS)))
    others = [c for c in range(len(COLOURS)) if c != first]
    return [first, *(int(c) for c in rng.choice(others, count - 1))]


def _places(rng: np.random.Generator, count: int) -> list[Place]:
    """Top-left patches of digits, at least a patch apart, each within a quarter and one of them alone in its own."""
    while True:
        places: list[Place] = []
        for _ in range(50 * count):
            row, col = (int(v) for v in rng.integers(0, GRID - CELL + 1, 2))
            within = row // HALF == (row + CELL - 1) // HALF and col // HALF == (col + CELL - 1) // HALF
            if within and all(abs(row - r) >= STEP or abs(col - c) >= STEP for r, c in places):
                places.append((row, col))
            if len(places) == count:
                break
        quarters = [(row // HALF, col // HALF) for row, col in places]
        if len(places) == count and any(quarters.count(quarter) == 1 for quarter in quarters):
            return [places[i] for i in rng.permutation(count)]


def _near(start: int, length: int, patch: int) -> bool:
    """Whether pixels from ``start`` on come within one pixel of a digit that begins at ``patch``, on one axis."""
    return start + length >= patch * PATCH and start <= patch * PATCH + SIDE


def _ground(rng: np.random.Generator) -> np.ndarray:
    """(3, P, P): dark stripes of any direction, width and colour, and noise."""
    y, x = np.mgrid[:PIXELS, :PIXELS] / PIXELS
    turn, waves, phase = rng.uniform(0, np.pi), rng.uniform(1, 6), rng.uniform(0, 2 * np.pi)
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(turn) + y * np.sin(turn)) + phase)
    colour = rng.uniform(0, 0.1, 3)
    noise = rng.normal(0.12, 0.04, (3, PIXELS, PIXELS))
    ground: np.ndarray = np.clip(noise + colour[:, None, None] * stripes, 0, 1).astype(np.float32)
    return ground


def _draw(rng: np.random.Generator, pixels: np.ndarray, ink: np.ndarray, top: int, left: int, tint: int) -> None:
    """Lay ink (height, width) in 0..1 over ``pixels`` in a colour of varied brightness."""
    colour = RGB[tint] * rng.uniform(0.8, 1.0)
    part = pixels[:, top : top + ink.shape[0], left : left + ink.shape[1]]
    part += ink[None] * (colour[:, None, None] - part)
