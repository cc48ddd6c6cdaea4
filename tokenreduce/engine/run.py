"""The one engine: attention, signals and applying reductions, for every method on every backbone.

A forward pass makes a fresh :class:`Run`; nothing is kept on the model. Block i reads ``run.states[i]`` and
writes ``run.states[i + 1]``, so running a block again (gradient checkpointing) gives the same. Each holds
one :class:`State` per sequence.

Axes: B batch, H heads, N tokens, M memory tokens, C width, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.gate import Gate, pool_as_kept
from ..core.reduction import Reduction, compose_assignments, join, spread
from ..core.site import Site
from ..core.state import State
from ..core.tokens import Tokens
from ..errors import UnsupportedCallError
from ..methods.contract import check_reductions
from .attention import attend
from .binding import Binding
from .record import Record
from .site_io import BlockTokens, image_mask, make_streams

States = dict[str, State]


Undo = tuple["Tensor | None", Tensor]  # tokens before a site, where needed again; where each of them went


class Run:
    """One forward pass through one stack.

    Reducer, guide and sites are those at its beginning, also when a block is run again for its gradient.
    """

    def __init__(self, bound: Binding) -> None:
        self.bound, self.reducer, self.guide = bound, bound.reducer, bound.guide
        self.paused = bound.pauses > 0
        self.sites: Mapping[int, Site] = {} if self.paused else bound.sites
        self.differentiates = torch.is_grad_enabled()
        self.losses: dict[int, dict[str, Tensor]] = {}
        self.states: list[States | None] = [None] * (len(bound.views) + 1)
        self.undo: dict[tuple[int, str], Undo] = {}
        self.done: dict[tuple[int, str], Reduction] = {}
        self.counts: dict[int, list[tuple[int, str, int, int]]] = {}
        self.memory: dict[int, Tensor] = {}

    def start(self, x: Tensor, lengths: Mapping[str, int], real: Tensor | None = None) -> None:
        """Begin a sequence: tokens (B, N, C) of streams with these lengths; ``real`` (B, N) is False for padding.

        Call it once for each sequence of the stack.
        """
        assignment = None
        if self.bound.track and not self.paused:
            assignment = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        state = State(dict(lengths), None, real, assignment, initial=dict(lengths))
        self.states[0] = {**(self.states[0] or {}), "+".join(lengths): state}

    def __call__(self, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Run every block of a stack with one sequence.

        ``seen`` collects the tokens before the first block and after each.
        """
        if seen is not None:
            seen.append(x)
        for index in range(len(self.bound.views)):
            x, _ = self.block(index, x)
            if seen is not None:
                seen.append(x)
        return self.finish(x)[0]

    def block(self, index: int, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run block ``index`` on its own tokens and its memory; both as they are afterwards.

        A block without a memory gives its own tokens twice.
        """
        stack = self.bound.stack
        if memory is None:
            x = stack.unpack(stack.blocks[index](x, run=self))
            return x, x
        x = stack.unpack(stack.blocks[index](x, memory, run=self))
        return x, self.memory.pop(index)

    def follow(self, sequence: str, x: Tensor, since: int = 0) -> Tensor:
        """Reduce further tokens (B, N, C) of a sequence as it was reduced in block ``since`` and later ones."""
        for (index, name), reduction in self.done.items():
            if name == sequence and index >= since:
                x = reduction.detach().apply(x)
        return x

    def finish(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Record the pass and hand back what the rest of the model expects: the tokens of each sequence started.

        A pass in ``handle.paused()`` leaves the record of the one before.
        """
        first, last, bound = self.states[0], self.states[-1], self.bound
        assert first is not None and last is not None
        if not self.paused:
            counts = [row for index in sorted(self.counts) for row in self.counts[index]]
            between = [
                {name: sum(s.lengths.values()) for name, s in states.items()} for states in self.states if states
            ]
            bound.last = Record(counts, first, last, between, bound.trace, list(self.losses.values()))
        return tuple(self._end(name, x, first[name], last[name]) for name, x in zip(first, tokens, strict=True))

    def step(self, index: int, x: Tensor, memory: Tensor | None, training: bool) -> tuple[Tensor, Tensor | None]:
        """Run one block on the tokens, reduction included."""
        x, memory = self._attend(index, x, memory, training)  # projections are let go before the MLP makes its own
        return self.bound.views[index].mlp(x), memory

    def _attend(self, index: int, x: Tensor, memory: Tensor | None, training: bool) -> tuple[Tensor, Tensor | None]:
        states, bound = self.states[index], self.bound
        if states is None:
            raise UnsupportedCallError("blocks must run in order, after run.start(...)")
        view, role, site = bound.views[index], bound.roles[index], self.sites.get(index)
        if site is not None and self.reducer.position == "before_block":
            other = None if memory is None or role.memory is None else BlockTokens(memory, states[role.memory])
            x, memory, states = self._reduce(index, site, BlockTokens(x, states[role.own]), other, states, training)
            site = None
        proportional = self.reducer.proportional_attention
        own = states[role.own]
        projected = view.project(x)
        context, bias = attend(own, view, projected, proportional, training)
        x = view.attend(x, context, projected)
        crossed = None
        if memory is not None and role.memory is not None:
            seen = view.project_memory(x, memory)
            context, memory_bias = attend(states[role.memory], view, seen, proportional, training)
            x = view.attend_memory(x, context, seen)
            crossed = BlockTokens(memory, states[role.memory], seen, memory_bias)
        if site is not None:
            x, memory, states = self._reduce(
                index, site, BlockTokens(x, own, projected, bias), crossed, states, training
            )
        self.states[index + 1] = states
        return x, memory

    def _reduce(
        self, index: int, site: Site, own: BlockTokens, memory: BlockTokens | None, states: States, training: bool
    ) -> tuple[Tensor, Tensor | None, States]:
        if self.bound.around is None:
            return self._act(index, site, own, memory, states, training)
        with self.bound.around():
            return self._act(index, site, own, memory, states, training)

    def _act(
        self, index: int, site: Site, own: BlockTokens, memory: BlockTokens | None, states: States, training: bool
    ) -> tuple[Tensor, Tensor | None, States]:
        bound, role, reducer = self.bound, self.bound.roles[index], self.reducer
        losses: dict[str, Tensor] = {}
        scale = bound.views[index].scale
        streams = make_streams(
            bound.stack, reducer, own, memory, scale, training, self.guide, losses if training else None
        )
        chosen = reducer.reduce_streams(streams, site)
        check_reductions(chosen, streams, reducer)
        if losses or any(isinstance(value, Gate) for value in chosen.values()):
            self._check_gradient(index)
        self.losses[index], self.counts[index] = losses, []
        x, state = self._shrink(index, site, role.own, own, chosen)
        states = {**states, role.own: state}
        if memory is None or role.memory is None:
            return x, None, states
        y, states[role.memory] = self._shrink(index, site, role.memory, memory, chosen)
        return x, y, states

    def _check_gradient(self, index: int) -> None:
        """Raise UnsupportedCallError where a gate or a loss would lose its gradient."""
        if self.differentiates and not torch.is_grad_enabled():
            raise UnsupportedCallError(
                f"block {index} is checkpointed with use_reentrant=True, which loses the gradients of "
                f"{type(self.reducer).__name__}'s gates and losses; switch it on with {{'use_reentrant': False}}"
            )

    def _shrink(
        self, index: int, site: Site, sequence: str, seen: BlockTokens, chosen: Mapping[str, Reduction | Gate]
    ) -> tuple[Tensor, State]:
        """One sequence with the gates and reductions of its streams applied."""
        x, rows = seen.x, self.counts[index]
        state = self._gated(seen.state, chosen)
        reductions = {name: value for name, value in chosen.items() if isinstance(value, Reduction)}
        lengths, gates = dict(state.lengths), state.gates
        if "joint" not in reductions and not any(name in reductions for name in lengths):
            if sequence == self.bound.roles[index].own or state is not seen.state:  # a memory, where something is done
                rows += [(site.layer, name, n, n) for name, n in lengths.items()]
            return x, state
        is_image = state.is_image
        if "joint" in reductions:
            whole = reductions["joint"]
            is_image = whole.take(image_mask(x, state))
            removed = sum(lengths.values()) - whole.count
            rows.append((site.layer, "text+image", whole.length, whole.count))
            from_image = min(removed, lengths["image"] - 1)  # nominal: what merged with what differs per sample
            lengths["image"] -= from_image
            lengths["text"] -= removed - from_image
        else:
            batch, device = x.shape[0], x.device
            parts = [reductions.get(n) or Reduction.identity(batch, k, device) for n, k in state.lengths.items()]
            whole = join(parts)
            gates = {n: part.side(gates[n], 1.0) for n, part in zip(lengths, parts, strict=True) if n in gates}
            lengths = {n: part.count for n, part in zip(state.lengths, parts, strict=True)}
            rows += [(site.layer, n, state.lengths[n], k) for n, k in lengths.items()]
        left = Tokens(x, state.size, state.real).after(whole)
        assignment = state.assignment
        if assignment is not None:
            end = whole.assignment()
            assignment = compose_assignments(assignment, end)
            wanted = reductions.get("text") if self.bound.output == "text" and is_image is None else whole
            keep_last = self.bound.output != "reduced" and wanted is not None and wanted.drops
            self.undo[index, sequence] = (x if keep_last else None, end)
        self.done[index, sequence] = whole
        drops = state.drops or whole.drops
        return left.x, State(lengths, left.size, left.real, assignment, is_image, drops, state.initial, gates)

    def _gated(self, state: State, chosen: Mapping[str, Reduction | Gate]) -> State:
        """The state with the gates that the reducer has set on its streams."""
        begin, gates = 0, {}
        for name, length in state.lengths.items():
            gate = chosen.get(name)
            if isinstance(gate, Gate):
                real = None if state.real is None else state.real[:, begin : begin + length]
                gates[name] = gate.effective(self.bound.stack.prefix[name], real)
            begin += length
        return state.with_gates(gates) if gates else state

    def _end(self, sequence: str, x: Tensor, first: State, last: State) -> Tensor:
        """Hand back what the rest of the model expects of one sequence."""
        output, assignment, gate = self.bound.output, last.assignment, last.gate()
        if gate is not None and output == "repeated" and len(last.lengths) == 1:
            x = pool_as_kept(x, gate, self.bound.stack.prefix[sequence])
        if assignment is None or output == "reduced" or not any(name == sequence for _, name in self.undo):
            return x
        if output == "repeated":
            if last.size is None:  # nothing was merged: the survivors stand for themselves
                return x
            return self._restore(sequence, x) if last.drops else spread(x, assignment)
        if output == "text":
            if "text" not in first.lengths:
                return x
            text, rest = first.lengths["text"], last.lengths["text"]
            if last.is_image is not None:  # merged across modalities: what follows [CLS] may be of the image
                rest = self.bound.stack.prefix["text"]
            elif all(before is None for before, _ in self.undo.values()):  # no text was dropped
                return torch.cat([spread(x, assignment[:, :text]), x[:, rest:]], dim=1)
            return torch.cat([self._restore(sequence, x)[:, :text], x[:, rest:]], dim=1)
        return self._restore(sequence, x)

    def _restore(self, sequence: str, x: Tensor) -> Tensor:
        """Every token at its place: merged ones share their value, dropped ones have the last value they had."""
        for index, name in sorted(self.undo, reverse=True):
            if name == sequence:
                before, end = self.undo[index, name]
                x = spread(x, end, None if before is None else before.to(x.dtype))
        return x
