"""What the rest of a model expects at the end of a stack, and how it is made. Axes: B batch, N tokens, C width."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.gate import pool_as_kept
from ..core.reduction import Reduction, spread
from ..core.state import State


@dataclass(frozen=True)
class Undo:
    """What undoes a site.

    Args:
        before: tokens (B, N, C) before it, where they are needed again.
        end: (B, N) where each of them went, None where a gate let all of them stay.
        share: (B, N) how much of each a gate has left, None where there was none.
    """

    before: Tensor | None
    end: Tensor | None = None
    share: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (B, K, C) at the end as the tokens (B, N, C) of the site; what it took away is as it was before."""
        before = None if self.before is None else self.before.to(x)
        if self.end is not None:
            x = spread(x, self.end.to(x.device), before)
        if self.share is None or before is None:
            return x
        share = self.share[..., None].to(x)
        return x * share + before * (1 - share)


@dataclass(frozen=True)
class Ending:
    """One sequence at the end of a pass: its states at the start and now, and what undoes each site, the last first."""

    first: State
    last: State
    undo: Sequence[Undo] = field(default_factory=tuple)

    def restore(self, x: Tensor) -> Tensor:
        """Every token at its original position: merged ones share their value, dropped ones have their last value."""
        for undo in self.undo:
            x = undo(x)
        return x

    def on(self, device: torch.device) -> Ending:
        """With its states on the device of the tokens."""
        return replace(self, first=self.first.on(device), last=self.last.on(device))


class Reduced:
    """The tokens that are left, as they are."""

    tracks = False

    def keeps(self, chosen: Mapping[str, Reduction], whole: Reduction, mixed: bool) -> bool:
        """Whether the tokens before a site are needed at the end.

        Args:
            chosen: what was done to streams.
            whole: the same to the sequence.
            mixed: whether streams are merged together after it.
        """
        return False

    def holds(self, gated: Collection[str]) -> bool:
        """Whether they are where streams are gated: what is dropped is given back as it was then."""
        return False

    def __call__(self, x: Tensor, ending: Ending) -> Tensor:
        """Tokens of one sequence (B, N, C) as the rest of the model expects them."""
        return x


class Full(Reduced):
    """Every token at its original position."""

    tracks = True

    def keeps(self, chosen: Mapping[str, Reduction], whole: Reduction, mixed: bool) -> bool:
        return whole.drops

    def holds(self, gated: Collection[str]) -> bool:
        return True

    def __call__(self, x: Tensor, ending: Ending) -> Tensor:
        return ending.restore(x)


class Repeated(Full):
    """For heads that pool over all tokens: a merged token once for each of its members.

    Where tokens were only dropped, what is left stands for itself; where a method merges and drops, all are restored.
    Gates let a dropped token be the mean of the kept ones.
    """

    def holds(self, gated: Collection[str]) -> bool:
        return False

    def __call__(self, x: Tensor, ending: Ending) -> Tensor:
        last = ending.last
        gate = last.gate()
        if gate is not None and len(last.layout.streams) == 1:
            x = pool_as_kept(x, gate, last.layout.prefix(last.layout.name))
        if last.assignment is None or last.size is None or not ending.undo:
            return x
        return ending.restore(x) if last.drops else spread(x, last.assignment)


class Filled(Repeated):
    """As :class:`Repeated` where samples keep different numbers of tokens: always of the length at the start.

    What a sample gives then does not depend on who else is in the batch. Where tokens were only dropped, each of them
    becomes the mean of those that the sample keeps.
    """

    def __call__(self, x: Tensor, ending: Ending) -> Tensor:
        last = ending.last
        if last.size is not None or last.assignment is None or not ending.undo:
            return super().__call__(x, ending)
        prefix = last.layout.prefix(last.layout.name)
        share = torch.ones_like(x[..., :1]) if last.real is None else last.real[..., None].to(x.dtype)
        share = share[:, prefix:]
        mean = (x[:, prefix:] * share).sum(dim=1, keepdim=True) / share.sum(dim=1, keepdim=True).clamp(min=1)
        return spread(x, last.assignment, mean)


class StreamRestored(Full):
    """The tokens of one stream in front, at their original positions; what is left of the others follows.

    Args:
        stream: its name.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream

    def keeps(self, chosen: Mapping[str, Reduction], whole: Reduction, mixed: bool) -> bool:
        wanted = whole if mixed else chosen.get(self.stream)
        return wanted is not None and wanted.drops

    def holds(self, gated: Collection[str]) -> bool:
        return self.stream in gated

    def __call__(self, x: Tensor, ending: Ending) -> Tensor:
        first, last = ending.first.layout, ending.last
        if last.assignment is None or not ending.undo or self.stream not in first.streams:
            return x
        place = first.columns(self.stream)
        if not isinstance(place, slice) or place.start:
            return ending.restore(x)
        count = place.stop
        if last.layout.mixed:  # what follows the protected tokens may be of any stream
            rest = last.layout.prefix(last.layout.name)
        else:
            rest = last.layout.lengths[self.stream]
            if all(undo.before is None for undo in ending.undo):  # none of the stream was dropped
                return torch.cat([spread(x, last.assignment[:, :count]), x[:, rest:]], dim=1)
        return torch.cat([ending.restore(x)[:, :count], x[:, rest:]], dim=1)


def output_of(name: str, ragged: bool = False, reads_all: bool = False) -> Reduced:
    """What a stack's ``output`` stands for: ``"reduced"``, ``"repeated"``, ``"full"``, or the name of a stream.

    Args:
        ragged: whether samples may keep different numbers of tokens.
        reads_all: whether what follows reads every token of a ``"reduced"`` output; ragged ones are then restored.
    """
    plain = {"reduced": Reduced, "repeated": Repeated, "full": Full}
    if ragged:
        plain |= {"repeated": Filled, "reduced": Full if reads_all else Reduced}
    return plain[name]() if name in plain else StreamRestored(name)
