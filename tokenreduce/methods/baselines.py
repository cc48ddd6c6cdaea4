"""No reduction, and random drop. Axes: B batch, N tokens."""

from __future__ import annotations

from ..core.option_checks import check_seed
from ..core.reduction import Reduction
from ..core.site import Site
from ..core.streams import Streams
from .backbone import Backbone
from .reducer import BaseReducer, Reducer
from .saliency import random_score


class NoReduction(BaseReducer):
    """Changes nothing. It runs through the same engine, so that a comparison sees the reduction alone."""

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def scaled(self, factor: float, sites: int) -> NoReduction:
        return self  # many times nothing

    def idle(self, site: Site) -> bool:
        return True

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        return {}


class RandomDrop(Reducer):
    """Drop image tokens at random, uniformly, without replacement, for each sample by itself.

    In evaluation the draw is a function of ``seed``, layer and the sample's place in the batch; in training
    it is fresh each time (torch's generator). Padding goes first; protected tokens stay; order is kept.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``), by which each sample keeps a number of its own.
        remove: number (int) or share (float, rounded) that go at each site, a list, or ``(r, inflection)``.
        seed: of the draws in evaluation.
    """

    seed: int = 0

    stochastic = True
    by_sample = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        reduction = self.keep_top(stream, site, lambda: random_score(stream, site, self.seed))
        return {} if reduction is None else {streams.main: reduction}
