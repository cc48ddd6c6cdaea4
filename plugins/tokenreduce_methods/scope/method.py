"""Coverage weighed by saliency. Axes: B batch, n tokens that are not protected, K kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    Backbone,
    Selector,
    Stream,
    attention_of,
    attention_on,
    check_attention,
    free_real,
)
from tokenreduce.ops import cosines, facility_location


class SCOPE(Selector):
    """Keep tokens that cover the others: each is the one that adds most to the coverage, times its own attention.

    A token is covered by the highest cosine that any chosen one has with it (0 at least), over the features at the
    site: at the hand-over to a language model, what the projector gives. What a token adds is summed over all tokens
    and multiplied by the class token's attention to it, to the power ``alpha``. Fewer tokens are always the first of
    more.

    Source: SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, NeurIPS 2025, by the port in
    Tencent/AngelSlim (commit 67394ce). The authors' own code was not at hand. Where this differs: other attention where
    there is no class token; where nothing more can be covered, the earlier token.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``). 1/9 where neither is given: 64 of 576.
        remove: what goes, likewise; or ``(r, inflection)``.
        alpha: how much attention counts; 0 for coverage alone.
        attention: ``"class"``, ``"received"``, ``"readout"`` or ``"text"``: whose attention weighs. None for the class
            token's; where there is none, what all patches pay; else that of the token that is read.
    """

    alpha: float = 1.0
    attention: str | None = None

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 1 / 9)
        super().__post_init__()
        check_attention(self.attention)
        if not isinstance(self.alpha, (int, float)) or isinstance(self.alpha, bool) or not 0 <= self.alpha < 100:
            raise OptionError(f"alpha must be a number in [0, 100), got {self.alpha!r}")

    @property
    def needs(self) -> Collection[str]:
        return {f"{self.attention or 'class'}_attention"}

    def bind(self, backbone: Backbone) -> SCOPE:
        return replace(self, attention=attention_on(backbone, self.attention, "SCOPE"))

    def choose(self, stream: Stream, keep: int) -> Tensor:
        prefix = stream.tokens.prefix
        weight = attention_of(stream, self.attention or "class")[:, prefix:].detach().clamp(min=0) ** self.alpha
        cosine = cosines(stream.tokens.x[:, prefix:])
        return facility_location(cosine, weight.to(cosine.dtype), keep, free_real(stream)) + prefix
