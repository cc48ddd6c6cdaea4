"""Several reducers as one: at each site those that act there run one after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.gate import Gate
from ..core.reduction import Reduction, join
from ..core.site import Site
from ..core.streams import Streams
from ..errors import OptionError, UnfitReducerError, UnsupportedCallError
from .backbone import Backbone
from .contract import check_reductions
from .part import Part
from .reducer import Reducer

Chosen = dict[str, "Reduction | Gate"]
APART = "let the parts of the chain act in different layers"


def chain(*parts: str | Reducer | Mapping[str, Any]) -> Chain:
    """A reducer that runs others one after the other, for :func:`tokenreduce.attach` like any other.

    Args:
        *parts: names, reducers, or ``{"reducer": name, "layers": [...], **options}``. Each acts in its own layers;
            where several act in one layer, the next one sees the tokens that the one before leaves.

    Raises:
        OptionError: no parts, or a part that is none of these.
        UnfitReducerError: a part has weights to learn, or acts elsewhere in a block than the others.
    """
    return Chain(parts=parts)


class Chain(Reducer):
    """What :func:`tokenreduce.chain` makes.

    At a site the tokens of the next part are those that the part before leaves, with the signals of this block: a kept
    token has its own, a merged one the mean of its members', weighted as its features are. The reductions become one,
    so trace, report and restored tokens are as of one reducer.

    Args:
        parts: as :func:`tokenreduce.chain` takes them.
    """

    def __init__(self, *, parts: Sequence[Any] = ()) -> None:
        super().__init__(keep=1.0)
        if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence) or not parts:
            raise OptionError(
                f"a chain needs parts: chain('name', {{'reducer': 'name', 'layers': [2]}}), got {parts!r}"
            )
        self._put([Part.of(part) for part in parts])

    def _put(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.speak_for(*(part.reducer for part in parts))

    def _with(self, parts: Sequence[Part]) -> Chain:
        other = copy.copy(self)
        other._put(parts)
        return other

    def options(self) -> dict[str, Any]:
        return {"parts": [part.config() for part in self.parts]}

    def changed(self, **options: Any) -> Reducer:
        """As of every reducer; parts of the same names keep their classes, which need no name of their own then."""
        configs = options.get("parts", [])
        names = [config.get("reducer") if isinstance(config, Mapping) else None for config in configs]
        if [part.name for part in self.parts] != names:
            return super().changed(**options)
        return self._with([part.changed(config) for part, config in zip(self.parts, configs, strict=True)])

    def within(self, layers: Sequence[int]) -> Chain:
        idle = [layer for layer in layers if all(part.layers and layer not in part.layers for part in self.parts)]
        if idle:
            raise OptionError(f"no part of {self!r} acts in layers {idle}; leave them out of layers=")
        return self._with([part.within(layers) for part in self.parts])

    def bind(self, backbone: Backbone) -> Chain:
        parts = []
        for number, part in enumerate(self.parts, 1):
            try:
                parts.append(part.bound(backbone))
            except UnfitReducerError as error:
                raise UnfitReducerError(f"part {number} of the chain, {part.name}: {error}") from error
        return self._with(parts)

    def layers(self, depth: int) -> list[int]:
        return sorted({n for part in self.parts for n in part.layers or part.reducer.layers(depth)})

    def check_sites(self, sites: int) -> None:
        for part in self.parts:
            part.reducer.check_sites(sites if part.layers is None else len(part.layers))

    def at(self, layer: int) -> Chain:
        return self._with([there for part in self.parts if (there := part.at(layer)) is not None])

    def scaled(self, factor: float, sites: int) -> dict[str, Any]:
        """Every part scaled by its own knob."""
        return {"parts": [part.scaled(factor).config() for part in self.parts]}

    def reduce_streams(self, streams: Streams, site: Site) -> Chosen:
        whole: Chosen = {}
        chosen: Mapping[str, Reduction | Gate] = {}
        for part in self.parts:
            own = part.site(site)
            if own is None:
                continue
            reductions = {name: value for name, value in chosen.items() if isinstance(value, Reduction)}
            if reductions:
                streams = streams.after(reductions)
            chosen = part.reducer.reduce_streams(streams, own)
            check_reductions(chosen, streams, part.reducer)
            whole = compose(whole, chosen, streams, part.name)
        return whole

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.parts))})"


def compose(whole: Chosen, chosen: Mapping[str, Reduction | Gate], streams: Streams, name: str) -> Chosen:
    """What was chosen so far, and then what a part chose on the ``streams`` that this left, as one choice.

    Raises:
        UnsupportedCallError: the two cannot be one.
    """
    both, rest = dict(whole), dict(chosen)
    if rest and "joint" in both:
        raise UnsupportedCallError(f"{name} comes after text and image were reduced as one sequence; {APART}")
    if "joint" in rest and both:
        if set(both) - {"image"}:
            raise UnsupportedCallError(f"{name} reduces text and image as one sequence, after text alone was; {APART}")
        parts = [both.get(stream) or value.tokens.identity() for stream, value in streams.items()]
        alone = [part for part in parts if isinstance(part, Reduction)]
        gate = next((part for part in parts if isinstance(part, Gate)), None)
        return {"joint": _then(gate or join(alone), rest["joint"], name)}
    for stream, value in rest.items():
        both[stream] = _then(both[stream], value, name) if stream in both else value
    return both


def _then(first: Reduction | Gate, later: Reduction | Gate, name: str) -> Reduction:
    if isinstance(first, Gate) or isinstance(later, Gate):
        raise UnsupportedCallError(f"{name} meets a gate on the same stream, and gates do not compose; {APART}")
    return first.then(later)
