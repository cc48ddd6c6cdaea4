"""When an answer is right. Axes: B batch, K classes or texts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import OptionError, UnsupportedModelError, nearest

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": 0, **{word: number for number, word in enumerate(DIGITS)}}
ARTICLES = {"a", "an", "the"}


def logits_of(output: Any) -> Tensor:
    """The logits (B, K) of a model's output, or the output itself.

    Raises:
        UnsupportedModelError: it has none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UnsupportedModelError(f"expected logits (samples, classes) of the model, got {type(output).__name__}")
    return logits


def normalize_answer(answer: str) -> str:
    """An answer for comparison: lower case, no articles and punctuation, small numbers as digits.

    Source: the answer processing of the VQA evaluation (Antol et al., VQA, ICCV 2015). In place of its table of
    contractions ("dont" for "don't") every apostrophe is left out, on both sides.
    """
    text = re.sub(r"(?<!\d)[.,]|[.,](?!\d)", " ", re.sub(r"['’]", "", answer.lower()))
    words = re.sub(r"[^\w.,:\s]|_", " ", text).split()
    kept = [str(NUMBERS.get(word, word)) for word in words if word not in ARTICLES]
    return " ".join(kept or words)


def vqa_accuracy(answer: str, votes: Sequence[str]) -> float:
    """VQA accuracy, 0 to 1: how far an answer agrees with what people said.

    The official form: each person is left out in turn, an answer that three of the others gave counts full, and
    the results are averaged; 1, 2, 3 votes of ten are worth 0.3, 0.6, 0.9. Where fewer than three others are left,
    all of them must agree; one vote is an exact match.

    Source: Antol et al., VQA, ICCV 2015, section 5.
    """
    wanted = normalize_answer(answer)
    same = sum(normalize_answer(vote) == wanted for vote in votes)
    if len(votes) == 1:
        return float(same)
    full = min(3, len(votes) - 1)
    kept, dropped = min(1.0, same / full), min(1.0, (same - 1) / full)
    return ((len(votes) - same) * kept + same * dropped) / len(votes)


class Labels:
    """The names of a classifier's classes.

    An answer stands for a class by its name, by one of the names where it has several with commas between them
    ("tench, Tinca tinca"), whatever the case, or by its number.

    Args:
        names: one per class.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.whole: defaultdict[str, set[int]] = defaultdict(set)
        self.parts: defaultdict[str, set[int]] = defaultdict(set)
        for index, name in enumerate(self.names):
            self.whole[_folded(name)].add(index)
            for part in name.split(","):
                self.parts[_folded(part)].add(index)

    def index(self, answer: str, of: str) -> int:
        """The class of an answer; ``of`` says whose answer it is in a message.

        Raises:
            OptionError: no class, or more than one, has this name.
        """
        key = _folded(answer)
        found = self.whole.get(key) or self.parts.get(key) or set()
        if not found and key.isdecimal() and int(key) < len(self.names):
            found = {int(key)}
        if len(found) > 1:
            numbers = ", ".join(map(str, sorted(found)))
            raise OptionError(f"{of}: several classes are called {answer!r}; give the number of one of them: {numbers}")
        if not found:
            raise OptionError(f"{of}: expected one of the model's {len(self.names)} classes, got {self._hint(answer)}")
        return next(iter(found))

    def _hint(self, answer: str) -> str:
        names = self.names if len(self.names) <= 20 else []
        close = nearest(answer, names or self.parts).partition(" Valid:")[0]
        valid = f" Valid: {', '.join(names)}, or a number from 0." if names else f" Or 0 to {len(self.names) - 1}."
        return f"{answer!r}.{close}{valid}"


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
