"""PuMer: its options, published settings, and what they come to on a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import (
    NEEDS,
    Backbone,
    BaseReducer,
    Budget,
    alternatives,
    check_ratio,
    check_seed,
    resolve,
    spaced_layers,
)

from .reduction import BoundPuMer

RATIOS = ("prune", "merge", "text_merge")
Share = float | Sequence[float]  # everywhere, or one per site


@dataclass(frozen=True)
class Published:
    """A published setting: the three ratios, and the layers of how many it acts in."""

    prune: float
    merge: float
    text_merge: float
    layers: Sequence[int]
    depth: int
    last: bool  # whether layers are counted from the end of the layer when carried over to another depth


ONE_SEQUENCE = Published(0.1, 0.3, 0.2, (2, 5, 8), 12, True)  # ViLT, VQAv2
TWO_SEQUENCES = Published(0.2, 0.2, 0.2, (0, 1, 2, 3), 6, False)  # METER, VQAv2; published as layers 0, 2, 4, 6


class PuMer(BaseReducer):
    """Prune image tokens by text attention, merge the survivors among themselves, merge text tokens likewise.

    All ratios are relative to the stream's length on entry to the site, class tokens counted; counts are
    rounded half to even. Survivors stand in falling order of saliency, the two merges are plain means
    (sizes are not carried into them), and the first token is never merged, all as published: the
    highest-scored survivor, or the class token where one is protected.

    Source: Cao, Paranjape, Hajishirzi, PuMer: Pruning and Merging Tokens for Efficient Vision Language
    Models, ACL 2023, arXiv 2305.17530. Where this differs: on padded input, padded text does not vote, padding
    is removed before real tokens and merges with nothing. Published code for ViLT also skips a site without any
    merging where ``round(prune * N)`` is 0; so does this where all tokens stand in one sequence, but not for
    ``prune=0``. Published code for METER prunes nothing where ``merge`` is 0; this does. METER's head reads the
    image's class token, which published code lets go; see ``protect_class``.

    Where text and image stand in two sequences it acts in the block where text attends to the image: image keys
    and text attention are those of the cross-attention, text keys those of the text's self-attention.

    Args:
        prune: share of image tokens pruned at each site, in [0, 1), or a list with one per site (0 at sites beyond
            it). None for the published share: 0.1 where text and image stand in one sequence (and without text), 0.2
            where they stand in two.
        merge: share of image tokens merged at each site, in [0, 1], or a list likewise. None for the published
            share: 0.3 or 0.2.
        text_merge: share of text tokens merged at each site, in [0, 1], or a list likewise. None for the published
            share: 0.2.
        saliency: what pruning goes by: ``"text"`` (default where the backbone crosses modalities), ``"class"`` (default
            elsewhere; of the token that the head reads where there is no class token), ``"readout"``, ``"key-norm"`` or
            ``"random"``.
        protect_class: keep the image's class token in front where the head reads it (METER, CLIP, ViT). False is
            the published behaviour: an ordinary token, and the head reads whichever token comes first in PuMer's order.
        modality_aware: merge within each modality; False merges the same number of tokens over both together.
        seed: for ``saliency="random"``.
    """

    prune: Share | None = None
    merge: Share | None = None
    text_merge: Share | None = None
    saliency: str | None = None
    protect_class: bool = True
    modality_aware: bool = True
    seed: int = 0

    streams = ("text", "image")

    def __post_init__(self) -> None:
        for name in RATIOS:
            value = getattr(self, name)
            for one in value if isinstance(value, (list, tuple)) else () if value is None else (value,):
                if check_ratio(name, one) == 1 and name == "prune":
                    raise OptionError("prune must be a number in [0, 1), got 1")
        if self.saliency is not None and self.saliency not in NEEDS:
            raise OptionError(f"saliency must be one of {', '.join(map(repr, NEEDS))} or None, got {self.saliency!r}")
        for name in ("modality_aware", "protect_class"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_seed(self.seed)
        super().__post_init__()

    @property
    def needs(self) -> Collection[str]:
        return {"keys"} | (NEEDS[self.saliency] if self.saliency and self.prune != 0 else frozenset())

    @property
    def stochastic(self) -> bool:
        return self.saliency == "random"

    def budgets(self) -> dict[str, Budget]:
        given = {name: getattr(self, name) for name in RATIOS}
        return {
            name: Budget(remove=shares(value), limit=0.99 if name == "prune" else 1.0)
            for name, value in given.items()
            if value is not None
        }

    def layers(self, backbone: Backbone) -> list[int]:
        published = published_for(backbone)
        return spaced_layers(published.layers, backbone.depth, base=published.depth, last=published.last)

    def bind(self, backbone: Backbone) -> BoundPuMer:
        published = published_for(backbone)
        ratios = {name: getattr(published if getattr(self, name) is None else self, name) for name in RATIOS}
        kind, notes = self._measure(backbone, prunes=ratios["prune"] != 0)
        if not self.modality_aware and not backbone.one_sequence:
            raise UnfitReducerError(
                f"modality_aware=False needs text and image in one sequence, {backbone.model} has only "
                f"{', '.join(backbone.streams)} in its stack {backbone.stack!r}; leave it True."
            )
        resolved = replace(self, **ratios, saliency=kind)
        resolved.check_needs(backbone)
        return BoundPuMer(resolved, published == ONE_SEQUENCE, notes)

    def _measure(self, backbone: Backbone, prunes: bool) -> tuple[str | None, tuple[str, ...]]:
        """What pruning goes by on a backbone, and what is to be said of it."""
        if self.saliency is not None:
            crosses = (
                len(backbone.streams) > 1 and not backbone.one_sequence
            )  # there it acts where text attends to the image
            return "readout" if self.saliency == "class" and crosses else resolve(self.saliency, backbone.provides), ()
        fallback = [kind for kind in ("text", "class") if NEEDS[resolve(kind, backbone.provides)] <= backbone.provides]
        if not fallback:
            if not prunes:
                return None, ()
            hint = alternatives(backbone.provides, backbone.guidable)
            raise UnfitReducerError(
                f"PuMer prunes by text or class attention, {backbone.model} provides neither in its stack "
                f"{backbone.stack!r}; pass {hint}, or prune=0 to merge alone."
            )
        if fallback != ["class"]:
            return "text", ()
        hint = "; handle.guide(text_features) lets a text say what matters" if backbone.guidable else ""
        note = f"no text crosses this stack: PuMer prunes by class-token attention here{hint}"
        return resolve("class", backbone.provides), (note,)


def published_for(backbone: Backbone) -> Published:
    """The published setting for text and image in one sequence (and for an image alone), or in two."""
    return TWO_SEQUENCES if len(backbone.streams) > 1 and not backbone.one_sequence else ONE_SEQUENCE


def shares(value: Share) -> float | list[float]:
    """Shares as floats: 0 and 1 are none and all, not numbers of tokens."""
    return float(value) if isinstance(value, (int, float)) else [float(one) for one in value]
