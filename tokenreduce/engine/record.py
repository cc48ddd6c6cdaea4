"""What one forward pass through a stack did. Axes: B batch, n tokens of a stream, N0 tokens at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backbones.block import BlockView, Role
from ..core.site import Site
from ..core.state import State
from ..core.trace import Trace
from .block_macs import block_macs


@dataclass(frozen=True)
class SiteTokens:
    """Tokens of one stream before and after one site.

    Where samples keep different numbers, ``tokens_in`` and ``tokens_out`` are means over the samples, rounded, and
    ``spread`` is the standard deviation of what they keep.
    """

    stack: str
    layer: int
    stream: str
    tokens_in: int
    tokens_out: int
    spread: float = 0.0


class SiteCounts(NamedTuple):
    """The same as a pass notes it: numbers, or (B,) one for each sample, which nobody has waited for yet."""

    site: Site
    stream: str
    before: int | Tensor
    after: int | Tensor

    @classmethod
    def of(cls, site: Site, stream: str, before: State, after: State) -> SiteCounts:
        """Of a stream, or a sequence by its name, in the states before and after."""
        return cls(site, stream, tokens_of(before, stream), tokens_of(after, stream))

    def tokens(self) -> SiteTokens:
        """The numbers; waits for them."""
        means = round(mean(self.before)), round(mean(self.after))
        return SiteTokens(self.site.stack, self.site.layer, self.stream, *means, spread(self.after))


def tokens_of(state: State, stream: str) -> int | Tensor:
    """Tokens of a stream, or a sequence by its name; (B,) where samples have different numbers."""
    counts = state.counts(stream)
    if counts is not None:
        return counts
    return state.layout.length if stream == state.layout.name else state.layout.lengths[stream]


def mean(count: int | Tensor) -> float:
    """A number of tokens, or its mean over the samples."""
    return float(count.double().mean()) if isinstance(count, Tensor) else count


def spread(count: int | Tensor) -> float:
    """Standard deviation over the samples; 0 where all have the same number."""
    return float(count.double().std(correction=0)) if isinstance(count, Tensor) else 0.0


class Record:
    """What one forward pass through a stack did. Tensors of tokens are only kept for a trace.

    Attributes:
        initial: tokens of each stream at the start.
        counts: tokens of each stream at the end, (B,) where samples keep different numbers.
        losses: what the reducer added to the loss, by name, with gradient; a copy has none.
        gates: (B, n) by stream, how much each token counted at the end, without gradient; streams without are left out.
        heads: (B, H) by block and whether it is of cross-attention, how much each head counted, without gradient;
            attentions without a mask are left out.
        rows: by block, how many tokens in front were all that it computed; the other blocks computed all.
        trace: where each input token went; None where none is kept (``attach(..., trace=True)``).
    """

    def __init__(
        self,
        sites: list[SiteCounts],
        states: Sequence[Mapping[str, State]],
        *,
        trace: bool,
        losses: Sequence[Mapping[str, Tensor]],
        blocks: Sequence[tuple[BlockView, Role]],
        early: bool,
        heads: Mapping[tuple[int, bool], Tensor] | None = None,
        rows: Mapping[int, int] | None = None,
    ) -> None:
        first, last = states[0], states[-1]
        self._sites = sites
        self._lengths_between, self._between = _between(states)
        self.losses = sum_by_name(losses)
        self.initial = {name: n for state in first.values() for name, n in state.layout.lengths.items()}
        self.counts = {name: tokens_of(state, name) for state in last.values() for name in state.layout.lengths}
        self._lengths = {name: n for state in last.values() for name, n in state.layout.lengths.items()}
        self.gates = {name: gate.detach() for state in last.values() for name, gate in state.gates.items()}
        self._blocks, self._early, self._rows = blocks, early, dict(rows or {})
        self.heads = {place: values.detach() for place, values in (heads or {}).items()}
        self._computed = {  # in training all heads are
            place: (values != 0).double().mean(dim=1)
            for place, values in (heads or {}).items()
            if not values.requires_grad
        }
        self.trace: Trace | None = None
        if trace:
            size = torch.cat([_sizes(state) for state in last.values()], dim=1)
            source = concatenate_assignments(list(last.values()))
            self.trace = Trace(source, size, self.initial, self._lengths, _scattered(list(first.values())))

    @property
    def between(self) -> list[dict[str, int]]:
        """Length of each sequence before the first block and after each, with what fills up shorter samples."""
        return [dict(now) for now in self._lengths_between]

    @property
    def sites(self) -> list[SiteTokens]:
        """Tokens of each stream before and after each site."""
        return [site.tokens() for site in self._sites]

    @property
    def tokens(self) -> dict[str, int | float]:
        """Tokens of each stream at the end; the mean over the samples where they keep different numbers."""
        return {name: mean(count) for name, count in self.counts.items()}

    @property
    def mean_counts(self) -> dict[str, float | Tensor]:
        """Tokens of each stream that a site leaves, the mean over sites; (B,) where samples keep different numbers."""
        after: dict[str, list[int | Tensor]] = {}
        for site in self._sites:
            after.setdefault(site.stream, []).append(site.after)
        found: dict[str, float | Tensor] = {}
        for name, counts in after.items():
            total: float | Tensor = 0.0
            for count in counts:
                total = total + (count.double() if isinstance(count, Tensor) else count)
            found[name] = total / len(counts)
        return found

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the samples of the tokens of each stream at the end; 0 where all keep as many."""
        return {name: spread(count) for name, count in self.counts.items()}

    @property
    def remarks(self) -> list[str]:
        """What a handle prints beside sites and multiply-adds."""
        return []

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of the blocks for one sample, without and with reduction.

        Linear layers and the two attention products; the reducer's own work is not counted
        (:func:`tokenreduce.count_macs` counts that too). Where samples keep different numbers of tokens, each counts by
        its own, as if it were alone, and this is the mean: what fills up shorter ones costs time but is not in here.
        """
        before, after = self._macs()
        return before, round(mean(after))

    @property
    def macs_of_samples(self) -> int | Tensor:
        """The second of :attr:`macs`; (B,), one for each sample, where they keep different numbers of tokens."""
        return self._macs()[1]

    def _macs(self) -> tuple[int, int | Tensor]:
        before: int = 0
        after: int | Tensor = 0
        start = self.between[0]
        for index, (view, role) in enumerate(self._blocks):
            later = self._between[index + 1]
            now = later if self._early else self._between[index]  # then attention sees what is left too
            memory = role.memory or role.own  # without a memory nothing is counted for it
            before += block_macs(view, start[role.own], start[role.own], start[memory])
            heads = self._computed.get((index, False), 1), self._computed.get((index, True), 1)
            rows = self._rows.get(index)
            after = after + block_macs(view, now[role.own], later[role.own], now[memory], heads, rows)
        return before, after

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "losses": {}}  # tensors with a history cannot be copied


def _between(
    states: Sequence[Mapping[str, State]],
) -> tuple[list[dict[str, int]], list[Mapping[str, int | Tensor]]]:
    """Length of each sequence in each of the states, and its tokens; what a block left alone is not counted again."""
    lengths: list[dict[str, int]] = []
    tokens: list[Mapping[str, int | Tensor]] = []
    before: Mapping[str, State] | None = None
    for now in states:
        if now is before:
            lengths.append(lengths[-1])
            tokens.append(tokens[-1])
            continue
        lengths.append({name: state.layout.length for name, state in now.items()})
        ragged = any(state.valid is not None for state in now.values())
        tokens.append({name: tokens_of(state, name) for name, state in now.items()} if ragged else lengths[-1])
        before = now
    return lengths, tokens


def sum_by_name(losses: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of several sites or stacks, those of one name summed."""
    total: dict[str, Tensor] = {}
    for terms in losses:
        for name, value in terms.items():
            total[name] = total[name] + value.to(total[name].device) if name in total else value
    return total


def concatenate_assignments(states: list[State]) -> Tensor:
    """(B, N0) final position of each input token, sequences counted one after the other; -1 where dropped."""
    parts, shift = [], 0
    for state in states:
        assert state.assignment is not None
        parts.append(torch.where(state.assignment >= 0, state.assignment + shift, -1))
        shift += state.layout.length
    return torch.cat(parts, dim=1)


def _sizes(state: State) -> Tensor:
    """(B, N) how many input tokens each token stands for, padding not counted."""
    size = state.sizes()
    if size is not None:
        return size
    assert state.assignment is not None
    if state.real is not None:
        return state.real.float()
    return torch.ones(state.assignment.shape[0], state.layout.length, device=state.assignment.device)


def _scattered(states: list[State]) -> dict[str, Tensor]:
    """(n,) where the tokens of streams that are not side by side are, sequences counted one after the other."""
    found, shift = {}, 0
    for state in states:
        for name in state.layout.streams:
            columns = state.layout.columns(name, None if state.assignment is None else state.assignment.device)
            if not isinstance(columns, slice):
                found[name] = columns[0] + shift
        shift += state.layout.length
    return found
