"""Token fusion. Axes: B batch, N tokens, r removed."""

from __future__ import annotations

from typing import Any

from tokenreduce.errors import OptionError
from tokenreduce.methods import Backbone, BaseReducer, Budget, Reduction, Site, Streams, Tokens
from tokenreduce.ops import bipartite

from .mlerp import mlerp


class ToFu(BaseReducer):
    """Pair similar tokens as ToMe does; drop one of each pair in early layers, merge the two in later ones.

    Early layers answer to a mean of two tokens with something else than the mean of two answers, so there the other
    token of a pair stays as it is. Later layers are close to linear, so there pairs merge (MLERP): the result points as
    their mean does, weighted by size, and is as long as the longest of them, where a plain mean would be shorter.

    Source: Kim et al., Token Fusion: Bridging the Gap between Token Pruning and Token Merging, WACV 2024, arXiv
    2312.01026, section 3. Where this differs: the layer from which pairs merge is an option, by default half of the
    depth; padding is removed before anything else; any number of protected tokens in front, not only the class token.

    Args:
        r: tokens to remove per block: a count, ``(r, inflection)`` with inflection in -1..1, or a list. At most half of
            the unprotected tokens go at one site.
        merge_from: the first layer (counted from 0) in which pairs merge: 0 merges everywhere, the depth of the stack
            nowhere. None for half of the depth, rounded down.
        preserve_norm: merge by MLERP; False merges to plain means, weighted by size.
        proportional_attention: let attention count a merged token by its size.
    """

    r: Any = 13
    merge_from: int | None = None
    preserve_norm: bool = True
    proportional_attention: bool = True

    needs = frozenset({"keys"})

    def __post_init__(self) -> None:
        super().__post_init__()
        layer = self.merge_from
        if layer is not None and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 0):
            raise OptionError(f"merge_from must be a non-negative integer or None, got {layer!r}")
        for name in ("preserve_norm", "proportional_attention"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def budgets(self) -> dict[str, Budget]:
        return {"r": Budget.of("ramp", self.r)}

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def count(self, budget: Budget, site: Site, tokens: Tokens) -> int:
        return min(budget.at(site, tokens.removable), tokens.removable // 2)

    def merges(self, site: Site) -> bool:
        """Whether pairs merge in a layer, rather than lose one of them."""
        return site.layer >= (site.depth // 2 if self.merge_from is None else self.merge_from)

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens = stream.tokens
        remove = self.count(self.budget, site, tokens)
        if remove <= 0:
            return {}
        keep, source, target = bipartite(stream.signals.keys, remove, prefix=tokens.prefix, real=tokens.real)
        if not self.merges(site):
            return {streams.main: Reduction(keep, length=tokens.count)}
        partial = tokens.real is not None
        merged = Reduction(keep, source, target, length=tokens.count, size=tokens.sizes(), partial=partial)
        return {streams.main: mlerp(merged, tokens.x) if self.preserve_norm else merged}
