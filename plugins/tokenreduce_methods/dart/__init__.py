"""DART: keep a few pivots and the tokens least like them."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "dart",
        "tokenreduce_methods.dart.method:DART",
        "after a few layers, keep the image tokens least like a few pivots of image and text",
        source="Wen et al., Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More, "
        "EMNLP 2025, arXiv 2502.11494",
        needs=(
            "normed_states",
            "rotated_keys",
            "text_columns",
            "text_keys",
            "text_states",
        ),
    )
