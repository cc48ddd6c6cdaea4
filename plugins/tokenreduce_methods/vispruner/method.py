"""Important and diverse tokens. Axes: B batch, n tokens that are not protected, K kept, C width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    Backbone,
    Selector,
    Stream,
    attention_of,
    attention_on,
    check_attention,
    check_ratio,
    free_real,
)
from tokenreduce.ops import cosines, thin_out


class VisPruner(Selector):
    """Keep the tokens that the class token attends to most; thin out the others until none is like another.

    Of the K tokens that stay, a share is important: those with the highest attention. The others, in falling order of
    attention, are thinned out: in each round the tokens at even places are compared with those at odd places, and up to
    eight with the highest cosine to any of those go. With ``important=1.0`` attention alone decides (FasterVLM).
    Cosines are of encoder features at the hand-over to a language model, elsewhere of the features at the site.

    Source: Zhang et al., Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs, ICCV
    2025, arXiv 2412.01818, section 3 and the published code. Where this differs: a list of odd length is no error (its
    even places are one more); a round never removes more than the even places hold; of equal cosines the token with
    less attention goes; other attention where there is no class token.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``). 1/9 where neither is given: 64 of 576.
        remove: what goes, likewise; or ``(r, inflection)``.
        important: share of what stays that attention chooses (rounded down).
        attention: ``"class"``, ``"received"``, ``"readout"`` or ``"text"``: whose attention says what is important.
            None for the class token's; where there is none, what all patches pay; else that of the token that is read.
        features: what is compared: ``"encoder"`` features, ``"site"`` for the tokens as they are, or None for the
            former where they can be had.
    """

    important: Any = 0.5
    attention: str | None = None
    features: str | None = None

    nested = False

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 1 / 9)
        super().__post_init__()
        check_ratio("important", self.important)
        check_attention(self.attention)
        if self.features not in (None, "encoder", "site"):
            raise OptionError(f"features must be 'encoder', 'site' or None, got {self.features!r}")

    @property
    def needs(self) -> Collection[str]:
        attention = f"{self.attention or 'class'}_attention"
        return {attention, "encoder_features"} if self.features == "encoder" else {attention}

    def bind(self, backbone: Backbone) -> VisPruner:
        there = "encoder" if "encoder_features" in backbone.provides else "site"
        attention = attention_on(backbone, self.attention, "VisPruner")
        bound = replace(self, attention=attention, features=self.features or there)
        bound.check_needs(backbone)
        return bound

    def choose(self, stream: Stream, keep: int) -> Tensor:
        tokens, prefix, real = stream.tokens, stream.tokens.prefix, free_real(stream)
        x = stream.signals.encoder_features if self.features == "encoder" else tokens.x
        score, cosine = attention_of(stream, self.attention or "class")[:, prefix:], cosines(x[:, prefix:])
        important = int(keep * self.important)
        if real is None:
            return important_and_diverse(score, cosine, keep, important) + prefix
        chosen = []
        for row, there in enumerate(real):  # lists differ in length
            index = torch.cat([there.nonzero()[:, 0], (~there).nonzero()[:, 0]])
            count = int(there.sum())
            most = min(keep, count)
            mine = index[:count]
            own = important_and_diverse(
                score[row, mine][None], cosine[row, mine][:, mine][None], most, int(most * self.important)
            )
            chosen.append(torch.cat([mine[own[0]], index[count : count + keep - most]]))
        return torch.stack(chosen) + prefix


@torch.no_grad()
def important_and_diverse(score: Tensor, cosine: Tensor, keep: int, important: int) -> Tensor:
    """(B, K) indices of the tokens that stay.

    Args:
        score: (B, n), the highest are important.
        cosine: (B, n, n).
        keep: K.
        important: how many of them.
    """
    order = score.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, :important], thin_out(cosine, order[:, important:], keep - important)], dim=1)
