"""Questions about crowded scenes, and which digits each of them is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..words import COLOURS, VOCABULARY

KINDS = ("digit-of-colour", "colour-of-digit", "is-there", "how-many", "digit-at-place")
PLACES = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
"""The quarters of a picture: down, across."""
WORDS = (*VOCABULARY, "at", "top", "bottom", "left", "right")
LENGTH = 10
"""Tokens of a question, those around it included."""


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the numbers of the digits that one has to look at."""

    kind: str
    text: str
    answer: str
    asked: tuple[int, ...]


def ask(
    rng: np.random.Generator,
    kind: str,
    digits: Sequence[int],
    tints: Sequence[int],
    quarters: Sequence[tuple[int, int]],
) -> Question:
    """A question of this kind.

    Args:
        digits: what stands there, no digit twice.
        tints: the colour of each; at least one occurs once.
        quarters: of the picture (down, across), in which each stands; at least one occurs once.
    """
    numbers = range(len(digits))
    if kind == "digit-of-colour":
        single = [i for i in numbers if tints.count(tints[i]) == 1]
        i = int(rng.choice(single))
        return Question(kind, f"what digit is {COLOURS[tints[i]]}", str(digits[i]), (i,))
    i = int(rng.integers(len(digits)))
    if kind == "colour-of-digit":
        return Question(kind, f"what colour is the {digits[i]}", COLOURS[tints[i]], (i,))
    if kind == "how-many":
        tint = tints[i] if rng.random() < 0.8 else int(rng.integers(len(COLOURS)))
        same = tuple(j for j in numbers if tints[j] == tint)
        return Question(kind, f"how many {COLOURS[tint]} digits", str(len(same)), same)
    if kind == "digit-at-place":
        i = int(rng.choice([j for j in numbers if quarters.count(quarters[j]) == 1]))
        place = next(name for name, quarter in PLACES.items() if quarter == quarters[i])
        return Question(kind, f"what digit is at the {place}", str(digits[i]), (i,))
    return _is_there(rng, i, digits, tints)


def _is_there(rng: np.random.Generator, i: int, digits: Sequence[int], tints: Sequence[int]) -> Question:
    """About a digit in a colour: the half that is not there is the digit in another colour, or no such digit."""
    digit, tint = digits[i], tints[i]
    draw = rng.random()
    if draw >= 0.75:
        digit = int(rng.choice([d for d in range(10) if d not in digits]))
    elif draw >= 0.5:
        tint = int(rng.choice([c for c in range(len(COLOURS)) if c != tint]))
    about = tuple(j for j, d in enumerate(digits) if d == digit) or tuple(j for j, c in enumerate(tints) if c == tint)
    return Question("is-there", f"is there a {COLOURS[tint]} {digit}", "yes" if draw < 0.5 else "no", about)
