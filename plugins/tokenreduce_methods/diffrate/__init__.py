"""DiffRate: prune, then merge, by rates of its own for each layer."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "diffrate",
        "tokenreduce_methods.diffrate.method:DiffRate",
        "prune what the class token attends to least and merge what comes next, by given rates per layer",
        source="Chen et al., DiffRate: Differentiable Compression Rate for Efficient Vision Transformers, ICCV 2023, "
        "arXiv 2305.17997",
        needs=("class_attention",),
        layers=tuple(range(12)),
    )
