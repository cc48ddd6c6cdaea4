"""timm's plain vision transformers."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import AdapterSpec, LoaderSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "timm-vit",
        "tokenreduce_models.timm.vit:TimmViT",
        "vision transformers of timm",
        library="timm",
        models="timm models built on VisionTransformer with Block or ResPostBlock; Swin, Hiera, MaxViT and others that "
        "need a full grid of tokens are refused with the reason",
    )
    yield AdapterSpec(
        "timm-eva",
        "tokenreduce_models.timm.eva:TimmEva",
        "EVA, Perception Encoder, DINOv3 and other ViTs with rotary positions of timm",
        library="timm",
        models="timm models built on Eva",
    )


@hookimpl
def tokenreduce_loaders() -> Iterator[LoaderSpec]:
    yield LoaderSpec(
        "timm",
        "tokenreduce_models.timm.loader:Timm",
        "classifiers of timm",
        library="timm",
        models="timm:NAME, timm/NAME of the hub, local-dir:FOLDER with timm's config.json",
    )
