"""Schedules over sites and layers: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LayerError, OptionError
from .option_checks import is_count, is_number


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
        if len(r) != 2 or not is_count(r[0]) or not is_number(r[1]) or not -1 <= r[1] <= 1:
            raise OptionError(f"r as a pair is (count >= 0, inflection in -1..1), got {r!r}")
        low = int(r[0] * (1.0 - r[1]))
        step = (2 * r[0] - low - low) / (sites - 1) if sites > 1 else 0.0
        return [int(low + step * i) for i in range(sites)]
    if isinstance(r, list):
        if not all(is_count(v) for v in r):
            raise OptionError(f"r as a list has non-negative integers, got {r!r}")
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


def layers_after(done: Sequence[int], depth: int, *, base: int = 32) -> list[int]:
    """Layers after which that many of ``base`` layers have run, carried over to ``depth`` layers.

    Rounded to whole layers, one after the other, and none the last of the stack: ``layers_after([8, 16, 24], 28)`` is
    ``[6, 13, 20]``. On a shallow stack there may be fewer than asked for; there is always one.
    """
    layers: list[int] = []
    for number in done:
        layer = max(round(number * depth / base) - 1, layers[-1] + 1 if layers else 0)
        if layer < depth - 1:
            layers.append(layer)
    return layers or [0]


def spaced_layers(positions: Sequence[int], depth: int, *, base: int = 12, last: bool = False) -> list[int]:
    """Layers published for ``base`` blocks, carried over to ``depth`` blocks; ``last`` counts them from 1."""
    if last:
        layers = {max((p + 1) * depth // base - 1, 0) for p in positions}
    else:
        layers = {p * depth // base for p in positions}
    return sorted(layers)


def check_layers(layers: Any, depth: int, stack: str) -> list[int]:
    """Sorted distinct layers.

    Raises:
        LayerError: one lies outside the stack. OptionError: no layers, or not whole numbers.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise OptionError(f"layers is a list of block numbers 0..{depth - 1}, got {layers!r}")
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise OptionError(f"layers is a list of block numbers 0..{depth - 1}, got {layer!r} in it")
        if not 0 <= layer < depth:
            raise LayerError(f"layer {layer} is outside stack {stack!r}; its blocks are 0..{depth - 1}")
    if not layers:
        raise OptionError(f"layers is empty, so nothing would be reduced; name some of 0..{depth - 1}")
    return sorted(set(layers))
