"""FoPru: keep the patches, or rows of patches, that the encoder's attention focuses on."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "fopru",
        "tokenreduce_methods.fopru.method:FoPru",
        "keep the patches that the encoder's patches attend to most, one by one or by whole rows of the grid",
        source="FoPru: Focal Pruning for Efficient Large Vision-Language Models, arXiv 2411.14164",
        needs=("received_logits", "paid_logits"),
        layers=(10,),
    )
