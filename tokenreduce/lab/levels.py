"""Levels at which rows are compared: shares of tokens to be gone, or of multiply-adds to remain."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import OptionError

MOST = 1000  # levels of one ablation


def check_levels(ratios: Sequence[float], match_macs: Sequence[float]) -> None:
    """Raise OptionError for levels that cannot be."""
    if ratios and match_macs:
        raise OptionError("rows are levelled by ratios or by match_macs, not by both")
    for name, levels in (("ratios", ratios), ("match_macs", match_macs)):
        for value in levels:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
                raise OptionError(f"{name} are shares between 0 and 1, both left out, for example 0.5; got {value!r}")
        if len({f"{100 * value:g}" for value in levels}) < len(levels):  # to as many digits as rows are called by
            raise OptionError(f"{name} holds a level twice: {', '.join(map(str, levels))}")


def parse_ratios(text: str) -> list[float]:
    """``"0.1:0.6:0.1"`` (first, last, step; the last one is in) or ``"0.2,0.4"`` to numbers.

    Raises:
        OptionError: neither form, or more than :data:`MOST` levels.
    """
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",") if part.strip()]
        first, last, step = (float(part) for part in text.split(":"))
        if not step > 0 or last < first or not all(map(math.isfinite, (first, last, step))):
            raise ValueError
        if (last - first) / step > MOST:
            raise OptionError(f"{text!r} asks for more than {MOST} levels; take a larger step")
        return [round(first + i * step, 10) for i in range(int((last - first) / step + 1e-9) + 1)]
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f"levels are FIRST:LAST:STEP (0.1:0.6:0.1) or numbers with commas (0.2,0.4), got {text!r}"
        ) from None
