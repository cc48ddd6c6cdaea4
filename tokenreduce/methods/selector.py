"""Methods that say which tokens stay, given how many. Axes: B batch, N tokens, K kept."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..core.reduction import Reduction
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..errors import OptionError, UnfitReducerError
from .backbone import Backbone
from .reducer import Reducer


class Selector(Reducer):
    """A method that chooses tokens as a set, not each by a score of its own: subclass it and write :meth:`choose`.

    Nothing merges and order is kept. Without layers it acts once in an encoder, in the block before the last: the one
    that language models read.

    Attributes:
        nested: whether fewer tokens are always the first of more, so that samples that keep different numbers are
            chosen for together.
    """

    by_sample = True
    nested: ClassVar[bool] = True

    def layers(self, backbone: Backbone) -> list[int]:
        if any(budget.per_site for budget in self.budgets().values()):
            return super().layers(backbone)
        return read_layer(backbone)

    def check_rules(self) -> None:
        super().check_rules()
        for name, budget in self.budgets().items():
            if budget.rule is not None and budget.rule.kind in ("threshold", "cumulative"):
                raise OptionError(
                    f"{name} of {type(self).__name__} is a rule on scores, but it chooses tokens together and gives "
                    "them none; use a rule on the tokens, tokenreduce.Budget.energy(0.95, cap=64), a share or a number"
                )

    def choose(self, stream: Stream, keep: int) -> Tensor:
        """Which tokens of each sample stay: indices (B, K), distinct, in the order of choice where :attr:`nested`.

        Args:
            stream: its first ``stream.tokens.prefix`` tokens are protected and not among them.
            keep: K, at most ``stream.tokens.removable``; padding is chosen after all real tokens.
        """
        raise UnfitReducerError(f"{type(self).__name__} does not define choose(stream, keep)")

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens = stream.tokens
        reduction = self.keep_chosen(stream, site)
        if reduction is None or (reduction.count == tokens.count and reduction.valid is None):
            return {}
        return {streams.main: reduction}

    def keep_chosen(self, stream: Stream, site: Site) -> Reduction | None:
        """The reduction to what :meth:`choose` chooses, by the one budget; None where all stay."""
        tokens, budget = stream.tokens, self.budget
        if self.removes_nothing(site, tokens):
            return None
        if budget.rule is None and not tokens.ragged:
            remove = self.count(budget, site, tokens)
            if remove <= 0:
                return None
            return tokens.keep_top(self._rank(stream, tokens.removable - remove), remove=remove)
        cap = budget.cap(site, tokens.removable)
        counts = self.kept_counts(stream, site, torch.zeros_like(tokens.x[..., 0]))
        counts = counts.clamp(max=tokens.own_counts()).clamp(min=min(1, cap), max=cap)
        if self.nested:
            rank = self._rank(stream, cap)
        else:
            rank = tokens.x.new_zeros(tokens.x.shape[:2], dtype=torch.float32)
            for count in sorted(set(counts.tolist())):  # the host waits once
                rank = torch.where((counts == count)[:, None], self._rank(stream, count), rank)
        bucket = None if budget.rule is None else budget.rule.bucket
        return tokens.keep_top(rank, counts=counts, cap=cap, bucket=bucket)

    def _rank(self, stream: Stream, keep: int) -> Tensor:
        """(B, N) K for the first token chosen down to 1 for the last, 0 for all others."""
        x = stream.tokens.x
        chosen = self.choose(stream, keep)
        rank = torch.arange(keep, 0, -1, device=x.device, dtype=torch.float32).expand(chosen.shape)
        return torch.zeros(x.shape[:2], device=x.device).scatter(1, chosen, rank)


def read_layer(backbone: Backbone) -> list[int]:
    """The block before the last: the one whose output language models read of their encoders."""
    return [max(backbone.depth - 2, 0)]


def free_real(stream: Stream) -> Tensor | None:
    """(B, n) False for padding among the tokens that are not protected; None where all are real."""
    tokens = stream.tokens
    return None if tokens.real is None else tokens.real[:, tokens.prefix :]
