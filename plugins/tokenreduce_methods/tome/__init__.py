"""ToMe: token merging."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "tome",
        "tokenreduce_methods.tome.method:ToMe",
        "merge the r most similar pairs of tokens in every block",
        source="Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, arXiv 2210.09461",
        needs=("keys",),
    )
