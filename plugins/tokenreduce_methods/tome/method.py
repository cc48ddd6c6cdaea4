"""Token merging. Axes: B batch, N tokens, C width, r merged."""

from __future__ import annotations

from typing import Any

from tokenreduce import Reducer
from tokenreduce.errors import OptionError
from tokenreduce.methods import Reduction, Signals, Site, Tokens, constant_or_ramp, spread_counts
from tokenreduce.ops import bipartite


class ToMe(Reducer):
    """Merge similar tokens by bipartite soft matching on keys; merged values are means weighted by size.

    Source: Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, arXiv 2210.09461, section 3.
    Where this differs: padding (which the published code does not know) is removed before anything merges;
    any number of protected tokens in front, not only class and distillation.

    Args:
        r: tokens to merge per block: a count, ``(r, inflection)`` with inflection in -1..1, or a list. At
            most half of the unprotected tokens go at one site.
        proportional_attention: let attention count a merged token by its size (as published off the shelf).
    """

    needs = frozenset({"keys"})

    def __init__(self, *, r: Any = 13, proportional_attention: bool = True) -> None:
        super().__init__(keep=1.0)
        constant_or_ramp(r, len(r) if isinstance(r, list) else 12)
        if not isinstance(proportional_attention, bool):
            raise OptionError(f"proportional_attention must be True or False, got {proportional_attention!r}")
        self.r, self.proportional_attention = r, proportional_attention

    def options(self) -> dict[str, Any]:
        pair = {"r": self.r[0], "inflection": self.r[1]} if isinstance(self.r, tuple) else self.r
        return {"r": pair, "proportional_attention": self.proportional_attention}

    def layers(self, depth: int) -> list[int]:
        return list(range(depth))

    def check_sites(self, sites: int) -> None:
        constant_or_ramp(self.r, sites)

    def scaled(self, factor: float, sites: int) -> dict[str, Any]:
        """``r`` as a list with the shape of the schedule in force and that many times its sum."""
        counts = constant_or_ramp(self.r, sites)
        return {"r": spread_counts(factor * sum(counts), counts)}

    def remove_count(self, removable: int, site: Site) -> int:
        return min(constant_or_ramp(self.r, site.total)[site.index], removable // 2)

    def reduce(self, tokens: Tokens, signals: Signals, remove: int) -> Reduction:
        keep, source, target = bipartite(signals.keys, remove, prefix=tokens.prefix, real=tokens.real)
        size = tokens.sizes()
        return Reduction(
            keep,
            source,
            target,
            length=tokens.count,
            keep_weight=size.gather(1, keep),
            weight=size.gather(1, source),
            partial=tokens.real is not None,
        )
