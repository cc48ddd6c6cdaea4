"""EViT: keep the attentive tokens, fuse the rest."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "evit",
        "tokenreduce_methods.evit.method:EViT",
        "keep the tokens that the class token attends to, fuse the others into one",
        source="Liang et al., Not All Patches Are What You Need, ICLR 2022, arXiv 2202.07800",
        needs=("class_attention",),
    )
