"""PyramidDrop: drop image tokens in stages, by what the next layer would attend to."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "pyramiddrop",
        "tokenreduce_methods.pyramiddrop.method:PyramidDrop",
        "in a few stages, keep the image tokens that the prompt's last token would attend to in the next layer",
        source="Xing et al., PyramidDrop, CVPR 2025, arXiv 2410.17247",
        needs=("next_readout_attention",),
        layers=(2, 5, 8),
    )
