"""Tiny language models with images and random weights, and inputs made by hand. Axes: B batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 127,
    "pad_token_id": 0,
    "initializer_range": 0.25,  # so that attention is far from uniform
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
IMAGE, VIDEO = 100, 101


@dataclass(frozen=True)
class Tiny:
    """A model and how its inputs are made.

    Args:
        model: with random weights.
        pixels: inputs for images of the sizes (h, w in tokens) asked for.
        size: the usual one, in tokens.
        around: tokens before and after each image.
    """

    model: nn.Module
    pixels: Callable[..., dict[str, Any]]
    size: tuple[int, int]
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def double(self) -> "Tiny":
        """The same in float64, in which rounding hides nothing."""
        self.model.double()
        return self

    def inputs(self, batch: int = 1, seed: int = 0, images: int = 1, head: int = 3, tail: int = 5) -> dict[str, Any]:
        """A batch of prompts of equal length: text, images side by side, text."""
        return self.batch([[self.size] * images for _ in range(batch)], seed, head, [tail] * batch)

    def batch(
        self, sizes: Any, seed: int = 0, head: int = 3, tails: Any = None, side: str = "left", seeds: Any = None
    ) -> dict[str, Any]:
        """Prompts with images of these sizes, padded on one side; each sample drawn by a seed of its own."""
        tails = tails or [5] * len(sizes)
        seeds = seeds or [seed * 100 + i for i in range(len(sizes))]
        rows, pictures = [], []
        for images, tail, own in zip(sizes, tails, seeds, strict=True):
            generator = torch.Generator().manual_seed(own)
            text = torch.randint(5, 90, (head + tail,), generator=generator)
            before, after = (torch.tensor(one, dtype=torch.long) for one in self.around)
            marks = [torch.cat([before, torch.full((h * w,), IMAGE), after]) for h, w in images]
            rows.append(torch.cat([text[:head], *marks, text[head:]]))
            pictures += [(size, own * 10 + i) for i, size in enumerate(images)]
        longest = max(map(len, rows))
        padding = [(longest - len(row), 0) if side == "left" else (0, longest - len(row)) for row in rows]
        ids = torch.stack([nn.functional.pad(row, pad) for row, pad in zip(rows, padding, strict=True)])
        given: dict[str, Any] = {"input_ids": ids}
        if any(sum(pad) for pad in padding):
            ones = [nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, padding, strict=True)]
            given["attention_mask"] = torch.stack(ones)
        given |= self.pixels(ids, pictures)
        dtype = self.model.dtype
        return {name: side.to(dtype) if side.is_floating_point() else side for name, side in given.items()}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        types = {"mm_token_type_ids": (ids == IMAGE).int()}
        if not pictures:
            return types
        patches = [noise(own, 4 * h * w, 3 * 2 * 4 * 4) for (h, w), own in pictures]
        grids = torch.tensor([[1, 2 * h, 2 * w] for (h, w), _ in pictures])
        return {"pixel_values": torch.cat(patches), "image_grid_thw": grids, **types}

    return Tiny(model, pixels, (4, 6), ((102,), (103,)))


ALL: dict[str, Callable[..., Tiny]] = {"llava": llava, "gemma3": gemma3, "qwen2_5_vl": qwen2_5_vl}
FIXED = (transformers.LlavaConfig, transformers.Gemma3Config)
"""Configs of models whose images are all of one size."""


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
