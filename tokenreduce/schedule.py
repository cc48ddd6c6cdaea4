"""How many tokens go at each site: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import OptionError


def constant_or_ramp(r: Any, sites: int) -> list[int]:
    """Tokens to remove at each site: an int, ``(r, inflection)`` or a list (ToMe's three forms).

    ``(r, inflection)`` with inflection in -1..1 ramps linearly from ``r * (1 - inflection)`` to
    ``r * (1 + inflection)``: 0 is constant, -1 falls to zero, +1 rises from zero. A list gives the acting
    sites in order and is filled with zeros. ``{"r": r, "inflection": i}`` is the pair in JSON.

    Raises:
        OptionError: negative or fractional counts, an inflection outside -1..1, a list that is too long.
    """
    if isinstance(r, Mapping):
        if set(r) != {"r", "inflection"}:
            raise OptionError(f"r as a mapping has exactly 'r' and 'inflection', got {sorted(r)}")
        r = (r["r"], r["inflection"])
    if isinstance(r, int) and not isinstance(r, bool):
        r = (r, 0.0)
    if isinstance(r, tuple):
        if len(r) != 2 or not _is_count(r[0]) or not _is_number(r[1]) or not -1 <= r[1] <= 1:
            raise OptionError(f"r as a pair is (count >= 0, inflection in -1..1), got {r!r}")
        low = int(r[0] * (1.0 - r[1]))
        step = (2 * r[0] - low - low) / (sites - 1) if sites > 1 else 0.0
        return [int(low + step * i) for i in range(sites)]
    if isinstance(r, list):
        if not all(_is_count(v) for v in r):
            raise OptionError(f"r as a list has whole numbers of 0 and more, got {r!r}")
        if len(r) > sites:
            raise OptionError(f"r has {len(r)} entries for {sites} sites; give at most {sites}")
        return list(r) + [0] * (sites - len(r))
    raise OptionError(f"r is a count, a pair (count, inflection) or a list of counts, got {r!r}")


def spread_counts(total: float, weights: Sequence[float]) -> list[int]:
    """``total`` shared out by weight as whole numbers, rounding carried on: they sum to ``int(total)``.

    All zero where the weights are.
    """
    whole, before, counts = sum(weights), 0, []
    so_far = 0.0
    for weight in weights:
        so_far += total * weight / whole if whole else 0.0
        counts.append(int(so_far + 1e-9) - before)
        before += counts[-1]
    return counts


def check_ratio(name: str, value: Any, *, low: float = 0.0, high: float = 1.0, open_low: bool = False) -> float:
    """``value`` if it is a number in [low, high], or (low, high] with ``open_low``.

    Raises:
        OptionError: it is not.
    """
    if not _is_number(value) or not math.isfinite(value) or not (low < value if open_low else low <= value):
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


def per_site(value: Any, sites: int, name: str, fill: Any) -> list[Any]:
    """A scalar for every site, or a list of one value per acting site, filled up.

    Raises:
        OptionError: the list is longer than the sites.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) > sites:
            raise OptionError(f"{name} has {len(value)} entries for {sites} sites; give at most {sites}")
        return list(value) + [fill] * (sites - len(value))
    return [value] * sites


def warmup(step: float, start: float, length: float, shape: str = "cosine") -> float:
    """How much of the configured removal is in force at a step of training: 0 until ``start``, then rising to 1.

    Source: the shape ``"cosine"`` is the keep-rate schedule of Liang et al., EViT, ICLR 2022, arXiv 2202.07800: a
    method with the option ``keep`` keeps ``1 - (1 - keep) * factor``.

    Args:
        step: steps, or epochs, so far.
        start: when it begins.
        length: how long it rises; 0 for all at once.
        shape: ``"cosine"`` (slow at both ends) or ``"linear"``.

    Raises:
        OptionError: a negative or infinite number, or another shape.
    """
    for name, value in (("step", step), ("start", start), ("length", length)):
        if not _is_number(value) or not math.isfinite(value) or value < 0:
            raise OptionError(f"{name} must be a number of 0 and more, got {value!r}")
    if shape not in ("cosine", "linear"):
        raise OptionError(f"shape must be 'cosine' or 'linear', got {shape!r}")
    if step >= start + length:
        return 1.0
    if step <= start:
        return 0.0
    done = (step - start) / length
    return done if shape == "linear" else (1 - math.cos(math.pi * done)) / 2


def spaced(positions: Sequence[int], depth: int, *, base: int = 12, last: bool = False) -> list[int]:
    """Layers published for ``base`` blocks, carried over to ``depth`` blocks; ``last`` counts them from 1."""
    if last:
        layers = {max((p + 1) * depth // base - 1, 0) for p in positions}
    else:
        layers = {p * depth // base for p in positions}
    return sorted(layers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
