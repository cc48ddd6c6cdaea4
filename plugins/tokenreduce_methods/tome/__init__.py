"""ToMe: token merging."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, ReproductionSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "tome",
        "tokenreduce_methods.tome.method:ToMe",
        "merge the r most similar pairs of tokens in every block",
        source="Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, arXiv 2210.09461",
        needs=("keys",),
        layers=tuple(range(12)),
    )


@hookimpl
def tokenreduce_reproductions() -> Iterator[ReproductionSpec]:
    for name, model in (
        ("vit-s16", "ViT-S/16 (AugReg)"),
        ("vit-b16", "ViT-B/16 (AugReg)"),
        ("vit-l16", "ViT-L/16 (AugReg)"),
        ("vit-l16-384", "ViT-L/16 at 384 px (AugReg)"),
        ("swag-b16-384", "ViT-B/16 at 384 px (SWAG)"),
        ("swag-l16-512", "ViT-L/16 at 512 px (SWAG)"),
        ("swag-h14-518", "ViT-H/14 at 518 px (SWAG)"),
    ):
        yield ReproductionSpec(
            f"tome-{name}",
            f"tokenreduce_methods.tome.published:{name.replace('-', '_')}",
            f"ToMe without training on {model}, ImageNet-1k",
            source="Bolya et al., ICLR 2023, arXiv 2210.09461, tables of the published models",
        )
