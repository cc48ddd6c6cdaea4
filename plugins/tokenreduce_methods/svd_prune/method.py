"""Leverage scores. Axes: B batch, N tokens, C width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    Backbone,
    Reducer,
    Reduction,
    Site,
    Stream,
    Streams,
    check_features,
    check_ratio,
    features_of,
    features_on,
)
from tokenreduce.ops import leverage


class SVDPrune(Reducer):
    """Keep the tokens with the highest leverage in the leading left singular vectors of an image's tokens.

    With the thin SVD ``X = U S V^T`` of the tokens and the smallest r that holds the share ``energy`` of the squared
    singular values, the score of token t is ``(1 / r) * sum_{j <= r} U_tj ** 2``. Scores sum to one; no sign, rotation
    or scale changes them. Nothing merges and order is kept. U comes from the eigenvectors of the Gram matrix, in
    float64; V is never made.

    Source: SVD-Prune, arXiv 2604.11530, abstract: "statistical leverage scores". The authors' code was not public and
    no table was at hand, so what the abstract leaves open is defined here: which features, no centring, the share of
    the energy (0.9, as third-party code has it), a fixed number of tokens by default.

    Args:
        keep: share of the removable tokens that stay (float, rounded up) or their number (int), or a list per site; or
            a rule: ``tokenreduce.Budget.cumulative(0.9, cap=192)`` keeps, in each image, the fewest tokens that
            together hold that share of the leverage. 0.25 where neither is given.
        remove: what goes, likewise; or ``(r, inflection)``.
        energy: share of the squared singular values that the leading directions hold, in (0, 1].
        centre: subtract the mean token first.
        features: ``"encoder"``: what the encoder gives; ``"projected"``: what the projector makes of it, at the
            hand-over to a language model; ``"tokens"``: those at the site, whichever they are. On an encoder alone
            ``"encoder"`` means the tokens at the site.
    """

    energy: float = 0.9
    centre: bool = False
    features: str = "encoder"

    by_sample = True

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 0.25)
        super().__post_init__()
        check_ratio("energy", self.energy, open_low=True)
        check_features(self.features)
        if not isinstance(self.centre, bool):
            raise OptionError(f"centre must be True or False, got {self.centre!r}")

    @property
    def needs(self) -> Collection[str]:
        return {"encoder_features"} if self.features == "encoder" else set()

    def layers(self, backbone: Backbone) -> list[int]:
        """The block before the last: the one that language models read."""
        if any(budget.per_site for budget in self.budgets().values()):
            return super().layers(backbone)
        return [max(backbone.depth - 2, 0)]

    def bind(self, backbone: Backbone) -> SVDPrune:
        bound = replace(self, features=features_on(backbone, self.features, "svd-prune"))
        bound.check_needs(backbone)
        return bound

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        reduction = self.keep_top(stream, site, lambda: self._score(stream))
        return {} if reduction is None else {streams.main: reduction}

    def _score(self, stream: Stream) -> Tensor:
        x, real = features_of(stream, self.features)
        score = leverage(x, self.energy, centre=self.centre, real=real)
        return torch.cat([score.new_zeros(score.shape[0], stream.tokens.prefix), score], dim=1)
