"""Pooling: averages over cells of the image's grid, a control."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "pooling",
        "tokenreduce_methods.pooling.method:Pooling",
        "average tokens over cells of the image's grid: a control",
        role="control",
        stacks=("handover",),
        layers=(3, 6, 9),
    )
