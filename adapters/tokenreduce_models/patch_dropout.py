"""Patch dropout of timm and open_clip: in training, patches are taken away at random before the first block."""

from __future__ import annotations

from torch import nn


def drops(part: nn.Module | None) -> bool:
    """Whether this part of a model takes patches away now."""
    return part is not None and part.training and bool(getattr(part, "prob", 0))
