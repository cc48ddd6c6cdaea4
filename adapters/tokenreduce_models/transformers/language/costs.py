"""Multiply-adds of decoder layers, vision towers and projectors, from shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from tokenreduce.backbones import Prompt

from .attention import unwrapped
from .families import LVLM
from .towers import blocks_of, family_of


def matrices(modules: Iterable[nn.Module]) -> int:
    """Elements of all matrices: multiply-adds for each token."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)


def layer_cost(layer: Any) -> tuple[int, int]:
    """Weights of a decoder layer that multiply each token, and the width of its attention's products."""
    attention = unwrapped(layer).self_attn
    config = attention.config
    return matrices([layer]), config.num_attention_heads * attention.head_dim


def tower_cost(inner: Any, family: LVLM, prompt: Prompt) -> tuple[int, int]:
    """Multiply-adds of tower and projector for all images of a call."""
    tower = getattr(inner, family.tower)
    tokens = [n for images in prompt.lengths for n in images]
    if family.tokens == "merge":
        cells = tower.spatial_merge_size**2
        return sum(merged_cost(tower, cells * n) for n in tokens), sum(n for n in tokens) * matrices([tower.merger])
    kind = family_of(tower)
    projector = getattr(inner, family.projector or "")
    weights = sum(p.numel() for p in projector.parameters() if p.ndim == 2)
    if kind is None:
        return cells_cost(inner, tower, prompt), sum(tokens) * weights
    size, patch = tower.config.image_size, tower.config.patch_size
    patches = (size // patch) ** 2
    embedding = patch * patch * tower.config.num_channels * tower.config.hidden_size
    count, width = patches + kind.prefix, tower.config.hidden_size
    blocks = sum(count * (matrices([block]) + 2 * count * width) for block in blocks_of(tower, kind))
    return prompt.passes() * (blocks + patches * int(embedding)), sum(tokens) * weights


def cells_cost(inner: Any, tower: Any, prompt: Prompt) -> int:
    """Of a tower whose patches a projector puts together in cells; 0 where they overlap (Molmo2)."""
    config = inner.config
    cells = [getattr(config, name, 0) for name in ("scale_factor", "spatial_merge_size")]
    cells.append(1 / getattr(config, "downsample_ratio", float("inf")))
    blocks = next((part for part in tower.modules() if isinstance(part, nn.ModuleList)), None)
    tokens, passes = sum(map(sum, prompt.lengths)), prompt.passes()
    patches = round(max(cells) ** 2 * tokens / max(passes, 1))
    if not patches or blocks is None:
        return 0
    width = int(tower.config.hidden_size)
    return passes * patches * (matrices(blocks) + len(blocks) * 2 * patches * width)


def merged_cost(tower: Any, patches: int) -> int:
    """Of a tower that merges cells, with windows or without, for one image."""
    config = tower.config
    if not hasattr(config, "fullatt_block_indexes"):
        width = tower.blocks[0].attn.qkv.in_features
        blocks = sum(patches * (matrices([block]) + 2 * patches * width) for block in tower.blocks)
        return int(blocks + patches * sum(p.numel() for p in tower.patch_embed.parameters()))
    window = int(config.window_size // config.patch_size) ** 2
    total = 0
    for index, block in enumerate(tower.blocks):
        seen = patches if index in config.fullatt_block_indexes else min(window, patches)
        total += patches * (matrices([block]) + 2 * seen * config.hidden_size)
    return int(total + patches * sum(p.numel() for p in tower.patch_embed.parameters()))
