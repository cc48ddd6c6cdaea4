"""What a model's config says of its vision tower. Imports nothing of vLLM or transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .families import Family

PREFIX = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Towers whose blocks are known here, with the number of their class tokens."""
HEADS = frozenset({"keys", "class_attention", "received_attention", "paid_attention", "received_logits", "paid_logits"})
"""Signals that are means over the heads of a block."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is made.

    Args:
        model: its architecture.
        family: its row.
        tower: kind of its vision tower.
        read: which of the tower's blocks is read, counted from 1; None where it is not one block.
        patches: tokens that the tower makes of one picture, class token not counted.
        skipped: of the tower's tokens, how many in front the language model is not given.
    """

    model: str
    family: Family
    tower: str
    read: int | None
    patches: int
    skipped: int

    @property
    def prefix(self) -> int:
        """Number of class tokens of the tower."""
        return PREFIX.get(self.tower, 0)

    @property
    def known(self) -> bool:
        """Whether the tower's blocks can be read."""
        return self.family.tokens != "cell" and self.tower in PREFIX and bool(self.read)

    @property
    def provides(self) -> frozenset[str]:
        """The signals that the tower gives at the hand-over."""
        if not self.known:
            return frozenset()
        return (
            HEADS - ({"class_attention"} if not self.prefix else set())
            | {"encoder_features", "projector"}
            | ({"class_features"} if self.prefix else set())
        )


def facts_of(config: Any, architecture: str, family: Family) -> Facts:
    """The facts of a model, from its config."""
    vision = config.vision_config
    layers = int(vision.num_hidden_layers)
    layer = getattr(config, "vision_feature_layer", None)
    read = int(layer) % (layers + 1) if isinstance(layer, int) else None
    side = _side(vision.image_size) // _side(vision.patch_size)
    strategy = getattr(config, "vision_feature_select_strategy", "full")
    return Facts(architecture, family, str(vision.model_type), read, side * side, 1 if strategy == "default" else 0)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, (list, tuple)) else size)
