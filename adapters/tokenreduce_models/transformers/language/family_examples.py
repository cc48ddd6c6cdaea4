"""Small language models with images and random weights: one of every family that :mod:`.examples` has none of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from tokenreduce.backbones import Example

from ..tiny import pixels, tiny
from .small import IMAGE, TEXT, TOWER, prompts

SIGLIP = {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
CELLS: dict[str, Any] = {"num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 3}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
TILES = [[40, 80], [80, 40]]
"""LLaVA-NeXT and OneVision: the whole picture (25 tokens), and two tiles beside each other (5 rows of 10 and one)."""


def made(name: str, config: Any, tokens: int, **inputs: Any) -> Example:
    """A model for conditional generation, and prompts with an image of so many tokens."""
    model = tiny(getattr(transformers, f"{name}ForConditionalGeneration"), config)
    return Example(model, {"input_ids": prompts(tokens), **inputs})


def llava_next() -> Example:
    """LLaVA-NeXT: tiles, and a separator behind each row of them."""
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER, projection_dim=16),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        image_grid_pinpoints=TILES,
        image_seq_length=25,
    )
    return made("LlavaNext", config, 80, **tiled())


def llava_onevision() -> Example:
    """LLaVA-OneVision: the same with a SigLIP tower and a Qwen2."""
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        video_token_id=91,
        image_grid_pinpoints=TILES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return made("LlavaOnevision", config, 80, **tiled())


def tiled() -> dict[str, Any]:
    """Two pictures of 40 x 80 pixels."""
    return {"pixel_values": torch.stack([pixels(3), pixels(3, seed=2)]), "image_sizes": torch.tensor([[40, 80]] * 2)}


def vipllava() -> Example:
    """VipLLaVA: several layers of the tower are read."""
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER, projection_dim=16),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        image_seq_length=25,
        vision_feature_layers=[-1, -2, 1],
    )
    return made("VipLlava", config, 25, pixel_values=pixels())


def paligemma() -> Example:
    """PaliGemma: the prompt attends in both directions."""
    config = transformers.PaliGemmaConfig(
        vision_config={**SIGLIP, "projection_dim": 32},
        text_config={"model_type": "gemma", **TEXT, "head_dim": 8},
        image_token_id=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    return made("PaliGemma", config, 25, pixel_values=pixels(), token_type_ids=torch.zeros_like(prompts(25)))


def qwen(name: str, vision: dict[str, Any], text: dict[str, Any]) -> Example:
    """A Qwen: patches of all pictures in one sequence, 2 x 2 of them a token."""
    config = getattr(transformers, f"{name}Config")(
        vision_config={**CELLS, "hidden_size": 32, **vision},
        text_config={**TEXT, **text},
        image_token_id=IMAGE,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    patches = torch.randn(2 * 96, 96, generator=torch.Generator().manual_seed(1))
    grids = torch.tensor([[1, 8, 12]] * 2)
    types = (prompts(24) == IMAGE).int()
    return made(name, config, 24, pixel_values=patches, image_grid_thw=grids, mm_token_type_ids=types)


def qwen2_vl() -> Example:
    """Qwen2-VL."""
    return qwen("Qwen2VL", {"embed_dim": 32, "mlp_ratio": 2}, {"rope_parameters": ROPE})


def qwen3_vl() -> Example:
    """Qwen3-VL: features of two of the tower's layers are added between those of the language model."""
    vision = {"intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 144}
    rope = {**ROPE, "mrope_interleaved": True}
    return qwen("Qwen3VL", {**vision, "deepstack_visual_indexes": [0, 1]}, {"head_dim": 8, "rope_parameters": rope})


def internvl() -> Example:
    """InternVL: tiles of all pictures in one sequence, 2 x 2 patches a token."""
    config = transformers.InternVLConfig(
        vision_config={**TOWER, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    return made("InternVL", config, 32, pixel_values=pixels(4, size=32))


def idefics(name: str) -> Callable[[], Example]:
    """Idefics3 or SmolVLM: a picture's tiles, 2 x 2 patches a token."""

    def make() -> Example:
        config = getattr(transformers, f"{name}Config")(
            vision_config={**TOWER, "image_size": 32, "patch_size": 4},
            text_config={"model_type": "llama", **TEXT},
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=1,
        )
        return made(name, config, 16, pixel_values=pixels(size=32)[:, None])

    return make


def mistral3() -> Example:
    """Mistral3: a Pixtral tower, pictures of any shape, 2 x 2 patches a token."""
    config = transformers.Mistral3Config(
        vision_config={**TOWER, "model_type": "pixtral", "head_dim": 16, "image_size": 48, "patch_size": 4},
        text_config={"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": None},
        image_token_id=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return made("Mistral3", config, 25, pixel_values=pixels(), image_sizes=torch.tensor([[40, 40]] * 2))


def molmo2() -> Example:
    """Molmo2: a token is pooled of 2 x 2 patches, wherever they are."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "hidden_size": 32}
    tower = {"intermediate_size": 64, "num_hidden_layers": 3, "image_size": [32, 32], "patch_size": 4}
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    config = transformers.Molmo2Config(
        vision_config={**heads, **tower},
        adapter_config={**heads, "intermediate_size": 64, "text_hidden_size": 32, "vision_feature_layer": [2, 1]},
        text_config={
            **TEXT,
            "head_dim": 8,
            "additional_vocab_size": 0,
            "rope_parameters": rope,
            "rope_scaling_layers": [0, 2],
        },
        image_patch_id=IMAGE,
        image_start_token_id=92,
        image_end_token_id=93,
        low_res_image_start_token_id=94,
        frame_start_token_id=95,
        frame_end_token_id=96,
    )
    cells = torch.arange(128).view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 4)
    patches = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(1))
    inputs = {"image_token_pooling": cells, "image_grids": torch.tensor([[4, 4, 0, 0]] * 2)}
    return made("Molmo2", config, 16, pixel_values=patches, **inputs, mm_token_type_ids=(prompts(16) == IMAGE).int())


MAKERS: dict[str, Callable[[], Example]] = {
    "LlavaNextForConditionalGeneration": llava_next,
    "LlavaOnevisionForConditionalGeneration": llava_onevision,
    "VipLlavaForConditionalGeneration": vipllava,
    "PaliGemmaForConditionalGeneration": paligemma,
    "Qwen2VLForConditionalGeneration": qwen2_vl,
    "Qwen3VLForConditionalGeneration": qwen3_vl,
    "InternVLForConditionalGeneration": internvl,
    "Idefics3ForConditionalGeneration": idefics("Idefics3"),
    "SmolVLMForConditionalGeneration": idefics("SmolVLM"),
    "Mistral3ForConditionalGeneration": mistral3,
    "Molmo2ForConditionalGeneration": molmo2,
}
