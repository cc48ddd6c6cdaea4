"""Several reducers as one: at each site those that act there run one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.composition import join
from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.site import Site
from ..core.streams import Streams
from ..errors import OptionError, UnfitReducerError, UnsupportedCallError
from ..registry.registry import default_registry
from .backbone import Backbone
from .baselines import NoReduction
from .contract import check_reductions
from .part import Part
from .reducer import BaseReducer
from .site_reducer import SiteReducer
from .wrapper import BoundWrapper, WrapperReducer

Chosen = dict[str, "Reduction | Gate"]
APART = "let the parts of the chain act in different layers"


def chain(*parts: str | BaseReducer | Mapping[str, Any]) -> Chain:
    """A reducer that runs others one after the other, for :func:`tokenreduce.attach` like any other.

    Args:
        *parts: names, reducers, or ``{"reducer": name, "layers": [...], **options}``. Each acts in its own layers;
            where several act in one layer, the next one sees the tokens that the one before leaves.

    Raises:
        OptionError: no parts, or a part that is none of these.
    """
    return Chain(parts=parts)


class Chain(WrapperReducer):
    """What :func:`tokenreduce.chain` makes.

    At a site the tokens of the next part are those that the part before leaves, with the signals of this block: a kept
    token has its own, a merged one the mean of its members', weighted as its features are. The reductions become one,
    so trace, record and restored tokens are as of one reducer. Parts with weights to learn, and parts that act in
    different positions of a block, are refused when the chain is attached.

    Args:
        parts: as :func:`tokenreduce.chain` takes them.
    """

    parts: Sequence[Any] = ()

    def __post_init__(self) -> None:
        parts = self.parts
        if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence) or not parts:
            raise OptionError(
                f"a chain needs parts: chain('name', {{'reducer': 'name', 'layers': [2]}}), got {parts!r}"
            )
        object.__setattr__(self, "parts", tuple(Part.of(part) for part in parts))

    @property
    def inside(self) -> Sequence[SiteReducer]:
        return tuple(part.reducer for part in self.parts)

    def options(self) -> dict[str, Any]:
        return {"parts": [part.config() for part in self.parts]}

    def within(self, layers: Sequence[int]) -> Chain:
        idle = [layer for layer in layers if all(part.layers and layer not in part.layers for part in self.parts)]
        if idle:
            raise OptionError(f"no part of {self!r} acts in layers {idle}; leave them out of layers=")
        return replace(self, parts=[part.within(layers) for part in self.parts])

    def at(self, layer: int) -> Chain:
        return replace(self, parts=[part for part in self.parts if part.layers is None or layer in part.layers])

    def layers(self, backbone: Backbone) -> list[int]:
        return sorted({layer for part in self.parts for layer in part.placed(backbone)})

    def check_sites(self, sites: int) -> None:
        ragged = None
        for part in self.parts:
            part.reducer.check_sites(sites if part.layers is None else len(part.layers))
            ragged = ragged or (part.name if part.reducer.ragged else None)
        for part in self.parts if ragged else ():
            if not (part.reducer.by_sample or isinstance(part.reducer, NoReduction)):
                raise OptionError(
                    f"{ragged} keeps different numbers of tokens in different samples, and {part.name} takes the same "
                    f"number from all; give {ragged} a share or a number, or chain it with methods that rank tokens"
                )

    def bind(self, backbone: Backbone) -> BoundChain:
        parts, inside = [], []
        for number, part in enumerate(self.parts, 1):
            layers = part.placed(backbone)
            try:
                with default_registry().blame("reducer", part.name):
                    bound = part.reducer.within(layers).bind(replace(backbone, sites=len(layers)))
            except UnfitReducerError as error:
                raise UnfitReducerError(f"part {number} of the chain, {part.name}: {error}") from error
            parts.append(Part(bound.reducer, part.name, layers))
            inside.append(bound)
        return BoundChain(replace(self, parts=parts), inside)

    def scaled(self, factor: float, sites: int) -> Chain:
        """Every part scaled by its own budgets."""
        parts = [
            replace(part, reducer=part.reducer.scaled(factor, sites if part.layers is None else len(part.layers)))
            for part in self.parts
        ]
        return replace(self, parts=parts)

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.parts))})"


class BoundChain(BoundWrapper):
    """A chain on one model."""

    def reduce_streams(self, streams: Streams, site: Site) -> Chosen:
        whole: Chosen = {}
        chosen: Mapping[str, Reduction | Gate] = {}
        for part, active in zip(self.reducer.parts, self.inside, strict=True):
            own = part.site(site)
            if own is None:
                continue
            reductions = {name: value for name, value in chosen.items() if isinstance(value, Reduction)}
            if reductions:
                streams = streams.after(reductions)
            chosen = active.reduce_streams(streams, own)
            check_reductions(chosen, streams, active)
            whole = compose(whole, chosen, streams, part.name)
        return whole

    def __repr__(self) -> str:
        return repr(self.reducer)


def compose(whole: Chosen, chosen: Mapping[str, Reduction | Gate], streams: Streams, name: str) -> Chosen:
    """What was chosen so far, and then what a part chose on the ``streams`` that this left, as one choice.

    Raises:
        UnsupportedCallError: the two cannot be one.
    """
    both, rest, sequence = dict(whole), dict(chosen), streams.sequence
    if sequence is not None and rest and sequence in both:
        raise UnsupportedCallError(f"{name} comes after {sequence} was reduced as one sequence; {APART}")
    if sequence is not None and sequence in rest and both:
        if set(both) - {streams.main}:
            raise UnsupportedCallError(f"{name} reduces {sequence} as one sequence, after parts of it were; {APART}")
        parts = [both.get(stream) or streams[stream].tokens.identity() for stream in streams.numbers]
        gate = next((part for part in parts if isinstance(part, Gate)), None)
        before = gate or join([part for part in parts if isinstance(part, Reduction)])
        return {sequence: _then(before, rest[sequence], name)}
    for stream, value in rest.items():
        both[stream] = _then(both[stream], value, name) if stream in both else value
    return both


def _then(first: Reduction | Gate, later: Reduction | Gate, name: str) -> Reduction:
    if isinstance(first, Gate) or isinstance(later, Gate):
        raise UnsupportedCallError(f"{name} meets a gate on the same stream, and gates do not compose; {APART}")
    return first.then(later)
