"""The parts of a METER model, under the names of the published code.

Axes: B batch, N tokens (class token first), C width.
"""

from __future__ import annotations

from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

from .config import MeterConfig


class VisionTower(nn.Module):
    """CLIP's tower without its last block; the final norm is on every token, and nothing is projected."""

    def __init__(self, config: MeterConfig) -> None:
        super().__init__()
        self.visual = VisionTransformer(
            config.image_size,
            config.patch_size,
            config.vision_hidden_size,
            config.vision_layers - 1,
            config.vision_heads,
            mlp_ratio=4.0,
            output_dim=1,
            pool_type="none",
            act_layer=QuickGELU,
        )
        self.visual.proj = None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) to tokens (B, N, C)."""
        tokens: Tensor = self.visual(pixel_values)
        return tokens


class Pooler(nn.Module):
    """tanh of a linear map of the first token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.activation = nn.Tanh()

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, C)."""
        pooled: Tensor = self.activation(self.dense(tokens[:, 0]))
        return pooled


class CoAttentionLayer(GradientCheckpointingLayer, BridgeTowerBertCrossLayer):
    """Self-attention, cross-attention and MLP, norms last: BridgeTower's layer, which is METER's."""
