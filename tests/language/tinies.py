"""Tiny language models with images and random weights: the families whose laws are all tried."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from .families import MORE, qwen_pixels
from .tiny import IMAGE, TEXT, VIDEO, VISION, Tiny, noise


def llava(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=24, patch_size=4, projection_dim=16),
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        image_token_id=IMAGE,
        image_seq_length=36,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        return {"pixel_values": torch.stack([noise(own, 3, 24, 24) for _, own in pictures])} if pictures else {}

    return Tiny(model, pixels, (6, 6))


def gemma3(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    kinds = ["sliding_attention", "full_attention"] * 2
    own = {"head_dim": 8, "sliding_window": 16, "layer_types": kinds}
    config = transformers.Gemma3Config(
        vision_config={
            **VISION,
            "model_type": "siglip_vision_model",
            "image_size": 48,
            "patch_size": 4,
            "vision_use_head": False,
        },
        text_config={**TEXT, **own, **text},
        image_token_id=IMAGE,
        boi_token_index=104,
        eoi_token_index=105,
        mm_tokens_per_image=36,
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.25)  # the library's are zeros

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        types = {"token_type_ids": (ids == IMAGE).int()}
        if not pictures:
            return types
        return {"pixel_values": torch.stack([noise(own, 3, 48, 48) for _, own in pictures]), **types}

    return Tiny(model, pixels, (6, 6))


def qwen2_5_vl(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [2],
        },
        text_config={**TEXT, "rope_parameters": rope, **text},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=102,
        vision_end_token_id=103,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()

    return Tiny(model, qwen_pixels, (4, 6), ((102,), (103,)), fixed=False)


FIRST: dict[str, Callable[..., Tiny]] = {"llava": llava, "gemma3": gemma3, "qwen2_5_vl": qwen2_5_vl}
"""Those that all tests are run on; laws that a family may break by itself are tried on :data:`ALL`."""
ALL: dict[str, Callable[..., Tiny]] = {**FIRST, **MORE}
SILENT = ("vipllava", "internvl", "idefics3", "smolvlm", "mistral3", "molmo2")
"""Those whose towers give no signals."""


def video_and_image(tiny: Tiny, only: int | None = None) -> dict[str, Any]:
    """Qwen: two prompts, one with a video before an image, one the other way round; or one of them."""
    rows, videos, images = [], [], []
    for b in range(2) if only is None else [only]:
        generator = torch.Generator().manual_seed(b)
        text = torch.randint(5, 90, (9 + b,), generator=generator)
        parts = [torch.full((16,), VIDEO), torch.full((24,), IMAGE)]
        first, second = parts if b == 0 else parts[::-1]
        rows.append(torch.cat([text[:2], first, text[2:4], second, text[4:]]))
        videos.append(noise(b, 2 * 4 * 8, 96))
        images.append(noise(b + 5, 8 * 12, 96))
    longest = max(map(len, rows))
    pads = [(longest - len(row), 0) for row in rows]
    ids = torch.stack([nn.functional.pad(row, pad) for row, pad in zip(rows, pads, strict=True)])
    mask = torch.stack([nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)])
    dtype = tiny.model.dtype
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
        "pixel_values": torch.cat(images).to(dtype),
        "image_grid_thw": torch.tensor([[1, 8, 12]] * len(rows)),
        "pixel_values_videos": torch.cat(videos).to(dtype),
        "video_grid_thw": torch.tensor([[2, 4, 8]] * len(rows)),
    }
