"""Focal pruning. Axes: B batch, N tokens, n of them not protected, s side of their grid."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from tokenreduce.errors import OptionError, UnsupportedCallError
from tokenreduce.methods import Backbone, Reducer, Reduction, Site, Stream, Streams

NEEDS = {
    "logits": frozenset({"received_logits", "paid_logits"}),
    "softmax": frozenset({"received_attention", "paid_attention"}),
}
STRATEGIES = ("rank", "row")


class FoPru(Reducer):
    """Keep the patches that matter most by the encoder's own attention among its patches.

    A patch has two scores: what the patches pay it on average over heads and patches, and what it pays them. In each
    image those of the two that vary more count, what it pays where they vary alike. ``strategy="rank"`` keeps the
    patches with the highest scores, ``"row"`` whole rows of the grid with the highest sums. Nothing merges and order is
    kept. The scores are means, so on ``scores="logits"`` no N x N map is made.

    Source: FoPru: Focal Pruning for Efficient Large Vision-Language Models, arXiv 2411.14164, abstract and
    introduction; scores and selection as in ``hydrainfer/layer/token_prunning.py`` of HydraInfer (d4d5f4f, Apache-2.0),
    which shares authors with the paper. No code of the paper itself is known, and none of its tables was at hand.
    Where this differs: images one by one; ``"row"`` takes a number of tokens, of which whole rows are made.

    Args:
        keep: share of the removable tokens that stay (float, rounded up) or their number (int), or a list per site; or a
            rule (``tokenreduce.Budget.energy(0.95, cap=64)``). 0.25 where neither is given. With ``strategy="row"`` that
            many tokens are rounded down to whole rows, one at least.
        remove: what goes, likewise; or ``(r, inflection)``.
        strategy: ``"rank"`` or ``"row"``, which needs a square grid that nothing was taken from.
        scores: ``"logits"`` (scaled products of queries and keys, as HydraInfer has them) or ``"softmax"`` (attention,
            the class token in its sum). Which of them the paper means is not known.
    """

    strategy: str = "rank"
    scores: str = "logits"

    by_sample = True

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 0.25)
        super().__post_init__()
        for name, valid in (("strategy", STRATEGIES), ("scores", tuple(NEEDS))):
            if getattr(self, name) not in valid:
                told = " or ".join(map(repr, valid))
                raise OptionError(f"{name} must be {told}, got {getattr(self, name)!r}")

    @property
    def needs(self) -> Collection[str]:
        return NEEDS[self.scores]

    def layers(self, backbone: Backbone) -> list[int]:
        """The block before the last: the one that language models read."""
        if any(budget.per_site for budget in self.budgets().values()):
            return super().layers(backbone)
        return [max(backbone.depth - 2, 0)]

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        if self.strategy == "rank":
            reduction = self.keep_top(stream, site, lambda: self._significance(stream))
        else:
            reduction = self._keep_rows(stream, site)
        return {} if reduction is None else {streams.main: reduction}

    def _significance(self, stream: Stream) -> Tensor:
        signals = stream.signals
        if self.scores == "logits":
            received, paid = signals.received_logits, signals.paid_logits
        else:
            received, paid = signals.received_attention, signals.paid_attention
        return significance(received, paid, stream.tokens.prefix, stream.tokens.real)

    def _keep_rows(self, stream: Stream, site: Site) -> Reduction | None:
        tokens = stream.tokens
        if self.removes_nothing(site, tokens):
            return None
        side = math.isqrt(tokens.removable)
        if side * side != tokens.removable or tokens.real is not None:
            raise UnsupportedCallError(
                f"fopru with strategy='row' takes whole rows of a square grid, and there are {tokens.removable} tokens "
                "besides the protected ones, or padding among them; use strategy='rank'"
            )
        score = self._significance(stream)
        rows = score[:, tokens.prefix :].reshape(-1, side, side).sum(dim=2)
        order = rows.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(side, 0, -1, device=order.device).expand_as(order)
        by_row = torch.zeros_like(order).scatter(1, order, rank).float()
        marked = torch.cat(
            [score.new_zeros(score.shape[0], tokens.prefix), by_row.repeat_interleave(side, dim=1)], dim=1
        )
        budget = self.budget
        if budget.rule is None:
            kept = max((tokens.removable - self.count(budget, site, tokens)) // side, 1) * side
            return tokens.keep_top(marked, remove=tokens.removable - kept)
        counts = (self.kept_counts(stream, site, score) // side).clamp(min=1) * side
        cap = max(budget.cap(site, tokens.removable) // side, 1) * side
        return tokens.keep_top(marked, counts=counts, cap=cap, bucket=budget.rule.bucket)


@torch.no_grad()
def significance(received: Tensor, paid: Tensor, prefix: int = 0, real: Tensor | None = None) -> Tensor:
    """(B, N) of what each token is paid and what it pays (B, N), in each sample those that vary more.

    Variances are over the tokens that are neither protected nor padding; ``paid`` where they are equal.

    Args:
        prefix: number of protected tokens in front.
        real: (B, N) False for padding.
    """
    free = None if real is None else real[:, prefix:]
    wider = _variance(received[:, prefix:], free) > _variance(paid[:, prefix:], free)
    return torch.where(wider[:, None], received, paid)


def _variance(score: Tensor, real: Tensor | None) -> Tensor:
    """(B,) unbiased, in the dtype of the scores; 0 of a single one."""
    count = torch.full_like(score[:, 0], score.shape[1]) if real is None else real.sum(dim=1).to(score)
    score = score if real is None else score * real
    off = score - (score.sum(dim=1) / count.clamp(min=1))[:, None]
    off = off if real is None else off * real
    return off.square().sum(dim=1) / (count - 1).clamp(min=1)
