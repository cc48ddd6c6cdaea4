"""SVD-Prune: keep the tokens with the highest leverage in the leading singular directions."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "svd-prune",
        "tokenreduce_methods.svd_prune.method:SVDPrune",
        "keep the tokens with the highest leverage scores in the leading singular directions of an image's tokens",
        source="SVD-Prune, arXiv 2604.11530",
        needs=("encoder_features",),
        layers=(10,),
    )
