"""Uniform: every k-th token, a control."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "uniform",
        "tokenreduce_methods.uniform.method:Uniform",
        "keep tokens at equal distances, whatever they hold: a control",
        role="control",
        stacks=("handover",),
        layers=(3, 6, 9),
    )
