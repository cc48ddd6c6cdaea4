"""Alignment of words and patches, as ViLT's pre-training has it. Axes: S scenes, H heads, L tokens, T text, N patches.

ViLT is pre-trained to align words with patches (by optimal transport between the two, Kim et al. 2021), which is why
its text attends to what it speaks of, and why PuMer can go by that attention. Here the words' attention itself is
drawn to the patches: to every digit in the earlier layers, to what the question is about in the later ones. All layers
from the second on are asked alike, so that no reducer's layers are favoured.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FIRST = 1
"""The first layer that is asked, counted from 0."""


def alignment(attentions: Sequence[Tensor], mask: Tensor, digit: Tensor, asked: Tensor) -> Tensor:
    """The mean over layers of the cross-entropy between where words look and where they should.

    Args:
        attentions: of each layer, (S, H, L, L) after the softmax; text first, the patches last.
        mask: (S, T) 1 where a text token is real.
        digit: (S, N) the digit in a patch, 10 where there is none.
        asked: (S, N) 1 where a patch shows what the question is about; without any, every digit counts.
    """
    shown = (digit < 10).float()
    about = asked.where(asked.sum(1, keepdim=True) > 0, shown)
    total = attentions[0].new_zeros((), dtype=shown.dtype)
    for layer in range(FIRST, len(attentions)):
        wanted = shown if layer < len(attentions) // 2 else about
        words = attentions[layer].float().mean(1)[:, : mask.shape[1], -digit.shape[1] :]
        looked = (words * mask[..., None]).sum(1)
        looked = looked / looked.sum(1, keepdim=True)
        wanted = wanted / wanted.sum(1, keepdim=True)
        total = total - (wanted * (looked + 1e-6).log()).sum(1).mean()
    return total / (len(attentions) - FIRST)
