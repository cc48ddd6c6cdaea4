"""The base class of every method.

A method is about ten lines:

    class KeyNorm(tokenreduce.Reducer):
        needs = {"keys"}

        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(signals.keys.norm(dim=-1), remove=remove)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from ..core.budget import per_site, spaced
from ..core.gate import Gate
from ..core.option_checks import check_ratio
from ..core.reduction import Reduction
from ..core.signals import SIGNALS, Signals
from ..core.site import Site
from ..core.streams import Streams
from ..core.tokens import Tokens
from ..errors import OptionError, UnfitReducerError
from .backbone import Backbone


class Reducer:
    """A token-reduction method; subclass it and write :meth:`reduce`, or :meth:`reduce_streams` for more.

    The base class brings two options, ``keep`` (share of removable tokens that stay at each site) and
    ``remove`` (number, or share, that go), each a value or a list with one value per acting site.
    Every option is a keyword argument of ``__init__``, stored under its own name and JSON-able.

    A learnable reducer derives from ``Reducer`` and ``nn.Module``, in this order, and makes its weights in
    :meth:`build`. While attached it is the submodule ``tokenreduce`` of the stack it acts in, so that optimizers,
    ``state_dict``, ``.to()`` and wrappers for several processes see it.

    Attributes:
        needs: the signals it reads: any of ``"keys"``, ``"class_attention"``, ``"text_attention"``.
        streams: the streams it reduces; it acts in the block of a layer that updates the first of them.
        position: where in a block it acts: ``"after_attention"``, between attention and MLP, or ``"before_block"``,
            where there are no signals.
        proportional_attention: have attention count a merged token as often as its size (adds log size).
        stochastic: whether what goes depends on a draw; an ablation then runs several seeds (of the option ``seed``
            if there is one, and of torch's generator).
        notes: remarks for the user, shown by the handle.
    """

    needs: Collection[str] = frozenset()
    streams: tuple[str, ...] = ("image",)
    position: str = "after_attention"
    proportional_attention: bool = False
    stochastic: bool = False
    notes: tuple[str, ...] = ()
    default_layers: ClassVar[tuple[int, ...]] = (3, 6, 9)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if nn.Module in order and order.index(nn.Module) < order.index(Reducer):
            raise UnfitReducerError(f"write class {cls.__name__}(Reducer, nn.Module), Reducer first; got it second")

    def __init__(self, *, keep: Any = None, remove: Any = None) -> None:
        super().__init__()
        if keep is not None and remove is not None:
            raise OptionError("give 'keep' or 'remove', not both")
        if keep is None and remove is None:
            keep = 0.7
        for value in keep if isinstance(keep, (list, tuple)) else [] if keep is None else [keep]:
            check_ratio("keep", value, open_low=True)
        for value in remove if isinstance(remove, (list, tuple)) else [] if remove is None else [remove]:
            if isinstance(value, float):
                check_ratio("remove", value)
            elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise OptionError(f"remove is a count of 0 and more or a share in [0, 1], got {value!r}")
        self.keep, self.remove = keep, remove

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """The options and their defaults, read off ``__init__``."""
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}

    def options(self) -> dict[str, Any]:
        """The options in force, JSON-able; ``type(self)(**options)`` makes the same reducer."""
        values = {name: getattr(self, name) for name in self.option_defaults()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def changed(self, **options: Any) -> Reducer:
        """A reducer of the same kind with some options changed."""
        return type(self)(**{**self.options(), **options})

    def speak_for(self, *others: Reducer) -> None:
        """Take over what the engine reads off reducers that this one runs, such as their ``needs``.

        One that wraps others calls it in ``__init__`` and, in its copy, in :meth:`bind`.

        Raises:
            UnfitReducerError: one has weights to learn, which would be lost here, or they act in different places.
        """
        for other in others:
            if isinstance(other, nn.Module) and not isinstance(self, nn.Module):
                raise UnfitReducerError(
                    f"{type(other).__name__} has weights to learn and cannot act inside {type(self).__name__}, which "
                    "is no nn.Module; attach it by itself, or to a stack of its own: {stack: reducer, ...}"
                )
        if len({other.position for other in others}) > 1:
            told = ", ".join(f"{type(other).__name__} {other.position}" for other in others)
            raise UnfitReducerError(f"reducers that act together act in one place of a block; got {told}")
        self.needs = frozenset[str]().union(*(other.needs for other in others))
        self.streams = tuple(dict.fromkeys(name for other in others for name in other.streams))
        self.position = next((other.position for other in others), self.position)
        self.proportional_attention = any(other.proportional_attention for other in others)
        self.stochastic = any(other.stochastic for other in others)
        self.notes = tuple(dict.fromkeys(note for other in others for note in other.notes))

    def within(self, layers: Sequence[int]) -> Reducer:
        """The reducer for layers that the user names in place of :meth:`layers`: itself; a chain tells its parts."""
        return self

    def at(self, layer: int) -> Reducer:
        """What acts in a layer: itself; of a chain, the parts that act there."""
        return self

    def layers(self, depth: int) -> list[int]:
        """The blocks it acts in when the user names none."""
        if isinstance(self.keep, (list, tuple)) or isinstance(self.remove, (list, tuple)):
            return list(range(depth))
        return spaced(self.default_layers, depth)

    def check_sites(self, sites: int) -> None:
        """Raise :class:`OptionError` when a per-site option does not fit the number of acting sites."""
        per_site(self.keep if self.keep is not None else self.remove, sites, "keep or remove", 1.0)

    def bind(self, backbone: Backbone) -> Reducer:
        """The reducer for this backbone: itself, or a copy with open options settled.

        Raises:
            UnfitReducerError: the backbone does not provide what it needs.
        """
        own = type(self)
        if own.reduce is Reducer.reduce and own.reduce_streams is Reducer.reduce_streams:
            raise UnfitReducerError(f"{own.__name__} defines neither reduce(...) nor reduce_streams(...); write one")
        missing = frozenset(self.needs) - backbone.provides
        if missing:
            unknown = missing - set(SIGNALS)
            hint = f" ({', '.join(sorted(unknown))}: no such signal; valid: {', '.join(SIGNALS)})" if unknown else ""
            if backbone.guidable and missing == {"text_attention"}:
                hint = "; pass guide=text_features to attach, or choose another saliency"
            raise UnfitReducerError(
                f"{type(self).__name__} needs {', '.join(sorted(missing))}, which {backbone.model} does not "
                f"provide in its stack {backbone.stack!r}{hint}; it provides: {', '.join(sorted(backbone.provides))}."
            )
        return self

    def build(self, width: int, sites: int) -> None:
        """Make the weights of a learnable reducer.

        ``attach`` calls it on its own copy of a reducer that has no weights yet, once the stack is known, and moves
        the result to the stack's device and dtype. New weights come from torch's generator, as those of any layer;
        ``attach`` puts its state back, so that later draws are those of the plain model.

        Args:
            width: C of the tokens that it reduces.
            sites: number of places where it acts (:attr:`Site.index` counts them).
        """

    def remove_count(self, removable: int, site: Site) -> int:
        """How many of ``removable`` tokens go at this site: a number known on the host.

        ``keep`` leaves ``ceil(keep * removable)``; a float ``remove`` takes ``round(remove * removable)``.
        """
        if self.keep is not None:
            share: float = per_site(self.keep, site.total, "keep", 1.0)[site.index]
            return removable - math.ceil(share * removable)
        value = per_site(self.remove, site.total, "remove", 0)[site.index]
        count = round(value * removable) if isinstance(value, float) else value
        return int(min(count, max(removable - 1, 0)))

    def scaled(self, factor: float, sites: int) -> dict[str, Any]:
        """Options with which the method removes ``factor`` times as much as it does now, as far as it can.

        This is a method's own knob: an ablation solves for the factor at which a row costs, or keeps, what was asked
        for, and a schedule raises it from 0 to 1 in training. It is called on the reducer that :meth:`bind` gave.
        Proportions between sites, or between kinds of removal, should stay, so that a variant stays what it is.
        By default ``keep`` or ``remove`` is scaled.

        Args:
            factor: 0 (nothing goes) and up; 1 gives what is in force.
            sites: number of acting sites.

        Returns:
            The options that change; the others stay.

        Raises:
            UnfitReducerError: the method has neither of the two options and defines no knob of its own.
        """
        by_count = self.keep is None and self.remove is not None
        if ("remove" if by_count else "keep") not in self.option_defaults():
            raise UnfitReducerError(
                f"{type(self).__name__} has no option to scale; write scaled(factor, sites), which gives options that "
                "remove so many times as much"
            )
        if not by_count:
            return {"keep": _each(self.keep, lambda keep: min(max(1.0 - (1.0 - keep) * factor, 1e-6), 1.0))}
        return {"remove": _each(self.remove, lambda remove: scale_removal(remove, factor))}

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        """Reductions by stream name; streams left out stay whole. By default the main stream's alone.

        In training it may give a :class:`Gate` instead, which keeps all tokens and lets some count for less, and may
        add terms to the loss with ``streams.add_loss(name, value)``.
        """
        stream = streams[streams.main]
        remove = self.remove_count(stream.tokens.removable, site)
        if remove <= 0:
            return {}
        return {streams.main: self.reduce(stream.tokens, stream.signals, remove)}

    def reduce(self, tokens: Tokens, signals: Signals, remove: int) -> Reduction | Gate:
        """Take ``remove`` tokens away from a stream (``remove`` is at least 1).

        Returns:
            A reduction to ``tokens.count - remove`` tokens, protected ones in front.
        """
        raise UnfitReducerError(f"{type(self).__name__} does not define reduce(tokens, signals, remove)")

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({inside})"


def scale_removal(remove: float, factor: float) -> float:
    """A count (int, rounded) or a share (float, at most 1) that many times as large."""
    return min(remove * factor, 1.0) if isinstance(remove, float) else round(remove * factor)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return [change(one) for one in value] if isinstance(value, (list, tuple)) else change(value)
