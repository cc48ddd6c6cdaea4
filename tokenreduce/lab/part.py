"""One ablation as several jobs: which scores are this job's to work out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import OptionError

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One of several jobs that share a store.

    Attributes:
        number, total: this is number so-and-so, from 1 on, of so many.
    """

    number: int
    total: int

    @classmethod
    def of(cls, text: str) -> Part:
        """``"2/8"``: the second of eight.

        Raises:
            OptionError: something else.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise OptionError(f"a part is its number, from 1 on, and how many there are, for example 2/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def mine(self, cells: Sequence[T]) -> list[T]:
        """Every ``total``-th cell: which, is the same in every job that has the same list."""
        return list(cells[self.number - 1 :: self.total])

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"
