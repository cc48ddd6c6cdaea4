"""Towers whose blocks rotate queries and keys by the place of their token; the angles travel with the tokens.

A merged token has the place of the one that it was merged into.

Axes: B batch, N tokens, n patches, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import BlockView, Pass, Positions, Projected
from tokenreduce.errors import UnsupportedModelError

from .prenorm import PreNormView
from .towers import TowerStack, check_no_mask


class RotaryView(PreNormView):
    """The pre-norm block, with rotated queries and keys."""

    def project_at(self, x: Tensor, positions: Positions) -> Projected:
        plain = self.project(x)
        cos, sin = positions["cos"].unsqueeze(1), positions["sin"].unsqueeze(1)
        query, key = (rotate(part, cos, sin).type_as(plain.value) for part in (plain.query, plain.key))
        return Projected(query, key, plain.value)


class RotaryStack(TowerStack):
    """A tower whose encoder hands ``position_embeddings=(cos, sin)`` of the patches (n, d) to every block."""

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, self.family.block):
            raise UnsupportedModelError(f"{type(block).__name__} is not a {self.family.block.__name__}")
        return RotaryView(block, self.family.parts)

    def start(self, run: Pass, x: Tensor, mask: Any, given: Mapping[str, Any]) -> None:
        check_no_mask(mask)
        cos, sin = given["position_embeddings"]
        run.start(x, {"image": x.shape[1]}, positions=prefixed(cos, sin, x.shape[1]))

    def probe_positions(self, x: Tensor) -> Positions:
        width = getattr(self.blocks[0], self.family.parts.attention).head_dim
        half = torch.linspace(0.1, 3, (x.shape[1] - 1) * width // 2, dtype=x.dtype, device=x.device)
        angles = half.reshape(x.shape[1] - 1, -1).tile(2)
        return prefixed(angles.cos(), angles.sin(), x.shape[1])

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
        positions: Positions | None = None,
    ) -> Tensor:
        assert positions is not None
        given = positions["cos"][0, 1:], positions["sin"][0, 1:]
        return self.plain(block, x, position_embeddings=given)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (B, H, N, d) turned by the angles (B or 1, 1, N, d) of their tokens."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def prefixed(cos: Tensor, sin: Tensor, length: int) -> dict[str, Tensor]:
    """Angles of the patches (n, d) as those of all tokens (1, N, d): tokens in front of the patches are not turned."""
    front = cos.new_zeros(length - cos.shape[0], cos.shape[1])
    return {"cos": torch.cat([front + 1, cos])[None], "sin": torch.cat([front, sin])[None]}
