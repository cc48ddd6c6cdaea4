"""When an answer is right. Axes: B batch, K classes or texts."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import OptionError, UnsupportedModelError, nearest
from .vqa_words import normalize_answer, vqa_accuracy

__all__ = ["Labels", "logits_of", "normalize_answer", "vqa_accuracy"]


def logits_of(output: Any) -> Tensor:
    """The logits (B, K) of a model's output, or the output itself.

    Raises:
        UnsupportedModelError: it has none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UnsupportedModelError(f"expected logits (samples, classes) of the model, got {type(output).__name__}")
    return logits


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

    def knows(self, answer: str) -> bool:
        """Whether an answer stands for a class, by name or number."""
        key = _folded(answer)
        return bool(self.whole.get(key) or self.parts.get(key)) or (key.isdecimal() and int(key) < len(self.names))

    def renamed(self, names: Sequence[str]) -> Labels:
        """The same classes, whose answers go by other names, one per class."""
        other = Labels(self.names)
        for index, name in enumerate(names):
            other.whole[_folded(name)] = {index}
        return other

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
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
