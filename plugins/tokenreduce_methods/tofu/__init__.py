"""ToFu: token fusion."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "tofu",
        "tokenreduce_methods.tofu.method:ToFu",
        "prune one of each similar pair in early layers, merge it in later ones with its norm preserved",
        source="Kim et al., Token Fusion: Bridging the Gap between Token Pruning and Token Merging, WACV 2024, "
        "arXiv 2312.01026",
        needs=("keys",),
        layers=tuple(range(12)),
    )
