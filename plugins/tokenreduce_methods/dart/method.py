"""Dropping duplicates. Axes: B batch, N image tokens, t text tokens."""

from __future__ import annotations

from typing import Any

from tokenreduce.errors import OptionError
from tokenreduce.methods import Backbone, BaseReducer, Budget, Reduction, Site, Streams, layers_after

from .selection import ORDERS, Side, selected


class DART(BaseReducer):
    """Keep a few pivots among the image tokens, and for each pivot of image and text the image tokens least like it.

    Pivots are the tokens with the longest keys (sum of absolute values over all heads, positions included). For each in
    turn, image before text and longest first, those of the other image tokens join that have the lowest cosine to it,
    in states after the model's last norm; all pivots choose equally many, the first ones one more where it does not
    come out even. Text pivots only choose. Kept tokens stay in order; nothing merges, no attention is needed.

    Source: Wen et al., Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More,
    EMNLP 2025, arXiv 2502.11494; in the wording of the port in LightCompress, the authors' repository was not at hand:
    after 2 of 32 layers. Where this differs: exactly as many tokens are kept as asked (published: 4 + 8 t, that is 132
    for "128"); the order of the pivots, see ``order``; each sample by itself; with fewer text tokens than text pivots
    the others choose for them.

    Args:
        keep: share of the image tokens that stay (float in (0, 1], rounded up) or their number (int), or a list with
            one per site.
        image_pivots: how many image tokens are pivots.
        text_pivots: how many tokens of the text behind the image are.
        order: in which pivots choose: ``"norm"``, or ``"set"`` for the published one: the order in which CPython
            iterates over a set of their places in the prompt, for comparison only.
    """

    keep: Any = 2 / 9
    image_pivots: int = 4
    text_pivots: int = 4
    order: str = "norm"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("image_pivots", 1), ("text_pivots", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.order not in ORDERS:
            raise OptionError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {self.order!r}")

    @property
    def needs(self) -> frozenset[str]:
        needs = frozenset({"rotated_keys", "normed_states", "text_keys", "text_states", "text_columns"})
        return needs | {"columns"} if self.order == "set" else needs

    def budgets(self) -> dict[str, Budget]:
        return {"keep": Budget.of("keep", self.keep)}

    def layers(self, backbone: Backbone) -> list[int]:
        return layers_after([2], backbone.depth)

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens, signals = stream.tokens, stream.signals
        remove = self.count(self.budget, site, tokens)
        if remove <= 0:
            return {}
        prefix = tokens.prefix
        real = None if tokens.real is None else tokens.real[:, prefix:]
        columns = signals.columns[:, prefix:] if self.order == "set" else None
        image = Side(signals.rotated_keys[:, prefix:], signals.normed_states[:, prefix:], real, columns)
        there = signals.text_columns >= 0
        text = Side(signals.text_keys, signals.text_states, there, signals.text_columns)
        marked = selected(image, text, tokens.removable - remove, (self.image_pivots, self.text_pivots), self.order)
        score = tokens.x.new_zeros(tokens.x.shape[:2])
        score[:, prefix:] = marked.to(score.dtype)
        return {streams.main: tokens.keep_top(score, remove=remove)}
