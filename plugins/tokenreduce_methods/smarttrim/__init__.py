"""SmartTrim: each layer's learned trimmers say which tokens of either modality, and which heads, a sample needs."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "smarttrim",
        "tokenreduce_methods.smarttrim.method:SmartTrim",
        "trim text and image tokens, as many as a sample needs, by trimmers learned with the model",
        source="Wang et al., SmartTrim: Adaptive Tokens and Attention Pruning for Efficient Vision-Language Models, "
        "LREC-COLING 2024, arXiv 2305.15033",
        learns=True,
    )
