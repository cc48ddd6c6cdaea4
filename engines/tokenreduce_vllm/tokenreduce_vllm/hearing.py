"""What vLLM's vision tower says while it runs: the source of signals at the hand-over.

Axes: U pictures, N tokens of one (class token in front), H heads, d head width, C' width of the tower.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenreduce.errors import UnsupportedCallError
from tokenreduce.ops import attention_rows, mean_logits, paid_attention, received_attention

from .plan import Plan


class Hearing:
    """A context that notes what the block that is read, and the tower, give; its hooks are gone afterwards.

    Args:
        tower: of vLLM.
        plan: says what is read.
    """

    def __init__(self, tower: Any, plan: Plan) -> None:
        self.tower, self.facts, self.wanted = tower, plan.facts, plan.needs & plan.facts.provides
        self._hooks: list[Any] = []
        self._heard: dict[str, Tensor] = {}
        self._made: dict[str, Tensor] = {}

    def __enter__(self) -> Hearing:
        if self.wanted:
            layer = self.tower.vision_model.encoder.layers[-1]
            self.attention = layer.self_attn
            places = {"qkv": self.attention.qkv_proj, "block": layer, "given": self.tower}
            for name, module in places.items():
                self._hooks.append(module.register_forward_hook(self._note(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _note(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            self._heard[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def signal(self, name: str) -> Tensor:
        """One signal of all pictures: (U, n, ...) of the tokens that are handed on; of the class token (U, 1, C')."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Tensor:
        if "given" not in self._heard:
            raise UnsupportedCallError(f"{name} of the vision tower was asked for, but it did not run in this call")
        if name == "encoder_features":
            return self._heard["given"]
        prefix = self.facts.prefix
        if name == "class_features":
            return self._heard["block"][:, :prefix]
        heads = self.attention.num_heads_per_partition
        query, key, _ = (
            side.reshape(*side.shape[:2], heads, -1).transpose(1, 2) for side in self._heard["qkv"].chunk(3, dim=-1)
        )
        side = self._of(name, query, key, prefix, self.attention.scale)
        return side[:, self.facts.skipped :]

    def _of(self, name: str, query: Tensor, key: Tensor, prefix: int, scale: float) -> Tensor:
        """(U, N, ...) from queries and keys (U, H, N, d)."""
        if name == "keys":
            return key.mean(dim=1)
        if name == "class_attention":
            return attention_rows(query[:, :, :1], key, None, scale)[:, 0]
        if name == "received_attention":
            return received_attention(query[:, :, prefix:], key, None, scale)
        if name == "paid_attention":
            return paid_attention(query, key, slice(prefix, key.shape[2]), None, scale)
        if name == "received_logits":
            return mean_logits(key, query[:, :, prefix:], scale)
        if name == "paid_logits":
            return mean_logits(query, key[:, :, prefix:], scale)
        raise UnsupportedCallError(f"the vision tower gives no {name}")
