"""Retrieval of texts by pictures and of pictures by texts. Axes: N pictures, B of a batch, K texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from .batches import Target
from .scoring import logits_of

CUTOFFS = (1, 5, 10)


class WholeMetric:
    """A metric that needs the outputs of all samples before it can score one."""

    def keep(self, output: Any, targets: Any) -> Any:
        """What is needed of a batch."""
        raise OptionError(f"{type(self).__name__} does not define keep(output, targets)")

    def finish(self, kept: Sequence[Any]) -> Tensor:
        """(N,) score of every sample, from what was kept of each batch in order."""
        raise OptionError(f"{type(self).__name__} does not define finish(kept)")

    def __call__(self, output: Any, targets: Any) -> Tensor:
        """Scores of a batch as if it were all the data."""
        return self.finish([self.keep(output, targets)])


class ImageRecall(WholeMetric):
    """R@k of pictures: of each picture the share of its captions for which it is among the k best of all pictures.

    With equally many captions for every picture the mean is that over captions, as papers state it. Of equal scores the
    earlier picture goes first.

    Args:
        texts: of the columns of the model's scores.
        k: how many are looked at.
    """

    def __init__(self, texts: Sequence[str], k: int) -> None:
        self.place = {text: column for column, text in enumerate(texts)}
        self.k = k

    def keep(self, output: Any, targets: Sequence[Target]) -> Any:
        """Scores (B, K) on the host, and the columns of each picture's own captions."""
        own = [sorted({self.place[text] for text in right(target)}) for target in targets]
        return logits_of(output).detach().float().cpu(), own

    def finish(self, kept: Sequence[Any]) -> Tensor:
        scores = torch.cat([part for part, _ in kept])
        owners = [columns for _, own in kept for columns in own]
        order = scores.argsort(dim=0, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank.scatter_(0, order, torch.arange(len(scores))[:, None].expand_as(order))
        found = [
            sum(int(rank[i, c]) < self.k for c in columns) / max(len(columns), 1) for i, columns in enumerate(owners)
        ]
        return torch.tensor(found)


class TextRecall:
    """R@k of texts: 1 where a right text is among the k best of all texts for a picture.

    Of equal scores the earlier text goes first.

    Args:
        texts: of the columns of the model's scores.
        k: how many are looked at.
    """

    def __init__(self, texts: Sequence[str], k: int) -> None:
        self.place = {text: column for column, text in enumerate(texts)}
        self.k = k

    def __call__(self, output: Any, targets: Sequence[Target]) -> Tensor:
        """(B,)."""
        scores = logits_of(output)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : self.k].tolist()
        own = [{self.place[text] for text in right(target)} for target in targets]
        return scores.new_tensor([float(bool(mine & set(row))) for mine, row in zip(own, best, strict=True)])


def right(target: Target) -> tuple[str, ...]:
    """The texts that are right for a picture: its answers, or its caption."""
    return target.answers or ((target.text,) if target.text else ())


def recalls(texts: Sequence[str]) -> Mapping[str, Any]:
    """R@1, R@5 and R@10 in both directions, by name."""
    found: dict[str, Any] = {f"text R@{k}": TextRecall(texts, k) for k in CUTOFFS}
    return {**found, **{f"image R@{k}": ImageRecall(texts, k) for k in CUTOFFS}}
