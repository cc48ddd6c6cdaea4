"""A budget per image from spectral energy, around any method that ranks tokens. Axes: B batch, N tokens, C width."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    Backbone,
    BaseReducer,
    BoundWrapper,
    Budget,
    Gate,
    Reduction,
    Rule,
    Site,
    SiteReducer,
    Stream,
    Streams,
    WrapperReducer,
    check_features,
    check_ratio,
    check_seed,
    features_of,
    features_on,
    make,
    reducer_name,
)
from tokenreduce.ops import energy_rank, leading_energies, rank_of_share

SPECTRA = ("exact", "randomised")


class EAdaPrune(WrapperReducer):
    """Each image keeps as many tokens as its features have leading singular directions that hold a share of its energy.

    With the singular values s of an image's tokens, the number is the smallest k with ``sum_{i <= k} s_i ** power >=
    energy * sum_i s_i ** power``, between ``min_keep`` and ``max_keep``. Which tokens these are, the selector says.
    Images of one batch may keep different numbers.

    Source: E-AdaPrune, arXiv 2603.05950, abstract: the budget of an image follows from the singular value spectrum of
    its visual features, by the share of spectral energy that is preserved. The authors' code was not public and no
    table was at hand, so what the abstract leaves open is defined here: which features, no centring, the bounds. The
    authors use a randomised SVD; the exact spectrum is the default here.

    Args:
        selector: a method that takes ``keep`` as a rule: its name, or ``{"reducer": name, **options}`` without
            ``keep``.
        energy: the share, in (0, 1]. For a given mean number of tokens: ``tokenreduce.measure.calibrate``.
        min_keep: fewest tokens of an image; one that has no more keeps all.
        max_keep: most.
        power: 2 for energy, 1 for the singular values themselves.
        features: ``"encoder"``: what the encoder gives; ``"projected"``: what the projector makes of it, at the
            hand-over to a language model; ``"tokens"``: those at the site, whichever they are. On an encoder alone
            ``"encoder"`` means the tokens at the site.
        centre: subtract the mean token first.
        spectrum: ``"exact"``, from the eigenvalues of the Gram matrix in float64; or ``"randomised"``: the leading
            ``max_keep`` by a random projection (8 columns more, 2 power iterations), which needs ``power=2``.
        seed: of the projection, the same in every call.
        factor: how many times as many tokens go from each image as the energy says; ``handle.scale`` sets it.
    """

    selector: Any = "fopru"
    energy: float = 0.95
    min_keep: int = 16
    max_keep: int = 192
    power: int = 2
    features: str = "encoder"
    centre: bool = False
    spectrum: str = "exact"
    seed: int = 0
    factor: float = 1.0

    by_sample = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("energy", self.energy, open_low=True)
        check_features(self.features)
        check_seed(self.seed)
        if isinstance(self.power, bool) or self.power not in (1, 2):
            raise OptionError(f"power must be 1 (singular values) or 2 (energy), got {self.power!r}")
        if not isinstance(self.centre, bool):
            raise OptionError(f"centre must be True or False, got {self.centre!r}")
        if self.spectrum not in SPECTRA:
            raise OptionError(f"spectrum must be {' or '.join(map(repr, SPECTRA))}, got {self.spectrum!r}")
        if self.spectrum == "randomised" and self.power == 1:
            raise OptionError(
                "spectrum='randomised' finds the leading singular values, and the sum of all is known of their squares "
                "only; use power=2, or spectrum='exact'"
            )
        for name in ("min_keep", "max_keep"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name} must be a positive integer, got {value!r}")
        if self.max_keep < self.min_keep:
            raise OptionError(f"max_keep={self.max_keep} is below min_keep={self.min_keep}; give at least as much")
        object.__setattr__(self, "selector", _plain(self.selector))
        _ = self.inside

    @property
    def limits(self) -> Budget:
        """The budget that the selector is given: the bounds, and the factor."""
        return Budget(rule=Rule("energy", self.energy, self.max_keep, self.min_keep), factor=self.factor)

    @cached_property
    def inside(self) -> Sequence[SiteReducer]:
        selector = {"reducer": self.selector} if isinstance(self.selector, str) else dict(self.selector)
        try:
            made = make({**selector, "keep": self.limits})
            made.check_rules()
        except OptionError as error:
            raise OptionError(
                f"selector={selector['reducer']!r} cannot keep a number of tokens for each image; use a method that "
                f"ranks tokens, such as 'fopru', 'svd-prune', 'random' or 'evit' ({error})"
            ) from error
        return (made,)

    @property
    def needs(self) -> Collection[str]:
        return {*super().needs, "encoder_features"} if self.features == "encoder" else super().needs

    @property
    def ragged(self) -> bool:
        return True

    def layers(self, backbone: Backbone) -> list[int]:
        return self.inside[0].reducer.layers(backbone)  # type: ignore[no-any-return]

    def bind(self, backbone: Backbone) -> BoundEAdaPrune:
        features = features_on(backbone, self.features, "e-adaprune")
        return BoundEAdaPrune(replace(self, features=features), [self.inside[0].reducer.bind(backbone)])

    def scaled(self, factor: float, sites: int) -> EAdaPrune:
        return replace(self, factor=self.factor * factor)

    def numbers(self, stream: Stream) -> Tensor:
        """(B,) how many tokens the energy of each sample asks for, before the bounds."""
        x, real = features_of(stream, self.features)
        if self.spectrum == "exact":
            return energy_rank(x, self.energy, real, centre=self.centre, power=self.power)
        values, total = leading_energies(x, self.max_keep, seed=self.seed, centre=self.centre, real=real)
        return rank_of_share(values, self.energy, total)


class BoundEAdaPrune(BoundWrapper):
    """On one model: the selector as it is bound there, and the features that are looked at."""

    @property
    def needs(self) -> Collection[str]:
        needs = {need for other in self.inside for need in other.needs}  # torch.compile reads no property of super()
        return needs | {"encoder_features"} if self.reducer.features == "encoder" else needs

    @property
    def ragged(self) -> bool:
        return True

    def take_options(self, reducer: EAdaPrune) -> None:
        """Go on with other options; the selector keeps what it resolved to when it was bound."""
        super().take_options(reducer)
        (inner,) = self.inside
        changed = replace(inner.reducer, keep=reducer.limits)
        if isinstance(inner, BaseReducer):
            self._inside = (changed,)
        else:
            inner.take_options(changed)

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        stream, (inner,) = streams[streams.main], self.inside
        if inner.reducer.removes_nothing(site, stream.tokens):
            return {}
        needed = self.reducer.numbers(stream)
        return inner.reduce_streams(streams.with_stream(streams.main, replace(stream, needed=needed)), site)


def _plain(selector: Any) -> Any:
    """A selector as JSON has it, its budget left out: a name, or a mapping where it has options of its own.

    Raises:
        OptionError: none of these, or a budget is given with it.
    """
    told = "selector is the name of a method or {'reducer': name, **options}"
    if isinstance(selector, str):
        options: dict[str, Any] = {"reducer": selector}
    elif isinstance(selector, BaseReducer):
        options = {"reducer": reducer_name(selector), **selector.options()}
        for name in ("keep", "remove"):
            options.pop(name, None)
    elif isinstance(selector, Mapping) and isinstance(selector.get("reducer"), str):
        options = dict(selector)
    else:
        raise OptionError(f"{told}, got {selector!r}")
    given = [name for name in ("keep", "remove") if name in options]
    if given:
        raise OptionError(f"{told} without {' and '.join(given)}: how many tokens stay is what e-adaprune says")
    made = make(options)
    if "keep" not in made.option_defaults():
        raise OptionError(
            f"selector={options['reducer']!r} has no option keep, so it cannot be told how many tokens stay; use a "
            "method that ranks tokens, such as 'fopru', 'svd-prune', 'random' or 'evit'"
        )
    return options["reducer"] if set(options) == {"reducer"} else options
