"""Attention rows and keys asked of a decoder layer's own attention, whatever its projections are called.

Axes: B batch, p tokens of the layer's call, P keys, r rows asked for, G heads of the keys, C width, d head width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import Seen, loaded, moved, pick, pick_all

from ..towers import stand_in


class Noting:
    """Stands in for a cache in one layer's call: hands keys and values on, and notes the keys."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.keys: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What the cache gives, or without one what it was given."""
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, *args, **kwargs)
        self.keys = keys
        return keys, values

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


class Fixed:
    """Stands in for a cache: whatever is added, these are the keys."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The fixed keys, also for values, of which weights do not depend."""
        return self.keys, self.keys.expand(*self.keys.shape[:-1], self.keys.shape[-1])


class Caught(Exception):
    """Ends a layer's attention once its keys are there."""

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.keys = keys


class Catching:
    """Stands in for a cache: ends the call with the keys that were to be added."""

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise Caught(keys)


def unwrapped(layer: nn.Module) -> Any:
    """The library's layer in a layer that may be wrapped; None where there is none with an attention."""
    return next((module for module in layer.modules() if hasattr(module, "self_attn")), None)


def attention_rows_of(layer: Any, seen: Seen, rows: Tensor, cache_name: str) -> Tensor:
    """(B, H, r, P) what queries at places ``rows`` (B, r) pay to every key."""
    layer = unwrapped(layer)
    attention = layer.self_attn
    config = copy.copy(attention.config)
    config._attn_implementation = "eager"
    hidden = normed(layer, pick(seen.x, rows, 1))
    device = hidden.device  # where the layer runs
    rows, seen = rows.to(device), seen.on(device)
    keys = seen.keys
    if keys is None:
        keys = keys_of(layer, seen, seen.call.rotary, cache_name)
        held = seen.call.extra.get("keys")
        keys = keys if held is None else torch.cat([held, keys], dim=-2)
    with loaded(attention):
        out = type(attention).forward(
            stand_in(attention, config=config, training=False),
            hidden_states=hidden,
            position_embeddings=pick_all(moved(seen.call.rotary, device), rows),
            attention_mask=rows_mask(seen, rows, keys.shape[-2], hidden.dtype),
            **{cache_name: Fixed(keys)},
        )
    weights: Tensor = out[1]
    return weights


def keys_of(layer: Any, seen: Seen, rotary: Any, cache_name: str) -> Tensor:
    """(B, G, p, d) keys of the tokens of the call, with these positions."""
    layer = unwrapped(layer)
    attention = layer.self_attn
    hidden = normed(layer, seen.x)
    try:
        with loaded(attention):
            type(attention).forward(
                attention,
                hidden_states=hidden,
                position_embeddings=moved(rotary, hidden.device),
                attention_mask=None,
                **{cache_name: Catching()},
            )
    except Caught as caught:
        return caught.keys
    raise RuntimeError(f"{type(attention).__name__} never added its keys to the cache")


def normed(layer: Any, x: Tensor) -> Tensor:
    """What a layer's attention is given of tokens: normed, but for layers that norm what they put out."""
    if getattr(layer, "norm_after", False):
        return x
    hidden: Tensor = layer.input_layernorm(x)
    return hidden


def unrotated(rotary: Any) -> Any:
    """Cosines of one and sines of zero in the form of a layer's positions: keys as they are without any."""
    cosine, sine = rotary
    return torch.ones_like(cosine), torch.zeros_like(sine)


def rows_mask(seen: Seen, rows: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, r, P) additive mask of the rows asked for."""
    mask, length = seen.call.mask, seen.x.shape[1]
    if mask is None or mask.ndim == 2:
        places = torch.arange(keys, device=rows.device)
        visible = (places <= (rows + keys - length).unsqueeze(-1))[:, None]
        if mask is not None:
            visible = visible & mask[:, None, None, -keys:].bool()
    else:
        mask = mask[..., :keys].expand(rows.shape[0], *mask.shape[1:-1], -1)
        index = rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        visible = mask.gather(2, index)
        if visible.dtype != torch.bool:
            return visible.to(dtype)
    return torch.zeros(visible.shape, dtype=dtype, device=rows.device).masked_fill(~visible, torch.finfo(dtype).min)
