"""Finds the options with which a method costs, or keeps, what was asked for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .._torch import Inputs, call, evaluating
from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach
from ..backbones.dispatch import device_of
from ..errors import UnfitReducerError
from ..tasks.data import on_device
from ..tasks.task import Task
from .macs import count_macs, sample_macs

STEPS, TOLERANCE, MOST = 16, 0.002, 1e4


def solve(measure: Callable[[float], float], target: float, what: str) -> float:
    """The factor at which ``measure`` comes closest to ``target``, by bisection.

    Args:
        measure: falls, in steps, as the factor rises from 0.
        target: the value wanted.
        what: its name, for the message.

    Raises:
        UnfitReducerError: even the greatest factor leaves more than that, or the factor changes nothing.
    """
    seen = {factor: measure(factor) for factor in (0.0, MOST)}
    if seen[0.0] <= seen[MOST]:
        raise UnfitReducerError(f"removing more changes no {what} here ({seen[0.0]:.3f} always); see Reducer.scaled")
    if seen[MOST] > target + 0.02:
        raise UnfitReducerError(
            f"cannot come down to {what} of {target:.3f}: {seen[MOST]:.3f} is the least it leaves with these layers"
        )
    low, high = 0.0, 1.0  # factor / (1 + factor)
    for _ in range(STEPS):
        middle = (low + high) / 2
        factor = middle / (1 - middle)
        seen[factor] = measure(factor)
        if abs(seen[factor] - target) <= TOLERANCE:
            break
        low, high = (middle, high) if seen[factor] > target else (low, middle)
    return min(seen, key=lambda factor: abs(seen[factor] - target))


def solve_options(
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

    def measure(factor: float) -> float:
        with put(scaled(factor)) as handle, torch.no_grad():
            if share is not None:
                return statistics.fmean(sample_macs(handle, inputs, samples)) / dense
            call(model, inputs)
            return tokens_left(handle)

    if share is not None:
        return scaled(solve(measure, share, "share of the multiply-adds"))
    assert ratio is not None
    return scaled(solve(measure, 1 - ratio, "share of the tokens"))


def tokens_left(handle: Attachment) -> float:
    """Share of the tokens of the main stream that the last forward pass left: at the end of the first stack named.

    The mean over the samples where they keep different numbers.

    Where several stacks are reduced one after the other, it is of the most that any of them began with.
    """
    records = [one.last for one in handle.stacks.values() if one.last is not None]
    first, stream = records[0], next(iter(handle.stacks.values())).stack.main_stream
    gone = sum(first.initial.values()) - sum(first.tokens.values())  # of streams that were merged together, all count
    left = first.tokens[stream] if stream in first.tokens else first.initial[stream] - gone
    return left / max(record.initial.get(stream, 0) for record in records)


def _scaler(handle: Attachment, options: Mapping[str, Any]) -> Callable[[float], dict[str, Any]]:
    """Factor to options for ``attach``: each stack's reducer scaled alike."""
    plan = handle.config["reducer"]
    active = [(one.reducer.reducer, len(one.sites)) for one in handle.stacks.values()]
    if not isinstance(plan, dict):
        return lambda factor: {**options, **active[0][0].scaled(factor, active[0][1]).options()}

    def several(factor: float) -> dict[str, Any]:
        parts = zip(plan.items(), active, strict=True)
        scaled = {name: {**part, **reducer.scaled(factor, sites).options()} for (name, part), (reducer, sites) in parts}
        return {**options, "reducer": scaled}

    return several


def options_for_share(task: Task, arguments: Mapping[str, Any], share: float, samples: int = 8) -> dict[str, Any]:
    """Arguments for ``attach`` with which the reducer leaves about this share of the model's multiply-adds.

    Args:
        task: whose model, and first samples, it is measured on.
        arguments: of ``attach``, ``"reducer"`` among them.
        share: between 0 and 1.

    Raises:
        UnfitReducerError: it cannot come down to that.
    """
    model = task.model
    batch = on_device(task.data(samples, samples)[0], device_of(model))

    def put(given: Mapping[str, Any]) -> Attachment:
        return attach(model, **given)

    with evaluating(model):
        with put(arguments) as handle, handle.paused():
            dense = count_macs(model, batch.inputs, samples=samples)
        return solve_options(model, put, batch.inputs, arguments, samples, ratio=None, share=share, dense=dense)
