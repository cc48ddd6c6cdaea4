"""SparseVLM: keep the image tokens that the telling words attend to, recycle some of the others."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "sparsevlm",
        "tokenreduce_methods.sparsevlm.method:SparseVLM",
        "in a few stages, keep the image tokens that telling words of the prompt attend to, merge some of the others",
        source="Zhang et al., SparseVLM, ICML 2025, arXiv 2410.04417",
        needs=(
            "image_embeddings",
            "text_columns",
            "text_embeddings",
            "text_rows",
        ),
        layers=(0, 2, 5),
    )
