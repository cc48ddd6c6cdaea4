"""How many tokens go or stay at each site, as a value. Axes: B batch, N tokens of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from .option_checks import check_ratio, is_count, is_number
from .rules import Rule
from .schedules import constant_or_ramp, per_site, spread_counts
from .site import Site

LEAST = 1e-6  # share that stays where a schedule is scaled beyond all
MANY = 1 << 20  # more tokens than any stream has
FORMS = ("keep", "remove", "ramp", "total", "rule")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many tokens go or stay at each site: exactly one of the first five says it.

    Options of reducers take plain values for it (``keep=0.7``); a method turns them into a budget and asks
    :meth:`at`. As an option a budget may also be given as itself, or as the mapping that :meth:`to_json` gives.

    Args:
        keep: what stays: a share (float in (0, 1], rounded up; 1.0 is all) or a number (int), or a list per site.
        remove: what goes: a share (float in [0, 1], rounded half to even) or a number (int), or a list per site.
        ramp: numbers that go, as ToMe has them: a number, ``(r, inflection)`` or a list per site
            (:func:`constant_or_ramp`).
        total: number that goes in all, shared out evenly over the sites.
        rule: looks at the tokens: each sample keeps as many as it needs, at most ``rule.cap`` (:class:`Rule`). Shorter
            samples are filled up, and what fills them up is hidden.
        factor: how many times as much goes, where that cannot be said in the value itself.
        limit: largest share that goes when a share ``remove`` is scaled up.

    Raises:
        OptionError: none of the five, more than one, or a value outside its range.
    """

    keep: Any = None
    remove: Any = None
    ramp: Any = None
    total: int | None = None
    rule: Rule | None = None
    factor: float = 1.0
    limit: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            raise OptionError(f"a budget has one of {', '.join(FORMS)}, got {' and '.join(given) or 'none'}")
        if not is_number(self.factor) or not 0 <= self.factor < math.inf:
            raise OptionError(f"the factor of a budget must be a non-negative number, got {self.factor!r}")
        for value in _each(self.keep):
            if is_count(value) and value:
                continue
            check_ratio("keep", value if isinstance(value, float) else _no_share("keep", value), open_low=True)
        for value in _each(self.remove):
            if isinstance(value, float):
                check_ratio("remove", value)
            elif not is_count(value):
                raise OptionError(f"remove must be a non-negative integer or a share in [0, 1], got {value!r}")
        if self.ramp is not None:
            constant_or_ramp(self.ramp, len(self.ramp) if isinstance(self.ramp, list) else 12)
        if self.total is not None and not is_count(self.total):
            raise OptionError(f"total must be a non-negative integer, got {self.total!r}")
        if self.rule is not None and not isinstance(self.rule, Rule):
            raise OptionError(f"rule must be a tokenreduce.methods.Rule, got {self.rule!r}")

    @classmethod
    def of(cls, form: str, value: Any) -> Budget:
        """The budget that an option means: ``Budget.of("keep", 0.7)``; a :class:`Budget` or its mapping as it is.

        Raises:
            OptionError: a value outside its range.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, Mapping) and set(value) & {*FORMS, "factor"}:
            return cls.from_json(value)
        return cls(**{form: value})

    @classmethod
    def energy(cls, share: float, *, cap: int, least: int = 1, bucket: int | None = None) -> Budget:
        """Each sample keeps as many directions as hold this share of its tokens' energy (:meth:`Rule.counts`)."""
        return cls(rule=Rule("energy", share, cap, least, bucket))

    @classmethod
    def threshold(cls, score: float, *, cap: int, least: int = 1, bucket: int | None = None) -> Budget:
        """Each sample keeps the tokens with a score of at least this."""
        return cls(rule=Rule("threshold", score, cap, least, bucket))

    @classmethod
    def cumulative(cls, share: float, *, cap: int, least: int = 1, bucket: int | None = None) -> Budget:
        """Each sample keeps the highest-scored tokens that together hold this share of its scores' sum."""
        return cls(rule=Rule("cumulative", share, cap, least, bucket))

    @property
    def per_site(self) -> bool:
        """Whether it lists the sites one by one."""
        return any(isinstance(value, (list, tuple)) for value in (self.keep, self.remove))

    def value(self, site: Site) -> Any:
        """The share or number in force at a site, before rounding to tokens; of ``keep`` or ``remove``."""
        if self.keep is not None:
            return per_site(self.keep, site.total, "keep", 1.0)[site.index]
        return per_site(self.remove, site.total, "remove", 0)[site.index]

    def at(self, site: Site, removable: int) -> int:
        """How many of ``removable`` tokens go at a site, known on the host; at least one of them stays.

        Of a rule: what goes from a sample that keeps as many as the cap allows.
        """
        if type(self.ramp) is int:
            count = self.ramp
        elif self.ramp is not None:
            count = constant_or_ramp(self.ramp, site.total)[site.index]
        elif self.total is not None:
            count = spread_counts(self.total * self.factor, [1] * site.total)[site.index]
        elif self.rule is not None:
            count = round(self.factor * max(removable - self.rule.cap, 0))
        else:
            value = self.value(site)
            if self.keep is None:
                count = round(value * removable) if isinstance(value, float) else value
            elif isinstance(value, float):
                count = removable - math.ceil(_scaled_keep(value, self.factor) * removable)
            else:
                count = round(self.factor * max(removable - value, 0))
        return int(min(count, max(removable - 1, 0)))

    def idle(self, site: Site) -> bool:
        """Whether nothing goes at a site, however many tokens come there."""
        return self.rule is None and self.at(site, MANY) == 0

    def counts(
        self, site: Site, score: Tensor, x: Tensor, real: Tensor | None = None, needed: Tensor | None = None
    ) -> Tensor | None:
        """(B,) how many tokens each sample keeps by a rule, None for a budget that does not look at the tokens.

        Of a scaled rule (:meth:`scaled`) that many times as many go from each sample.

        Args:
            score: (B, N) of the tokens that may go, higher stays.
            x: (B, N, C) their features.
            real: (B, N) False for padding.
            needed: (B,) how many the rule asks for, where that is known already.
        """
        if self.rule is None:
            return None
        kept = self.rule.counts(score, x, real, needed)
        if self.factor == 1:
            return kept
        there = torch.full_like(kept, score.shape[1]) if real is None else real.sum(dim=1)
        gone = (self.factor * (there - kept).double()).round().clamp(max=score.shape[1]).to(kept.dtype)
        return torch.minimum((there - gone).clamp(min=1), there)

    def counts_of(self, site: Site, there: Tensor, most: int) -> Tensor:
        """(B,) how many of its removable tokens each sample keeps, for samples of different lengths.

        Args:
            there: (B,) how many each has, at most ``most``.
        """
        table = [n - self.at(site, n) for n in range(most + 1)]
        kept: Tensor = torch.tensor(table, device=there.device)[there]
        return kept

    def cap(self, site: Site, removable: int) -> int:
        """Most of ``removable`` tokens that a sample keeps at a site, known on the host."""
        if self.rule is None:
            return max(n - self.at(site, n) for n in range(removable + 1))
        most = min(self.rule.cap, removable)
        return most if self.factor >= 1 else max(removable - self.at(site, removable), most)

    def scaled(self, factor: float, sites: int) -> Budget:
        """The budget that removes ``factor`` times as much, proportions between the sites kept."""
        if factor == 1:
            return self
        if self.ramp is not None:
            counts = constant_or_ramp(self.ramp, sites)
            return replace(self, ramp=spread_counts(factor * sum(counts), counts))
        if self.remove is not None:
            return replace(self, remove=_map(self.remove, lambda value: _scaled_removal(value, factor, self.limit)))
        if self.keep is not None and all(isinstance(value, float) for value in _each(self.keep)):
            return replace(self, keep=_map(self.keep, lambda keep: _scaled_keep(keep, factor)))
        return replace(self, factor=self.factor * factor)

    def check(self, sites: int, name: str = "") -> None:
        """Raise OptionError when a list has more entries than there are sites."""
        if self.ramp is not None:
            constant_or_ramp(self.ramp, sites)
        for form in ("keep", "remove"):
            if getattr(self, form) is not None:
                per_site(getattr(self, form), sites, name or form, None)

    def option(self) -> Any:
        """The plainest value that :meth:`of` takes back for the same form: ``0.7``, ``[13, 12]`` or a mapping."""
        forms = [getattr(self, name) for name in ("keep", "remove", "ramp") if getattr(self, name) is not None]
        if not forms or self.factor != 1:
            return self.to_json()
        (value,) = forms
        if self.ramp is not None:
            return _ramp_json(value)
        return list(value) if isinstance(value, tuple) else value

    def to_json(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_json` takes it back."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["rule"] = None if self.rule is None else self.rule.to_json()
        values["ramp"] = _ramp_json(self.ramp)
        plain = {"factor": 1.0, "limit": 1.0}
        return {name: value for name, value in values.items() if value is not None and value != plain.get(name)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Budget:
        """What :meth:`to_json` gave.

        Raises:
            OptionError: another mapping.
        """
        unknown = set(document) - {one.name for one in fields(cls)}
        if unknown:
            raise OptionError(f"a budget has {', '.join(one.name for one in fields(cls))}, got {sorted(unknown)}")
        given = dict(document)
        if isinstance(given.get("rule"), Mapping):
            given["rule"] = Rule.from_json(given["rule"])
        return cls(**given)


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _map(value: Any, change: Any) -> Any:
    return [change(one) for one in value] if isinstance(value, (list, tuple)) else change(value)


def _no_share(name: str, value: Any) -> Any:
    raise OptionError(f"{name} must be a share in (0, 1] as a float or a positive integer, got {value!r}")


def _ramp_json(ramp: Any) -> Any:
    """A pair (r, inflection) as a mapping: in JSON it would read as a list with one number per site."""
    return {"r": ramp[0], "inflection": ramp[1]} if isinstance(ramp, tuple) else ramp


def _scaled_keep(keep: float, factor: float) -> float:
    """The share that stays where that many times as much goes; never nothing at all."""
    return keep if factor == 1 else min(max(1.0 - (1.0 - keep) * factor, LEAST), 1.0)


def _scaled_removal(remove: float, factor: float, limit: float) -> float:
    """A number (int, rounded) or a share (float, at most ``limit``) that many times as large."""
    return min(remove * factor, max(limit, remove)) if isinstance(remove, float) else round(remove * factor)
