"""Tiny models of further families. Axes: B batch."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from .tiny import IMAGE, TEXT, VIDEO, VISION, Tiny, noise

CLIP = {**VISION, "image_size": 16, "patch_size": 4}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
TILES = [[16, 32], [32, 16], [32, 32]]
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def stacked(side: int) -> Callable[..., dict[str, Any]]:
    """Pictures of one size, stacked."""

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        return {"pixel_values": torch.stack([noise(own, 3, side, side) for _, own in pictures])} if pictures else {}

    return pixels


def tiled(ids: Tensor, pictures: Any) -> dict[str, Any]:
    """LLaVA-NeXT: the whole picture and two tiles beside each other, (4, 12) tokens, or one above the other."""
    if not pictures:
        return {}
    sizes = [[16, 32] if size == (4, 12) else [32, 16] for size, _ in pictures]
    return {
        "pixel_values": torch.stack([noise(own, 3, 3, 16, 16) for _, own in pictures]),
        "image_sizes": torch.tensor(sizes),
    }


def rows_of_tiles(size: tuple[int, int]) -> tuple[list[int], int]:
    """The whole picture (16 tokens), then rows of 8 or of 4, each with a separator behind it."""
    rows, width = (4, 8) if size == (4, 12) else (8, 4)
    return [*range(16), *(16 + row * (width + 1) + x for row in range(rows) for x in range(width))], 16 + rows * (
        width + 1
    )


def llava_next(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP, projection_dim=16),
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        image_token_id=IMAGE,
        image_grid_pinpoints=TILES,
        image_seq_length=16,
    )
    model = transformers.LlavaNextForConditionalGeneration(config).eval()
    return Tiny(model, tiled, (4, 12), columns=rows_of_tiles, fixed=False, other=(12, 4))


def llava_onevision(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config={"model_type": "qwen2", **TEXT, **text},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=TILES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config).eval()
    return Tiny(model, tiled, (4, 12), columns=rows_of_tiles, fixed=False, other=(12, 4))


def vipllava(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP, projection_dim=16),
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        image_token_id=IMAGE,
        image_seq_length=16,
        vision_feature_layers=[-1, -2, 1],
    )
    return Tiny(transformers.VipLlavaForConditionalGeneration(config).eval(), stacked(16), (4, 4))


def paligemma(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.PaliGemmaConfig(
        vision_config={**SIGLIP, "projection_dim": 32},
        text_config={"model_type": "gemma", **TEXT, "head_dim": 8, **text},
        image_token_id=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config).eval()

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        return {**stacked(16)(ids, pictures), "token_type_ids": torch.zeros_like(ids)}

    return Tiny(model, pixels, (4, 4))


def qwen_pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
    types = {"mm_token_type_ids": (ids == IMAGE).int()}
    if not pictures:
        return types
    patches = [noise(own, 4 * h * w, 3 * 2 * 4 * 4) for (h, w), own in pictures]
    grids = torch.tensor([[1, 2 * h, 2 * w] for (h, w), _ in pictures])
    return {"pixel_values": torch.cat(patches), "image_grid_thw": grids, **types}


QWEN = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 102,
    "vision_end_token_id": 103,
}
CELLS = {"num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 3}


def qwen2_vl(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.Qwen2VLConfig(
        vision_config={**CELLS, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        text_config={**TEXT, "rope_parameters": ROPE, **text},
        **QWEN,
    )
    model = transformers.Qwen2VLForConditionalGeneration(config).eval()
    return Tiny(model, qwen_pixels, (4, 6), ((102,), (103,)), fixed=False)


def qwen3_vl(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.Qwen3VLConfig(
        vision_config={
            **CELLS,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "num_position_embeddings": 144,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={**TEXT, "head_dim": 8, "rope_parameters": {**ROPE, "mrope_interleaved": True}, **text},
        **QWEN,
    )
    model = transformers.Qwen3VLForConditionalGeneration(config).eval()
    for merger in model.model.visual.deepstack_merger_list:
        nn.init.normal_(merger.linear_fc2.weight, std=0.25)  # so that what is added between layers is of weight
    return Tiny(model, qwen_pixels, (4, 6), ((102,), (103,)), fixed=False)


def internvl(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config={"model_type": "qwen2", **TEXT, **text},
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    model = transformers.InternVLForConditionalGeneration(config).eval()

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        tiles = [noise(own + 1000 * i, 3, 32, 32) for (h, w), own in pictures for i in range(h * w // 16)]
        return {"pixel_values": torch.stack(tiles)} if tiles else {}

    return Tiny(model, pixels, (4, 4), ((102,), (103,)), fixed=False, other=(8, 4))


def idefics(kind: str) -> Callable[..., Tiny]:
    """Idefics3 or SmolVLM: tiles of a sample come in one piece, samples with fewer have empty ones behind."""

    def make(seed: int = 0, **text: Any) -> Tiny:
        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}Config")(
            vision_config={**VISION, "image_size": 32, "patch_size": 4},
            text_config={"model_type": "llama", **TEXT, **text},
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=0,
        )
        model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()

        def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
            counts = ((ids == IMAGE).sum(dim=1) // 16).tolist()
            if not max(counts):
                return {}
            values, seeds = torch.zeros(len(counts), max(counts), 3, 32, 32), iter([own for _, own in pictures])
            for sample, count in enumerate(counts):
                for i in range(count):
                    values[sample, i] = noise(next(seeds), 3, 32, 32)
            return {"pixel_values": values}

        return Tiny(model, pixels, (4, 4), ((102,), (103,)))

    return make


def mistral3(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    config = transformers.Mistral3Config(
        vision_config={**VISION, "model_type": "pixtral", "head_dim": 8, "image_size": 48, "patch_size": 4},
        text_config={"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": None, **text},
        image_token_id=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    model = transformers.Mistral3ForConditionalGeneration(config).eval()

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        if not pictures:
            return {}
        sizes = [(8 * h, 8 * w) for (h, w), _ in pictures]
        values = torch.zeros(len(pictures), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
        for value, (h, w), (_, own) in zip(values, sizes, pictures, strict=True):
            value[:, :h, :w] = noise(own, 3, h, w)
        return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}

    return Tiny(model, pixels, (4, 6), fixed=False)


def molmo2(seed: int = 0, **text: Any) -> Tiny:
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "hidden_size": 32}
    config = transformers.Molmo2Config(
        vision_config={
            **heads,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "image_size": [32, 32],
            "patch_size": 4,
        },
        adapter_config={**heads, "intermediate_size": 64, "text_hidden_size": 32, "vision_feature_layer": [2, 1]},
        text_config={
            **TEXT,
            "head_dim": 8,
            "additional_vocab_size": 0,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
            "rope_scaling_layers": [0, 2],
            **text,
        },
        image_patch_id=IMAGE,
        image_start_token_id=102,
        image_end_token_id=103,
        low_res_image_start_token_id=104,
        frame_start_token_id=105,
        frame_end_token_id=106,
    )
    model = transformers.Molmo2ForConditionalGeneration(config).eval()
    for weight in model.model.multi_modal_projector.parameters():
        nn.init.normal_(weight, std=0.5)  # so that tokens of an image differ by more than rounding

    def pixels(ids: Tensor, pictures: Any) -> dict[str, Any]:
        types = {"mm_token_type_ids": (ids == IMAGE).int()}
        if not pictures:
            return types
        cells = torch.arange(64 * len(pictures)).view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 4)
        own = torch.stack([noise(own, 64, 48) for _, own in pictures])
        grids = torch.tensor([[4, 4, 0, 0]] * len(pictures))
        return {"pixel_values": own, "image_token_pooling": cells, "image_grids": grids, **types}

    return Tiny(model, pixels, (4, 4), ((104,), (103,)))


MORE: dict[str, Callable[..., Tiny]] = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "vipllava": vipllava,
    "paligemma": paligemma,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "idefics3": idefics("Idefics3"),
    "smolvlm": idefics("SmolVLM"),
    "mistral3": mistral3,
    "molmo2": molmo2,
}
