"""Vision towers of open_clip."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce import AdapterSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "open-clip",
        "tokenreduce_open_clip.adapter:OpenClip",
        "vision towers of open_clip",
        library="open_clip",
        models="CLIP, CustomTextCLIP and CoCa of open_clip with a VisionTransformer, its own or timm's",
    )
