"""What a tower that merges cells of patches gives for the tokens of an image: those of Qwen.

Its patches stand cell by cell (Qwen2.5-VL: window by window), all images in one sequence; tokens come out in raster
order.

Axes: P patches of all images, T = P / cells tokens of all images, n tokens of one image, H heads, d head width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.errors import UnsupportedCallError
from tokenreduce.ops import mean_logits, paid_attention, received_attention

from ..towers import stand_in
from .families import PATCHES

SIGNALS = PATCHES | {"keys"}


def gives_signals(tower: Any) -> bool:
    """Whether the last block attends within the whole image, and patches are windowed as known here, if at all."""
    last = len(tower.blocks) - 1
    if not hasattr(tower, "fullatt_block_indexes"):
        return True
    return last in tower.fullatt_block_indexes and hasattr(type(tower), "permute_input_for_window_attn")


class MergedListener:
    """Stands in for the tower in one call: notes what its last block is given, and the order of its patches."""

    def __init__(self, tower: nn.Module) -> None:
        self.tower: Any = tower
        self.seen: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tower = self.tower
        *blocks, last = tower.blocks
        own: dict[str, Any] = {"blocks": (*blocks, _Noted(last, self.seen))}
        if hasattr(tower, "fullatt_block_indexes"):
            own["permute_input_for_window_attn"] = self._permute
        return stand_in(tower, **own)(*args, **kwargs)

    def _permute(self, x: Tensor, order: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen["order"] = order
        permuted: Tensor = type(self.tower).permute_input_for_window_attn(self.tower, x, order, *args, **kwargs)
        return permuted

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tower, name)


class _Noted:
    """The last block, its input noted."""

    def __init__(self, block: nn.Module, seen: dict[str, Any]) -> None:
        self.block, self.seen = block, seen

    def __call__(self, x: Tensor, **kwargs: Any) -> Any:
        self.seen.update(x=x, segments=kwargs["cu_seqlens"], rotary=kwargs["position_embeddings"])
        return self.block(x, **kwargs)


@dataclass
class MergedRead:
    """One call of the tower.

    Args:
        listener: that has heard it.
        lengths: tokens of each image.
    """

    listener: MergedListener
    lengths: Sequence[int]
    _made: dict[str, list[Tensor]] = field(default_factory=dict)

    def signal(self, name: str) -> list[Tensor]:
        """(n, ...) one signal of every image: the mean over a token's patches."""
        if name not in SIGNALS:
            raise UnsupportedCallError(f"the vision tower gives no {name}")
        if name not in self._made:
            with torch.no_grad():
                values = self._keys() if name == "keys" else self._patches(name)
            cells = self.listener.tower.spatial_merge_size**2
            tokens = values.reshape(-1, cells, *values.shape[1:]).mean(dim=1)
            if "order" in self.listener.seen:
                tokens = tokens[self.listener.seen["order"].argsort()]
            self._made[name] = list(torch.split(tokens, list(self.lengths)))
        return self._made[name]

    def _projected(self) -> Tensor:
        """(3, P, H, d) query, key and value before positions."""
        block = self.listener.tower.blocks[-1]
        made: Tensor = block.attn.qkv(block.norm1(self.listener.seen["x"]))
        return made.reshape(made.shape[0], 3, block.attn.num_heads, -1).transpose(0, 1)

    def _keys(self) -> Tensor:
        return self._projected()[1].mean(dim=1)

    def _patches(self, name: str) -> Tensor:
        """What the patches of each image pay one another: (P,)."""
        attention, seen = self.listener.tower.blocks[-1].attn, self.listener.seen
        query, key, _ = self._projected()
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision  # type: ignore[attr-defined]
        query, key = (side.transpose(0, 1)[None] for side in rotate(query, key, *seen["rotary"]))
        parts = []
        for a, b in pairwise(seen["segments"].tolist()):
            q, k, scale = query[:, :, a:b], key[:, :, a:b], attention.scaling
            if name == "received_attention":
                parts.append(received_attention(q, k, None, scale)[0])
            elif name == "paid_attention":
                parts.append(paid_attention(q, k, slice(0, b - a), None, scale)[0])
            else:
                parts.append((mean_logits(k, q, scale) if name == "received_logits" else mean_logits(q, k, scale))[0])
        return torch.cat(parts)
