"""PiToMe: protect informative tokens, merge the others."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "pitome",
        "tokenreduce_methods.pitome.method:PiToMe",
        "protect tokens that few others resemble, merge those in large clusters",
        source="Tran et al., Accelerating Transformers with Spectrum-Preserving Token Merging, NeurIPS 2024, "
        "arXiv 2405.16148",
        needs=("keys",),
        layers=tuple(range(12)),
    )
