"""Finds the strength at which a method costs, or keeps, what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UnfitReducerError
from ..handle import Attachment
from ..measure.macs import call, count_macs
from .task import Inputs

STEPS, TOLERANCE = 16, 0.002


def solve(measure: Callable[[float], float], target: float, what: str) -> float:
    """The strength in [0, 1] at which ``measure`` comes closest to ``target``, by bisection.

    Args:
        measure: falls as strength rises, in steps.
        target: the value wanted.
        what: its name, for the message.

    Raises:
        UnfitReducerError: even the greatest strength leaves more than that, or strength changes nothing.
    """
    seen = {strength: measure(strength) for strength in (0.0, 1.0)}
    if seen[0.0] <= seen[1.0]:
        raise UnfitReducerError(
            f"its strength changes no {what} here ({seen[0.0]:.3f} at any); see Reducer.at_strength"
        )
    if seen[1.0] > target + 0.02:
        raise UnfitReducerError(
            f"cannot come down to {what} of {target:.3f}: {seen[1.0]:.3f} is the least it leaves with these layers"
        )
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        seen[middle] = measure(middle)
        if abs(seen[middle] - target) <= TOLERANCE:
            break
        low, high = (middle, high) if seen[middle] > target else (low, middle)
    return min(seen, key=lambda strength: abs(seen[strength] - target))


def solved_options(
    model: nn.Module,
    put: Callable[[Mapping[str, Any]], Attachment],
    inputs: Inputs,
    options: Mapping[str, Any],
    samples: int = 1,
    *,
    ratio: float | None,
    share: float | None,
    dense: int,
) -> dict[str, Any]:
    """Options for ``attach`` with which a reducer reaches a level.

    Args:
        model: without an attachment.
        put: attaches options to the model.
        inputs: of so many ``samples``.
        options: what to attach, ``"reducer"`` and ``"layers"`` among them.
        ratio: share of image tokens to be gone at the end, or
        share: share of the multiply-adds ``dense`` to remain.
        dense: multiply-adds of the baseline per sample.

    Raises:
        UnfitReducerError: it cannot reach the level.
    """
    with put(options) as handle, torch.no_grad():
        call(model, inputs)
        scaled = _scaler(handle, options)

    def measure(strength: float) -> float:
        with put(scaled(strength)) as handle, torch.no_grad():
            if share is not None:
                return count_macs(model, inputs, samples=samples) / dense
            call(model, inputs)
            return tokens_left(handle)

    if share is not None:
        return scaled(solve(measure, share, "share of the multiply-adds"))
    assert ratio is not None
    return scaled(solve(measure, 1 - ratio, "share of the tokens"))


def tokens_left(handle: Attachment) -> float:
    """Share of the tokens of the main stream that the last forward pass left: at the end of the first stack named.

    Where several stacks are reduced one after the other, it is of the most that any of them began with.
    """
    records = [bound.last for bound in handle.bounds if bound.last is not None]
    stream = "image" if "image" in records[0].first else next(iter(records[0].first))
    return records[0].last[stream] / max(record.first.get(stream, 0) for record in records)


def _scaler(handle: Attachment, options: Mapping[str, Any]) -> Callable[[float], dict[str, Any]]:
    """Strength to options for ``attach``: each stack's reducer scaled alike."""
    plan = handle.config["reducer"]
    several = isinstance(plan, dict)
    parts = []
    for bound, name in zip(handle.bounds, plan if several else [None], strict=True):
        assert bound.last is not None
        first = bound.last.first
        tokens = first["image"] if "image" in first else next(iter(first.values()))
        parts.append((name, bound.reducer, tokens, len(bound.sites)))

    def scaled(strength: float) -> dict[str, Any]:
        if not several:
            _, reducer, tokens, sites = parts[0]
            return {**options, **reducer.at_strength(strength, tokens, sites)}
        made = {name: {**plan[name], **r.at_strength(strength, tokens, sites)} for name, r, tokens, sites in parts}
        return {**options, "reducer": made}

    return scaled
