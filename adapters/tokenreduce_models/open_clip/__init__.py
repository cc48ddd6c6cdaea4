"""Vision towers of open_clip."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import AdapterSpec, LoaderSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "open-clip",
        "tokenreduce_models.open_clip.adapter:OpenClip",
        "vision towers of open_clip",
        library="open_clip",
        install="open_clip_torch",
        models="CLIP, CustomTextCLIP and CoCa of open_clip with a VisionTransformer, its own or timm's",
    )


@hookimpl
def tokenreduce_loaders() -> Iterator[LoaderSpec]:
    yield LoaderSpec(
        "open_clip",
        "tokenreduce_models.open_clip.loader:OpenClip",
        "dual encoders of open_clip, zero-shot",
        library="open_clip",
        install="open_clip_torch",
        models="open_clip:ARCHITECTURE/TAG-OR-FILE, hf-hub:OWNER/NAME, local-dir:FOLDER with open_clip_config.json",
    )
