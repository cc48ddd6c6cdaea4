"""E-AdaPrune: a number of tokens for each image, from the spectrum of its features."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "e-adaprune",
        "tokenreduce_methods.e_adaprune.method:EAdaPrune",
        "give each image as many tokens as its features have directions of energy; another method says which",
        source="E-AdaPrune, arXiv 2603.05950",
        needs=("received_logits", "paid_logits", "encoder_features"),
    )
