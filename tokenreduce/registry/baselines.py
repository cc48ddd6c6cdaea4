"""Baselines: no reduction, and random drop."""

from __future__ import annotations

from collections.abc import Iterator

from . import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "none",
        "tokenreduce.methods.baselines:NoReduction",
        "every token stays: the baseline",
        role="baseline",
        layers=tuple(range(12)),
    )
    yield ReducerSpec(
        "random",
        "tokenreduce.methods.baselines:RandomDrop",
        "drop tokens at random: the control that a method has to beat",
        role="control",
        layers=(3, 6, 9),
    )
