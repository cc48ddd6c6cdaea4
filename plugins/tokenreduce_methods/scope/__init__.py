"""SCOPE: tokens that cover the others, weighed by attention."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "scope",
        "tokenreduce_methods.scope.method:SCOPE",
        "keep the tokens that best cover the others, weighed by what the class token attends to",
        source="SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, NeurIPS 2025, as in "
        "Tencent/AngelSlim",
        needs=("class_attention",),
    )
