"""Token merging. Axes: B batch, N tokens, C width, r merged."""

from __future__ import annotations

from typing import Any

from tokenreduce.errors import OptionError
from tokenreduce.methods import Backbone, BaseReducer, Budget, Reduction, Signals, Site, Tokens
from tokenreduce.ops import bipartite


class ToMe(BaseReducer):
    """Merge similar tokens by bipartite soft matching on keys; merged values are means weighted by size.

    Source: Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, arXiv 2210.09461, section 3.
    Where this differs: padding (which the published code does not know) is removed before anything merges;
    any number of protected tokens in front, not only class and distillation.

    Args:
        r: tokens to merge per block: a count, ``(r, inflection)`` with inflection in -1..1, or a list. At
            most half of the unprotected tokens go at one site.
        proportional_attention: let attention count a merged token by its size (as published off the shelf).
    """

    r: Any = 13
    proportional_attention: bool = True

    needs = frozenset({"keys"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.proportional_attention, bool):
            raise OptionError(f"proportional_attention must be True or False, got {self.proportional_attention!r}")

    def budgets(self) -> dict[str, Budget]:
        return {"r": Budget.of("ramp", self.r)}

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def count(self, budget: Budget, site: Site, tokens: Tokens) -> int:
        return min(budget.at(site, tokens.removable), tokens.removable // 2)

    def idle(self, site: Site) -> bool:
        return self.budget.idle(site)

    def reduce(self, tokens: Tokens, signals: Signals, remove: int) -> Reduction:
        keep, source, target = bipartite(signals.keys, remove, prefix=tokens.prefix, real=tokens.real)
        partial = tokens.real is not None
        return Reduction(keep, source, target, length=tokens.count, size=tokens.sizes(), partial=partial)
