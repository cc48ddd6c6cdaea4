"""ATS: sample tokens by their significance; similar scores cost fewer tokens."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "ats",
        "tokenreduce_methods.ats.method:ATS",
        "sample tokens by class attention times value norm; each sample keeps as many as were hit",
        source="Fayyaz et al., Adaptive Token Sampling for Efficient Vision Transformers, ECCV 2022, arXiv 2111.15667",
        needs=("class_attention", "value_norms"),
        layers=(3, 6, 9),
    )
