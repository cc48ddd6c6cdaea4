"""No reduction, and random drop. Axes: B batch, N tokens."""

from __future__ import annotations

from typing import Any

from ..core.option_checks import check_seed
from ..core.reduction import Reduction
from ..core.site import Site
from ..core.streams import Streams
from .reducer import Reducer
from .saliency import random_score


class NoReduction(Reducer):
    """Changes nothing. It runs through the same engine, so that a comparison sees the reduction alone."""

    def __init__(self) -> None:
        super().__init__(keep=1.0)

    def layers(self, depth: int) -> list[int]:
        return list(range(depth))

    def scaled(self, factor: float, sites: int) -> dict[str, Any]:
        return {}  # many times nothing

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        return {}


class RandomDrop(Reducer):
    """Drop image tokens at random, uniformly, without replacement, for each sample by itself.

    In evaluation the draw is a function of ``seed``, layer and the sample's place in the batch; in training
    it is fresh each time (torch's generator). Padding goes first; protected tokens stay; order is kept.

    Args:
        keep: share of the removable tokens that stay at each site (rounded up), or a list.
        remove: number (int) or share (float, rounded) that go at each site, or a list.
        seed: of the draws in evaluation.
    """

    stochastic = True

    def __init__(self, *, keep: Any = None, remove: Any = None, seed: int = 0) -> None:
        super().__init__(keep=keep, remove=remove)
        self.seed = check_seed(seed)

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        remove = self.remove_count(stream.tokens.removable, site)
        if remove <= 0:
            return {}
        score = random_score(stream, site, self.seed)
        return {streams.main: stream.tokens.keep_top(score, remove=remove)}
