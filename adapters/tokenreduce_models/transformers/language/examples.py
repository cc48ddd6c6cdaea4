"""Small language models with images and random weights, for the adapter's examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from tokenreduce.backbones import Example

from ..tiny import pixels, tiny
from .family_examples import MAKERS
from .small import IMAGE, TEXT, TOWER, prompts


def llava() -> Example:
    """LLaVA-1.5: a CLIP tower read one block before its end, an MLP, a Llama."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, projection_dim=16),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        image_seq_length=25,
    )
    model = tiny(LlavaForConditionalGeneration, config)
    return Example(model, {"input_ids": prompts(25), "pixel_values": pixels()})


def gemma3() -> Example:
    """Gemma3: a SigLIP tower whose patches are pooled, layers with sliding and with full attention."""
    layers = ["sliding_attention", "full_attention"] * 2
    config = Gemma3Config(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "image_size": 80, "vision_use_head": False},
        text_config={**TEXT, "head_dim": 8, "sliding_window": 12, "layer_types": layers},
        image_token_id=IMAGE,
        boi_token_index=91,
        eoi_token_index=92,
        mm_tokens_per_image=25,
    )
    ids = prompts(25)
    inputs = {"input_ids": ids, "pixel_values": pixels(size=80), "token_type_ids": (ids == IMAGE).int()}
    return Example(tiny(Gemma3ForConditionalGeneration, config), inputs)


def qwen2_5_vl() -> Example:
    """Qwen2.5-VL: a windowed tower that merges 2 x 2 patches, positions with three axes."""
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        image_token_id=IMAGE,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    ids = prompts(24)
    patches = torch.randn(2 * 96, 96, generator=torch.Generator().manual_seed(1))
    inputs = {
        "input_ids": ids,
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, 8, 12]] * 2),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }
    return Example(tiny(Qwen2_5_VLForConditionalGeneration, config), inputs)


EXAMPLES: dict[str, Callable[[], Example]] = {
    "LlavaForConditionalGeneration": llava,
    "Gemma3ForConditionalGeneration": gemma3,
    "Qwen2_5_VLForConditionalGeneration": qwen2_5_vl,
    **MAKERS,
}
