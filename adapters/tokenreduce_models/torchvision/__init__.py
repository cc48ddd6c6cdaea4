"""torchvision's vision transformers."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import AdapterSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "torchvision-vit",
        "tokenreduce_models.torchvision.vit:TorchvisionViT",
        "vision transformers of torchvision",
        library="torchvision",
        models="VisionTransformer of torchvision (vit_b_16 and the like); Swin and MaxViT are refused with the reason",
    )
