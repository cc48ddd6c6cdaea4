"""Small random models of timm's ``Eva``, one of each kind that timm builds with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models.eva import Eva

from tokenreduce.backbones import Example

from .examples import example

ROTARY: dict[str, Any] = {"use_rot_pos_emb": True, "head_init_scale": 1.0}
EVA02: dict[str, Any] = {**ROTARY, "swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False, "ref_feat_shape": (4, 4)}
PE: dict[str, Any] = {
    **ROTARY,
    "attn_type": "rope",
    "global_pool": "map",
    "use_pre_transformer_norm": True,
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "init_values": 0.1,
}
DINOV3: dict[str, Any] = {
    **ROTARY,
    "rope_type": "dinov3",
    "rope_rotate_half": True,
    "num_reg_tokens": 4,
    "no_embed_class": True,
    "use_abs_pos_emb": False,
    "init_values": 0.1,
    "qkv_bias": False,
    "global_pool": "token",
}

EXAMPLES: dict[str, Callable[[], Example]] = {
    "Eva, EVA-02": partial(example, Eva, **EVA02),
    "Eva, EVA without rotary positions": partial(example, Eva, init_values=0.1, global_pool="token"),
    "Eva, Perception Encoder": partial(example, Eva, **PE),
    "Eva, Perception Encoder without class token": partial(example, Eva, **{**PE, "class_token": False}),
    "Eva, DINOv3": partial(example, Eva, **DINOV3),
    "Eva, angles for each block": partial(example, Eva, **ROTARY, rope_type="mixed", global_pool="token"),
    "Eva, post-norm blocks": partial(example, Eva, **ROTARY, use_post_norm=True, global_pool="token"),
}
