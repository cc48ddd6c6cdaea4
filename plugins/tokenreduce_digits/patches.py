"""What training asks of single patches, beside the answer. Axes: S scenes, N patches, C width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scenes import Scene, asked_patches, patch_labels
from .words import COLOURS

BACKGROUND_WEIGHT, ASKED_WEIGHT = 0.05, 10.0


class PatchHeads(nn.Module):
    """The auxiliary losses on patches: digit and colour, background weighted down; and what is asked about.

    Args:
        width: of the tokens that tell digit and colour, normalized first if ``norm``.
        late_width: of the tokens that tell what is asked about.
    """

    def __init__(self, width: int, late_width: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.digit = nn.Linear(width, 11)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.asked = nn.Sequential(nn.LayerNorm(late_width), nn.Linear(late_width, 1))

    def forward(self, patches: Tensor, late: Tensor, digit: Tensor, colour: Tensor, asked: Tensor) -> Tensor:
        """patches, late (S, N, C) of an earlier and a later layer, without class tokens; the labels (S, N)."""
        patches = self.norm(patches)
        loss = patch_cross_entropy(self.digit(patches), digit) + patch_cross_entropy(self.colour(patches), colour)
        weight = torch.tensor(ASKED_WEIGHT, device=asked.device)
        return loss + F.binary_cross_entropy_with_logits(self.asked(late)[..., 0].float(), asked, pos_weight=weight)


def patch_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """logits (S, N, K), target (S, N): a mean in which the last class, the background, counts little."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[-1] = BACKGROUND_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), weight=weight)


def patch_targets(scenes: list[Scene], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Digit, colour and whether it is asked about, of each patch: (S, GRID * GRID) each."""
    digit, colour = patch_labels(scenes)
    return digit.to(device), colour.to(device), asked_patches(scenes).to(device)


def gather(x: Tensor, shown: Tensor) -> Tensor:
    """Tokens (S, 1 + N, C) to those of the class token and the patches shown (S, K): (S, 1 + K, C)."""
    index = torch.cat([torch.zeros_like(shown[:, :1]), shown + 1], dim=1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
