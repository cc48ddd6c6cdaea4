"""Checks of option values."""

from __future__ import annotations

import math
from typing import Any

from ..errors import OptionError


def check_ratio(name: str, value: Any, *, low: float = 0.0, high: float = 1.0, open_low: bool = False) -> float:
    """``value`` if it is a number in [low, high], or (low, high] with ``open_low``.

    Raises:
        OptionError: it is not.
    """
    if not is_number(value) or not math.isfinite(value) or not (low < value if open_low else low <= value):
        valid = False
    else:
        valid = value <= high
    if not valid:
        edge = "(" if open_low else "["
        raise OptionError(f"{name} must be a number in {edge}{low:g}, {high:g}], got {value!r}")
    return float(value)


def check_seed(value: Any) -> int:
    """``value`` if it is a whole number.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise OptionError(f"seed must be a whole number, got {value!r}")
    return value


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a non-negative int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
