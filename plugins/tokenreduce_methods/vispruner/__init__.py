"""VisPruner: what the class token attends to, and what differs among the rest."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "vispruner",
        "tokenreduce_methods.vispruner.method:VisPruner",
        "keep the tokens that the class token attends to, and among the others those that are no duplicates",
        source="Zhang et al., Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in "
        "VLMs, ICCV 2025, arXiv 2412.01818",
        needs=("class_attention",),
    )
