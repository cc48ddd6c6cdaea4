"""The base classes of every method.

A method is about ten lines:

    class KeyNorm(tokenreduce.Reducer):
        needs = {"keys"}

        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(signals.keys.norm(dim=-1), remove=remove)

Its options are annotated fields (``seed: int = 0``): a reducer is a frozen dataclass, and what it says can be written
to JSON and read again. :meth:`BaseReducer.bind` gives what runs on a model: the reducer itself, or something made for
that model, such as an ``nn.Module`` with weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import dataclass_transform

from ..core.budget import Budget
from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.schedules import spaced_layers
from ..core.signals import GUIDED, SIGNALS, Signals
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from ..errors import OptionError, UnfitReducerError
from ..registry.registry import Registry, default_registry
from .backbone import Backbone
from .site_reducer import SiteReducer

R = TypeVar("R", bound="BaseReducer")


def _defaults(cls: Any) -> dict[str, Any]:
    return {one.name: one.default for one in fields(cls) if one.init}


def _redeclare(cls: Any) -> None:
    """Make ``keep = 0.5`` in a subclass the new default of an inherited option; dataclasses would ignore it."""
    own = dict(vars(cls).get("__annotations__", {}))
    for name in (one.name for base in cls.__mro__[1:] if is_dataclass(base) for one in fields(base)):
        if name in vars(cls) and name not in own and not isinstance(vars(cls)[name], property):
            own[name] = Any
    cls.__annotations__ = own


def _plain(value: Any) -> Any:
    """An option as JSON has it."""
    if isinstance(value, Budget):
        return value.to_json()
    if isinstance(value, BaseReducer):
        return {"reducer": reducer_name(value), **value.options()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def reducer_name(reducer: BaseReducer, registry: Registry | None = None) -> str:
    """The name that stands for a reducer in a config: the registered one, or ``"module:Class"``."""
    target = f"{type(reducer).__module__}:{type(reducer).__qualname__}"
    known = (registry or default_registry()).reducers
    return next((name for name, entry in known.items() if entry.spec.target == target), target)


@dataclass_transform(kw_only_default=True, frozen_default=True)
class BaseReducer(SiteReducer):
    """A token-reduction method without options; most derive from :class:`Reducer`, which has ``keep`` and ``remove``.

    Options are annotated fields with defaults, checked in ``__post_init__``, and JSON-able. A subclass writes
    :meth:`reduce` for the main stream, or :meth:`reduce_streams` for more, and says in :meth:`budgets` which of its
    options are budgets.

    Attributes:
        version: of the options, saved with them: goes up when options of old files mean something else.
        default_layers: of 12, where it acts when nobody says.
        recipe: settings of ``tokenreduce.Recipe`` with which the method is trained, where they are not the defaults;
            ``tokenreduce.finetune`` takes them where it is given no recipe.
        by_sample: whether it can keep different numbers of tokens in different samples: its budgets may be rules, and
            it may follow another method that does so. It chooses by :meth:`keep_top` then, or by counts of its own.
    """

    version: ClassVar[int] = 1
    default_layers: ClassVar[tuple[int, ...]] = (3, 6, 9)
    by_sample: ClassVar[bool] = False
    recipe: ClassVar[Mapping[str, Any]] = {}
    _budgets: ClassVar[Mapping[str, Budget] | None] = None  # of the class none; each reducer has its own

    def __post_init__(self) -> None:
        """Check the options; a subclass calls this too, for its budgets."""
        object.__setattr__(self, "_budgets", self.budgets())

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, nn.Module):
            raise UnfitReducerError(
                f"{cls.__name__} is a reducer and an nn.Module; keep options and weights apart: write a Reducer whose "
                "bind(backbone) returns an nn.Module that derives from tokenreduce.methods.BoundReducer"
            )
        if "__init__" in vars(cls):
            raise UnfitReducerError(
                f"{cls.__name__} defines __init__; write its options as annotated fields (seed: int = 0) and check "
                "them in __post_init__"
            )
        _redeclare(cls)
        try:
            dataclass(frozen=True, kw_only=True, repr=False)(cls)
        except ValueError as error:  # a list or a dict as a default
            raise UnfitReducerError(
                f"an option of {cls.__name__} has a {error}; options do not change once they are given: use a tuple, "
                "or None"
            ) from error
        for name, default in _defaults(cls).items():
            if default is MISSING:
                raise UnfitReducerError(f"option {name!r} of {cls.__name__} needs a default, such as {name}: int = 0")

    @property
    def reducer(self) -> BaseReducer:
        """The options of what runs: itself."""
        return self

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """The options and their defaults."""
        return _defaults(cls)

    def options(self) -> dict[str, Any]:
        """The options in force, JSON-able; ``type(self)(**options)`` makes the same reducer."""
        budgets = {name: budget.option() for name, budget in self.budgets().items()}
        return {name: budgets.get(name, _plain(getattr(self, name))) for name in self.option_defaults()}

    def budgets(self) -> dict[str, Budget]:
        """How many tokens go, by the option that says it; :meth:`scaled` and the check of lists go by these."""
        return {}

    @property
    def budget(self) -> Budget:
        """The only budget.

        Raises:
            UnfitReducerError: there is none, or several.
        """
        budgets = list((self._budgets or self.budgets()).values())
        if len(budgets) != 1:
            raise UnfitReducerError(
                f"{type(self).__name__} needs one budget for reduce(tokens, signals, remove), and its budgets() gives "
                f"{len(budgets)}; derive it from tokenreduce.Reducer (keep, remove), or write reduce_streams(...)"
            )
        return budgets[0]

    def within(self: R, layers: Sequence[int]) -> R:
        """The reducer for layers that the user names in place of :meth:`layers`: itself; a chain tells its parts."""
        return self

    def at(self: R, layer: int) -> R:
        """What acts in a layer: itself; of a chain, the parts that act there."""
        return self

    def layers(self, backbone: Backbone) -> list[int]:
        """The blocks it acts in when the user names none: all where a budget lists its sites, else a few."""
        if any(budget.per_site for budget in self.budgets().values()):
            return list(range(backbone.depth))
        return spaced_layers(self.default_layers, backbone.depth)

    def usual_layers(self, depth: int) -> list[int]:
        """The same on a plain stack of image tokens, for a description."""
        return self.layers(Backbone("vision", depth, ("image",), frozenset(SIGNALS), False, "a model"))

    def check_sites(self, sites: int) -> None:
        """Raise OptionError when a budget does not fit the acting sites, or is a rule and the method takes none."""
        for name, budget in self.budgets().items():
            budget.check(sites, name)
        self.check_rules()

    def check_rules(self) -> None:
        """Raise OptionError when a budget is a rule and the method takes none."""
        for name, budget in self.budgets().items():
            if budget.rule is not None and not self.by_sample:
                raise OptionError(
                    f"{name} of {type(self).__name__} is a rule, by which samples keep different numbers of tokens; it "
                    "takes the same number from all: give a share or a number, or use a method that ranks tokens"
                )

    @property
    def ragged(self) -> bool:
        """Whether samples may keep different numbers of tokens: by default, where a budget is a rule."""
        return any(budget.rule is not None for budget in (self._budgets or self.budgets()).values())

    def bind(self, backbone: Backbone) -> SiteReducer:
        """What runs on this backbone: the reducer itself, one with open options resolved, or something made for it.

        An ``nn.Module`` becomes a part of the model: ``attach`` moves it to the device and dtype of the blocks.
        Its weights are drawn from torch's generator, whose state ``attach`` restores.

        Raises:
            UnfitReducerError: the backbone does not provide what it needs.
        """
        own = type(self)
        if own.reduce is BaseReducer.reduce and own.reduce_streams is BaseReducer.reduce_streams:
            raise UnfitReducerError(f"{own.__name__} defines neither reduce(...) nor reduce_streams(...); write one")
        self.check_needs(backbone)
        return self

    def check_needs(self, backbone: Backbone) -> None:
        """Raise UnfitReducerError where a backbone does not provide all signals that the reducer needs."""
        missing = frozenset(self.needs) - backbone.provides
        if not missing:
            return
        unknown = missing - set(SIGNALS)
        hint = f" ({', '.join(sorted(unknown))}: no such signal; valid: {', '.join(SIGNALS)})" if unknown else ""
        if missing <= set(GUIDED):
            if backbone.guidable:
                hint = "; pass guide=text_features to attach, or choose another saliency"
            elif "text_cosine" in missing:
                hint = "; give text features with handle.guide(text_features, space=...)"
        raise UnfitReducerError(
            f"{type(self).__name__} needs {', '.join(sorted(missing))}, which {backbone.model} does not "
            f"provide in its stack {backbone.stack!r}{hint}; it provides: {', '.join(sorted(backbone.provides))}."
        )

    def scaled(self: R, factor: float, sites: int) -> R:
        """The reducer that removes ``factor`` times as much, as far as it can: every budget scaled.

        An ablation solves for the factor at which a row costs, or keeps, what was asked for; a schedule raises it from
        0 to 1 in training. Proportions between sites, or between kinds of removal, stay.

        Args:
            factor: 0 (nothing goes) and up; 1 gives what is in force.
            sites: number of acting sites.

        Raises:
            UnfitReducerError: the method has no budget among its options.
        """
        budgets = self.budgets()
        if not budgets:
            raise UnfitReducerError(
                f"{type(self).__name__} has no option to scale; name its budgets: budgets() returns "
                "{option: Budget}, or write scaled(factor, sites)"
            )
        scaled = {name: budget.scaled(factor, sites).option() for name, budget in budgets.items()}
        return replace(self, **scaled)  # type: ignore[type-var]

    def idle(self, site: Site) -> bool:
        own = type(self)
        if own.reduce_streams is not BaseReducer.reduce_streams or own.count is not BaseReducer.count:
            return False
        budgets = list((self._budgets or self.budgets()).values())
        return len(budgets) == 1 and budgets[0].idle(site)

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        """Reductions by stream; streams left out stay whole. By default the main stream's alone, by the one budget.

        In training it may give a :class:`Gate` instead, which keeps all tokens and lets some count for less, and may
        add terms to the loss with ``streams.add_loss(name, value)``.
        """
        stream = streams[streams.main]
        remove = self.count(self.budget, site, stream.tokens)
        if remove <= 0:
            return {}
        return {streams.main: self.reduce(stream.tokens, stream.signals, remove)}

    def count(self, budget: Budget, site: Site, tokens: Tokens) -> int:
        """How many tokens of a stream go at a site; a method that cannot remove as many gives less."""
        return budget.at(site, tokens.removable)

    def kept_counts(self, stream: Stream, site: Site, score: Tensor) -> Tensor:
        """(B,) how many of the tokens that are not protected each sample keeps by the one budget.

        Args:
            score: (B, N), higher stays.
        """
        tokens, budget = stream.tokens, self.budget
        real = None if tokens.real is None else tokens.real[:, tokens.prefix :]
        if budget.rule is None and not tokens.ragged:
            kept = tokens.removable - self.count(budget, site, tokens)
            return torch.full(tokens.x.shape[:1], kept, device=tokens.x.device)
        counts = budget.counts(
            site, score[:, tokens.prefix :], tokens.x[:, tokens.prefix :], real, needed=stream.needed
        )
        return budget.counts_of(site, tokens.own_counts(), tokens.removable) if counts is None else counts

    def removes_nothing(self, site: Site, tokens: Tokens) -> bool:
        """Whether the one budget says, whatever the tokens hold, that all stay; known on the host."""
        budget, free = self.budget, tokens.removable
        if budget.rule is not None:
            return free <= budget.rule.least or budget.factor == 0
        return all(budget.at(site, n) == 0 for n in (range(free + 1) if tokens.ragged else (free,)))

    def keep_top(
        self, stream: Stream, site: Site, score: Callable[[], Tensor], *, order: str = "original"
    ) -> Reduction | None:
        """Keep the tokens of a stream with the highest score, as many as the one budget says; None where all stay.

        The budget may be a rule; and samples may have different numbers of tokens already, each then loses by its own.
        The host waits once in both cases (:meth:`Tokens.keep_top` tells when it does not). Where all samples turn out
        to keep the same number, it is as with a number.

        Args:
            score: makes (B, N) when it is needed, higher stays.
            order: as :meth:`Tokens.keep_top` has it.
        """
        tokens, budget = stream.tokens, self.budget
        if self.removes_nothing(site, tokens):
            return None
        if budget.rule is None and not tokens.ragged:
            remove = self.count(budget, site, tokens)
            return None if remove <= 0 else tokens.keep_top(score(), remove=remove, order=order)
        value = score()
        counts, cap = self.kept_counts(stream, site, value), budget.cap(site, tokens.removable)
        bucket = None if budget.rule is None else budget.rule.bucket
        reduction = tokens.keep_top(value, counts=counts, cap=cap, bucket=bucket, order=order)
        return None if reduction.count == tokens.count and reduction.valid is None else reduction

    def reduce(self, tokens: Tokens, signals: Signals, remove: int) -> Reduction | Gate:
        """Take ``remove`` tokens away from a stream (``remove`` is at least 1).

        Returns:
            A reduction to ``tokens.count - remove`` tokens, protected ones in front.
        """
        raise UnfitReducerError(f"{type(self).__name__} does not define reduce(tokens, signals, remove)")

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({inside})"


class Reducer(BaseReducer):
    """A method with the two usual options; subclass it and write :meth:`reduce`.

    Args:
        keep: what stays at each site: a share of the removable tokens (float, rounded up) or a number (int), or a list
            per site. 0.7 where neither is given.
        remove: what goes, likewise; or ``(r, inflection)``.
    """

    keep: Any = None
    remove: Any = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.remove is not None:
            raise OptionError("give 'keep' or 'remove', not both")
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 0.7)
        super().__post_init__()

    def budgets(self) -> dict[str, Budget]:
        if self.keep is not None:
            return {"keep": Budget.of("keep", self.keep)}
        ramp = isinstance(self.remove, tuple) or (isinstance(self.remove, Mapping) and "inflection" in self.remove)
        return {"remove": Budget.of("ramp" if ramp else "remove", self.remove)}
