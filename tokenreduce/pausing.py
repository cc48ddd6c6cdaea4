"""Passes without reduction on a model that stays attached."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bound import Bound

_COUNTING = threading.Lock()


@contextmanager
def paused(bounds: list[Bound]) -> Iterator[None]:
    """Passes that begin inside reduce nothing, on all these stacks."""
    _count(bounds, 1)
    try:
        yield
    finally:
        _count(bounds, -1)


def _count(bounds: list[Bound], change: int) -> None:
    with _COUNTING:  # adding is not one step for other threads
        for bound in bounds:
            bound.pauses += change
