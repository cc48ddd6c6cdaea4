"""Small random models of every kind that the adapter takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from torch import nn

from tokenreduce.backbones import Example

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 8, "layers": 4}
TEXT = {"context_length": 12, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2}
CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}
POOLER = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4}


def example(
    kind: type[nn.Module], vision: dict[str, Any], text: dict[str, Any], embed_dim: int = 16, **arguments: Any
) -> Example:
    """A model of the kind with random weights, and two images with texts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(embed_dim, vision_cfg=vision, text_cfg={**TEXT, **text}, **arguments).eval()
        randomise(model)
        size = vision["image_size"]
        words = torch.randint(1, TEXT["vocab_size"] - 1, (2, TEXT["context_length"]))
        words[:, 9], words[:, 10:] = TEXT["vocab_size"] - 1, 0  # end of text, padding
        return Example(model, {"image": torch.randn(2, 3, size, size), "text": words})


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Noise in every weight: some of open_clip's are left as memory happens to be, some start at zero."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if "logit" in name:
            continue
        if parameter.ndim > 1:
            parameter.copy_(noise / max(parameter[0].numel(), 1) ** 0.5)
        else:
            parameter.copy_(0.2 * noise + (0 if name.endswith("bias") else 1))


def coca(vision: dict[str, Any]) -> Example:
    text = {"embed_cls": True, "output_tokens": True}
    return example(CoCa, {**VISION, "output_tokens": True, **vision}, text, embed_dim=32, multimodal_cfg=TEXT)


def timm(name: str, **vision: Any) -> Example:
    tower = {"timm_model_name": name, "image_size": 160, "timm_proj": None, **vision}
    return example(CustomTextCLIP, tower, {}, embed_dim=64)


def eva() -> Example:
    """A timm tower with rotary positions, cut to four blocks and small images."""
    made = timm("eva02_tiny_patch14_224", timm_pool="token", image_size=224)
    tower: Any = made.model.visual
    tower.trunk.blocks = tower.trunk.blocks[:4]
    tower.set_input_size((56, 56))
    return Example(made.model, {**made.inputs, "image": made.inputs["image"][..., :56, :56]})


EXAMPLES: dict[str, Callable[[], Example]] = {
    "CLIP": partial(example, CLIP, VISION, {}, quick_gelu=True),
    "CLIP-layer-scale": partial(example, CLIP, {**VISION, "ls_init_value": 0.1}, {}),
    "CLIP-avg": partial(example, CLIP, {**VISION, "pool_type": "avg", "no_ln_pre": True}, {}),
    "CLIP-avg-then-norm": partial(example, CLIP, {**VISION, "pool_type": "avg", "final_ln_after_pool": True}, {}),
    "CLIP-custom-block": partial(example, CLIP, {**VISION, **CUSTOM}, {}),
    "CLIP-attention-pool": partial(example, CLIP, {**VISION, **POOLER}, {}),
    "CustomTextCLIP": partial(example, CustomTextCLIP, VISION, {"no_causal_mask": True, "pool_type": "last"}),
    "CustomTextCLIP-timm": partial(timm, "test_vit", timm_pool="token"),
    "CustomTextCLIP-timm-avg": partial(timm, "test_vit", timm_pool="avg", timm_proj="mlp"),
    "CustomTextCLIP-timm-siglip": partial(timm, "test_vit2", timm_pool="map", timm_proj="none"),
    "CustomTextCLIP-timm-eva": eva,
    "CoCa": partial(coca, {}),
    "CoCa-attention-pool": partial(coca, POOLER),
    "CoCa-parallel": partial(coca, {**POOLER, "attentional_pool": "parallel"}),
    "CoCa-cascade": partial(coca, {**POOLER, "attentional_pool": "cascade"}),
}
