"""DivPrune: keep the tokens that are farthest from one another."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "divprune",
        "tokenreduce_methods.divprune.method:DivPrune",
        "keep the subset of tokens whose smallest distance to each other is largest, chosen greedily",
        source="Alvar et al., DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, CVPR 2025, "
        "arXiv 2503.02175",
    )
