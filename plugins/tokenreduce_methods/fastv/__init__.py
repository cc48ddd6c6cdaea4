"""FastV: after a few layers, keep the image tokens that the prompt's last token attends to."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "fastv",
        "tokenreduce_methods.fastv.method:FastV",
        "after a few layers, keep the image tokens that the prompt's last token attends to",
        source="Chen et al., An Image is Worth 1/2 Tokens After Layer 2, ECCV 2024, arXiv 2403.06764",
        needs=("readout_attention",),
        layers=(0,),
    )
