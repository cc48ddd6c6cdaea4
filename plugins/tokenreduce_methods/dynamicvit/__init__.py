"""DynamicViT: small predictors, learned with the model, say which tokens go."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "dynamicvit",
        "tokenreduce_methods.dynamicvit.method:DynamicViT",
        "drop the tokens that predictors, learned with the model, score lowest",
        source="Rao et al., DynamicViT, NeurIPS 2021, arXiv 2106.02034",
        learns=True,
        layers=(3, 6, 9),
    )
