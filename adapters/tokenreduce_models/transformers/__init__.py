"""Models of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokenreduce.registry import AdapterSpec, LoaderSpec, hookimpl

if TYPE_CHECKING:
    from .trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]


def __getattr__(name: str) -> Any:
    if name == "DistillationTrainer":  # needs accelerate
        from .trainer import DistillationTrainer

        return DistillationTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "hf-vilt",
        "tokenreduce_models.transformers.vilt:Vilt",
        "ViLT of transformers",
        library="transformers",
        models="ViltModel and every ViltFor... of transformers",
    )
    yield AdapterSpec(
        "hf-clip",
        "tokenreduce_models.transformers.clip:Clip",
        "CLIP's vision tower in transformers",
        library="transformers",
        models="CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection, CLIPForImageClassification of transformers",
    )
    yield AdapterSpec(
        "hf-siglip",
        "tokenreduce_models.transformers.siglip:Siglip",
        "SigLIP's vision tower in transformers",
        library="transformers",
        models="SiglipModel, SiglipVisionModel, SiglipForImageClassification of transformers",
    )
    yield AdapterSpec(
        "hf-siglip2",
        "tokenreduce_models.transformers.siglip2:Siglip2",
        "SigLIP 2's vision tower for pictures of any shape (NaFlex) in transformers",
        library="transformers",
        models="Siglip2Model, Siglip2VisionModel, Siglip2ForImageClassification of transformers",
    )
    yield AdapterSpec(
        "hf-vit",
        "tokenreduce_models.transformers.vit:ViT",
        "ViT and DeiT of transformers",
        library="transformers",
        models="ViTModel, DeiTModel and their ...For... models of transformers; Swin, Hiera and others that need a "
        "full grid of tokens are refused with the reason",
    )
    yield AdapterSpec(
        "hf-dinov2",
        "tokenreduce_models.transformers.dinov2:Dinov2",
        "DINOv2 of transformers, with and without registers",
        library="transformers",
        models="Dinov2Model, Dinov2WithRegistersModel and their ...ForImageClassification of transformers",
    )
    yield AdapterSpec(
        "hf-dinov3",
        "tokenreduce_models.transformers.dinov3:Dinov3",
        "DINOv3's ViT of transformers",
        library="transformers",
        models="DINOv3ViTModel of transformers",
    )
    yield AdapterSpec(
        "hf-vitmae",
        "tokenreduce_models.transformers.vit_mae:ViTMAE",
        "ViTMAE's encoder in transformers",
        library="transformers",
        models="ViTMAEModel, ViTMAEForPreTraining of transformers",
    )
    yield AdapterSpec(
        "hf-videomae",
        "tokenreduce_models.transformers.videomae:VideoMAE",
        "VideoMAE's encoder in transformers",
        library="transformers",
        models="VideoMAEModel and every VideoMAEFor... of transformers",
    )
    yield AdapterSpec(
        "hf-blip",
        "tokenreduce_models.transformers.blip:Blip",
        "BLIP's vision tower and text encoder in transformers",
        library="transformers",
        models="BlipVisionModel, BlipModel and every BlipFor... of transformers",
    )
    yield AdapterSpec(
        "hf-bridgetower",
        "tokenreduce_models.transformers.bridgetower:BridgeTower",
        "BridgeTower of transformers",
        library="transformers",
        models="BridgeTowerModel and its heads for retrieval and masked language modelling",
    )
    yield AdapterSpec(
        "hf-lvlm",
        "tokenreduce_models.transformers.language.adapter:LargeVisionLanguage",
        "large vision-language models of transformers, at the hand-over, between layers, in the tower",
        library="transformers",
        models="LLaVA, LLaVA-NeXT, LLaVA-OneVision, VipLLaVA, PaliGemma, Gemma3, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, "
        "InternVL, Idefics3, SmolVLM, Mistral3, Molmo2: ...ForConditionalGeneration and ...Model of transformers",
    )


@hookimpl
def tokenreduce_loaders() -> Iterator[LoaderSpec]:
    yield LoaderSpec(
        "transformers",
        "tokenreduce_models.transformers.loaders.loader:Transformers",
        "checkpoints of transformers",
        library="transformers",
        models="OWNER/NAME of the hub, or a folder of save_pretrained: ViltForQuestionAnswering, "
        "ViltForImagesAndTextClassification, ViltForImageAndTextRetrieval, BlipForImageTextRetrieval, "
        "BridgeTowerForImageAndTextRetrieval, CLIPModel, SiglipModel, "
        "every ...ForImageClassification; ...ForConditionalGeneration of LLaVA, LLaVA-NeXT, LLaVA-OneVision, "
        "VipLLaVA, PaliGemma, Gemma3, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, Idefics3, SmolVLM, Mistral3, Molmo2",
    )
