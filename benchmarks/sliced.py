"""What a machine could gain: a timm ViT that loses as many tokens as a method takes, for nothing.

    python benchmarks/speed.py --models deit-s vit-b --batch 1 --peer benchmarks/sliced.py

The last tokens are sliced off after the attention of each block, as many as the method of the row drops there. Nothing
chooses or merges them, so no method that removes as many there can be faster. It is below what the multiply-adds allow
where other things bound a pass: weights are read from memory however few tokens there are, and matrix products of few
rows are slower per row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rounds as shared
import speed
import torch
from torch import Tensor, nn

import tokenreduce


def peers(name: str, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """A forward for each method that the model is timed with; none for models that are not timm's."""
    if not all(hasattr(model, part) for part in ("patch_embed", "norm_pre", "blocks", "forward_head")):
        return {}
    return {
        f"sliced like {label}": sliced(model, inputs["x"], removed(model, inputs, options))
        for label, options in speed.MODELS[name][1].items()
    }


def removed(model: nn.Module, inputs: dict[str, Any], options: dict[str, Any]) -> dict[int, int]:
    """How many tokens a method takes away, by block."""
    with tokenreduce.attach(shared.twin(model), **options) as handle, torch.inference_mode():
        handle.model(**inputs)
        return {site.layer: site.tokens_in - site.tokens_out for site in handle.last.sites}


def sliced(model: Any, x: Tensor, gone: dict[int, int]) -> Callable[[], object]:
    """The model's forward on pictures x (B, 3, H, W), so many of the last tokens gone after each block's attention."""

    def forward() -> Tensor:
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        for index, block in enumerate(model.blocks):
            tokens = tokens + block.attn(block.norm1(tokens))
            if gone.get(index):
                tokens = tokens[:, : -gone[index]].contiguous()
            tokens = tokens + block.mlp(block.norm2(tokens))
        logits: Tensor = model.forward_head(model.norm(tokens))
        return logits

    return forward
