"""timm's plain vision transformers."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce import AdapterSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "timm-vit",
        "tokenreduce_timm.vit:TimmViT",
        "vision transformers of timm",
        library="timm",
        models="timm models built on VisionTransformer with Block or ResPostBlock",
    )
