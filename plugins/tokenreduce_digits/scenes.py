"""Scenes of real handwritten digits, coloured and placed at random, with a question each.

The digits are scikit-learn's copy of the UCI optical-digits test set (1797 images of 8 x 8 pixels).
That file is ordered by form sheet and every sheet repeats one sequence of labels, which shows where
sheets begin; the last three sheets, images 1415 and up, are held out, so that no image and, as far
as the file can tell, no writer appears on both sides. scikit-learn ships no writer ids.

Axes: S scenes, P pixels per side, T text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenreduce.errors import OptionError

from .words import ANSWERS, COLOURS, TEXT_LENGTH, encode

HELD_OUT_FROM = 1415
GRID = 12  # patches per side
PATCH = 4  # pixels per side of a patch
CELL = 3  # patches per side of a digit
PIXELS = GRID * PATCH
MAX_DIGITS = 5
KINDS = ("digit-of-colour", "colour-of-digit", "is-there", "how-many")
RGB = np.array(
    [[1, 0.15, 0.15], [0.15, 1, 0.15], [0.25, 0.35, 1], [1, 1, 0.1], [0.1, 1, 1], [1, 0.2, 1]], dtype=np.float32
)


@dataclass(frozen=True)
class Scene:
    """One picture and one question about it, with the places of its digits (row, column in patches)."""

    pixels: np.ndarray  # (3, P, P) in 0..1
    digits: tuple[int, ...]
    colours: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    kind: str
    question: str
    answer: str


def load_images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Digit images (n, 8, 8) in 0..1 and labels (n,) of ``"train"`` or ``"held-out"``."""
    from sklearn.datasets import load_digits

    if split not in ("train", "held-out"):
        raise OptionError(f"split must be 'train' or 'held-out', got {split!r}")
    data = load_digits()
    part = slice(0, HELD_OUT_FROM) if split == "train" else slice(HELD_OUT_FROM, None)
    return (data.images[part] / 16).astype(np.float32), data.target[part].astype(np.int64)


class SceneFactory:
    """Makes scene number ``i`` of a split from ``(seed, i)`` alone: any scene can be had again."""

    def __init__(self, split: str, seed: int, augment: bool | None = None) -> None:
        self.images, self.labels = load_images(split)
        self.by_label = [np.flatnonzero(self.labels == d) for d in range(10)]
        self.seed = seed
        self.augment = (split == "train") if augment is None else augment

    def __call__(self, index: int) -> Scene:
        rng = np.random.default_rng([self.seed, index])
        count = int(rng.integers(1, MAX_DIGITS + 1))
        digits = [int(d) for d in rng.permutation(10)[:count]]
        tints = [int(c) for c in rng.permutation(len(COLOURS))[:count]]
        places = _places(rng, count)
        pixels = np.clip(rng.normal(0.12, 0.04, (3, PIXELS, PIXELS)), 0, 1).astype(np.float32)
        side = CELL * PATCH
        for digit, tint, (row, col) in zip(digits, tints, places, strict=True):
            ink = resize(self.images[rng.choice(self.by_label[digit])], side, rng if self.augment else None)
            colour = RGB[tint] * rng.uniform(0.8, 1.0)
            box = pixels[:, row * PATCH : row * PATCH + side, col * PATCH : col * PATCH + side]
            box += ink[None] * (colour[:, None, None] - box)
        names = tuple(COLOURS[t] for t in tints)
        kind = KINDS[int(rng.integers(len(KINDS)))]
        question, answer = _ask(rng, kind, digits, names)
        return Scene(pixels, tuple(digits), names, tuple(places), kind, question, answer)


def _places(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Top-left patches of ``count`` digits that do not overlap, anywhere on the patch grid."""
    while True:
        places: list[tuple[int, int]] = []
        for _ in range(50 * count):
            row, col = (int(v) for v in rng.integers(0, GRID - CELL + 1, 2))
            if all(abs(row - r) >= CELL or abs(col - c) >= CELL for r, c in places):
                places.append((row, col))
            if len(places) == count:
                return places


def resize(image: np.ndarray, side: int, rng: np.random.Generator | None) -> np.ndarray:
    """An 8 x 8 digit at ``side`` pixels; with ``rng`` also turned, sheared, scaled and shifted a little."""
    turn, shear, scale, dx, dy = (0.0, 0.0, 1.0, 0.0, 0.0)
    if rng is not None:
        turn, shear = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
        scale, dx, dy = rng.uniform(0.9, 1.15), rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, shear], [0, 1]]
    theta = torch.tensor(np.column_stack([matrix, [dx, dy]])[None], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(theta, [1, 1, side, side], align_corners=False)
    source = torch.from_numpy(image)[None, None]
    return torch.nn.functional.grid_sample(source, grid, align_corners=False)[0, 0].numpy()


def _ask(rng: np.random.Generator, kind: str, digits: list[int], colours: tuple[str, ...]) -> tuple[str, str]:
    target = int(rng.integers(len(digits)))
    if kind == "digit-of-colour":
        return f"what digit is {colours[target]}", str(digits[target])
    if kind == "colour-of-digit":
        return f"what colour is the {digits[target]}", colours[target]
    if kind == "how-many":
        return "how many digits", str(len(digits))
    if rng.integers(2):
        return f"is there a {digits[target]}", "yes"
    absent = [d for d in range(10) if d not in digits]
    return f"is there a {int(rng.choice(absent))}", "no"


def collate(scenes: list[Scene]) -> dict[str, Tensor]:
    """Model inputs of S scenes: ``pixel_values`` (S, 3, P, P), ``input_ids`` and ``attention_mask``
    (S, T), and ``answer`` (S,), the index of the right answer."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in scenes]))
    ids, mask = encode([s.question for s in scenes], TEXT_LENGTH)
    return {
        "pixel_values": (pixels - 0.5) / 0.5,
        "input_ids": ids,
        "attention_mask": mask,
        "answer": torch.tensor([ANSWERS.index(s.answer) for s in scenes]),
    }


def patch_labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """What each patch shows: digit (S, GRID * GRID), 10 = background, and colour, ``len(COLOURS)`` = background."""
    digit = np.full((len(scenes), GRID, GRID), 10)
    colour = np.full((len(scenes), GRID, GRID), len(COLOURS))
    for i, scene in enumerate(scenes):
        for d, c, (row, col) in zip(scene.digits, scene.colours, scene.places, strict=True):
            digit[i, row : row + CELL, col : col + CELL] = d
            colour[i, row : row + CELL, col : col + CELL] = COLOURS.index(c)
    return torch.from_numpy(digit).flatten(1), torch.from_numpy(colour).flatten(1)


def asked_patches(scenes: list[Scene]) -> Tensor:
    """(S, GRID * GRID) 1 where a patch shows what the question names; every digit for "how many digits"."""
    asked = np.zeros((len(scenes), GRID, GRID), dtype=np.float32)
    for i, scene in enumerate(scenes):
        word = scene.question.split()[-1]
        for d, c, (row, col) in zip(scene.digits, scene.colours, scene.places, strict=True):
            if word in (c, str(d), "digits"):
                asked[i, row : row + CELL, col : col + CELL] = 1
    return torch.from_numpy(asked).flatten(1)
