"""EViT: keep the attentive tokens, fuse the rest."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, ReproductionSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "evit",
        "tokenreduce_methods.evit.method:EViT",
        "keep the tokens that the class token attends to, fuse the others into one",
        source="Liang et al., Not All Patches Are What You Need, ICLR 2022, arXiv 2202.07800",
        needs=("class_attention",),
        layers=(3, 6, 9),
    )


@hookimpl
def tokenreduce_reproductions() -> Iterator[ReproductionSpec]:
    for keep in ("0.9", "0.8", "0.7", "0.6", "0.5"):
        yield ReproductionSpec(
            f"evit-deit-s-{keep}",
            f"tokenreduce_methods.evit.published:keep_{keep.replace('.', '_')}",
            f"EViT on DeiT-S trained with keep rate {keep}, ImageNet-1k",
            source="Liang et al., ICLR 2022, arXiv 2202.07800, tables of the published models",
        )
