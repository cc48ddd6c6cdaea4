"""Rules that look at the tokens: how many of them each sample needs. Axes: B batch, N tokens, C width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..ops.spectral import energy_rank, rank_of_share
from .option_checks import check_ratio, is_count, is_number

KINDS = ("energy", "threshold", "cumulative")


@dataclass(frozen=True)
class Rule:
    """How many tokens a sample keeps, from its tokens or their scores.

    Args:
        kind: ``"energy"``: the number of leading singular directions of the sample's tokens that hold the share
            ``value`` of their energy (squared singular values). ``"threshold"``: the tokens whose score is at least
            ``value``. ``"cumulative"``: the highest-scored tokens that together hold the share ``value`` of the sum.
        value: a share in (0, 1], or a score.
        cap: most tokens that a sample keeps; shapes are known on the host from it.
        least: fewest tokens that a sample keeps.
        bucket: round the length of a batch up to a multiple of this, at most ``cap``, so that there are fewer
            different shapes; None for the most that a sample of the batch keeps. With ``bucket=cap`` the length is
            always the cap, and the host waits for nothing (:func:`tokenreduce.core.counts.batch_length`).

    Raises:
        OptionError: another kind, a share outside (0, 1], or a cap below ``least``, or a bucket that is no
            positive integer.
    """

    kind: str
    value: float
    cap: int
    least: int = 1
    bucket: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"a rule is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind != "threshold":
            check_ratio(f"the share of the {self.kind} rule", self.value, open_low=True)
        elif not is_number(self.value):
            raise OptionError(f"the threshold must be a number, got {self.value!r}")
        if not is_count(self.least) or self.least < 1 or not is_count(self.cap) or self.cap < self.least:
            raise OptionError(
                f"cap and least must be positive integers, least not above cap, got cap={self.cap!r} and "
                f"least={self.least!r}"
            )
        if self.bucket is not None and (not is_count(self.bucket) or self.bucket < 1):
            raise OptionError(f"bucket must be a positive integer or None, got {self.bucket!r}")

    @torch.no_grad()
    def counts(self, score: Tensor, x: Tensor, real: Tensor | None = None, needed: Tensor | None = None) -> Tensor:
        """(B,) number of tokens that each sample keeps, from ``least`` to ``cap``.

        A sample that has fewer tokens than ``least`` keeps all that it has. Where all scores, or all features, are
        zero, a share of them needs no token, so ``least`` stay.

        Args:
            score: (B, N), for the rules on scores; negative ones count as 0 in a sum.
            x: (B, N, C), for the rule on energy.
            real: (B, N) False for padding, which counts for nothing.
            needed: (B,) how many the rule asks for, where that is known already.
        """
        asked = self._asked(score, x, real) if needed is None else needed
        available = score.shape[1] if real is None else real.sum(dim=1)
        kept = asked.clamp(min=self.least, max=self.cap)
        return torch.minimum(kept, torch.as_tensor(available, device=kept.device, dtype=kept.dtype).expand_as(kept))

    def _asked(self, score: Tensor, x: Tensor, real: Tensor | None) -> Tensor:
        """(B,) how many tokens the rule asks for, before its bounds."""
        if self.kind == "energy":
            return energy_rank(x, self.value, real)
        wide = score.double() if score.dtype == torch.float64 else score.float()
        valid = torch.ones_like(wide, dtype=torch.bool) if real is None else real
        if self.kind == "threshold":
            return ((wide >= self.value) & valid).sum(dim=1)
        return rank_of_share((wide.clamp(min=0) * valid).sort(dim=1, descending=True).values, self.value)

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: value for name, value in asdict(self).items() if name != "bucket" or value is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Rule:
        """What :meth:`to_json` gave.

        Raises:
            OptionError: another mapping.
        """
        names = {one.name for one in fields(cls)}
        if not {"kind", "value", "cap"} <= set(document) <= names:
            raise OptionError(f"a rule has {', '.join(sorted(names))}, got {', '.join(sorted(map(str, document)))}")
        return cls(**document)
