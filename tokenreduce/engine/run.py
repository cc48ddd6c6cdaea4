"""The one engine: attention, signals and applying reductions, for every method on every backbone.

A forward pass makes a fresh :class:`Run`; nothing is kept on the model. Block i reads ``run.states[i]`` and
writes ``run.states[i + 1]``, so running a block again (gradient checkpointing) gives the same. Each holds
one :class:`State` per sequence.

Axes: B batch, H heads, N tokens, M memory tokens, C width, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._torch import plain_size
from ..backbones.dispatch import loaded
from ..backbones.layout import Layout
from ..backbones.positions import Positions
from ..core.columns import kept_columns
from ..core.reduction import compose_assignments
from ..core.state import State
from ..errors import UnsupportedCallError
from .attention import attend, attention
from .one_pass import BlockResult, States
from .outputs import Ending
from .record import Record, SiteCounts
from .reducing import Reducing
from .site_io import BlockTokens

ORDER = "blocks must run in order, after run.start(...)"


class Run(Reducing):
    """One forward pass through one stack."""

    def start(
        self,
        x: Tensor,
        lengths: Mapping[str, int] | Layout,
        real: Tensor | None = None,
        positions: Positions | None = None,
    ) -> None:
        """Begin a sequence; once for each sequence of the stack.

        Args:
            x: tokens (B, N, C).
            lengths: tokens of each stream in sequence order, or a layout where a stream occurs several times.
            real: (B, N) False for padding.
            positions: per-token tensors (B or 1, N, ...) that ``BlockView.project_at`` is given, reduced with the
                tokens.
        """
        if self.binding.trace and not self.paused and self.binding.stack.drops_patches:
            raise UnsupportedCallError(
                "patch dropout takes patches away at random before the first block while training, so a trace could "
                "not say which patch a token was; call model.eval(), set the rate to 0, or attach without "
                "trace=True"
            )
        assignment = None
        if self.binding.track and not self.paused:
            assignment = torch.arange(plain_size(x.shape[1]), device=x.device).expand(x.shape[0], -1)
        if isinstance(lengths, Layout):
            layout = lengths
        else:
            plain = {name: plain_size(n) for name, n in lengths.items()}
            layout = Layout.of(plain, self.binding.stack.prefix)
        state = State(layout, layout, None, real, assignment, positions=positions)
        self.states[0] = {**(self.states[0] or {}), layout.name: state}

    def __call__(self, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Run every block of a stack with one sequence.

        ``seen`` collects the tokens before the first block and after each.
        """
        if seen is not None:
            self.check_whole("output_hidden_states=True")
            seen.append(x)
        for index in range(len(self.binding.views)):
            x, _ = self.block(index, x)
            if seen is not None:
                seen.append(x)
        return self.finish(x)[0]

    def block(self, index: int, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run block ``index`` on its own tokens and its memory; both as they are afterwards.

        A block without a memory gives its own tokens twice.
        """
        stack = self.binding.stack
        if memory is None:
            x = stack.unpack(self.blocks[index](x, run=self))
            return x, x
        x = stack.unpack(self.blocks[index](x, memory, run=self))
        return x, self.memory.pop(index)

    def follow(self, sequence: str, x: Tensor, since: int = 0) -> Tensor:
        """Reduce further tokens (B, N, C) of a sequence as it was reduced in block ``since`` and later ones."""
        for (index, name), reduction in self.done.items():
            if name == sequence and index >= since:
                x = reduction.on(x.device).detach().apply(x)
        return x

    def places(self, sequence: str = "image") -> Tensor | None:
        """(B, N0) of each input token of a sequence the one at whose place it is at the end, -1 where it was dropped.

        None where nothing was reduced, or the stack does not need every token at its place at the end.
        """
        states = self.states[-1]
        done = [reduction for (_, name), reduction in self.done.items() if name == sequence]
        if states is None or not done or states[sequence].assignment is None:
            return None
        assignment = states[sequence].assignment
        assert assignment is not None
        kept = torch.arange(assignment.shape[1], device=assignment.device).expand(assignment.shape[0], -1)
        for reduction in done:
            kept = kept_columns(kept, reduction.on(kept.device))
        return compose_assignments(assignment, kept)

    def check_whole(self, what: str) -> None:
        """Raise UnsupportedCallError where the last block computes only what the head reads; ``what`` asks for more."""
        if self.readout is not None:
            self.readout.check_whole(what)

    def finish(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Record the pass and return what the rest of the model expects: the tokens of each sequence started.

        A pass in ``handle.paused()`` leaves the record of the one before.
        """
        first, last, binding = self.states[0], self.states[-1], self.binding
        assert first is not None and last is not None
        if not self.paused:
            self._count_idle()
            device = tokens[0].device
            binding.last = Record(
                [row for index in sorted(self.counts) for row in self.counts[index]],
                self._states_on(device),
                trace=binding.trace,
                losses=list(self.losses.values()),
                heads=self.heads,
                blocks=binding.blocks,
                early=self.early,
                rows=None if self.readout is None else {self.readout.index: self.readout.rows},
            )
            if binding.last.trace is not None and "image" in last:
                binding.last.trace.places = self.places()
        undo = {name: [self.undo[i, n] for i, n in sorted(self.undo, reverse=True) if n == name] for name in first}
        return tuple(
            self.output(x, Ending(first[name], last[name], undo[name]).on(x.device))
            for name, x in zip(first, tokens, strict=True)
        )

    def _states_on(self, device: torch.device) -> list[States]:
        """The states that blocks have left, on one device; a block that did nothing leaves the very ones before."""
        left: list[States] = []
        before: States | None = None
        for states in self.states:
            if states is not None:
                same = states is before
                left.append(left[-1] if same else {name: state.on(device) for name, state in states.items()})
                before = states
        return left

    def _count_idle(self) -> None:
        """Note the tokens at sites where the reducer does nothing, which are blocks like others."""
        for index, site in self.idle.items():
            states, sequence = self.states[index + 1], self.roles[index].own
            if states is not None:
                state = states[sequence]
                self.counts[index] = [SiteCounts.of(site, name, state, state) for name in state.layout.lengths]

    def alone(self, index: int) -> bool:
        """Whether nothing happens in block ``index`` but the block itself."""
        return index not in self.sites and self.roles[index].memory is None and self.rows(index) is None

    def rows(self, index: int) -> int | None:
        """How many tokens in front are all that block ``index`` computes; None for every token."""
        return None if self.readout is None or index != self.readout.index else self.readout.rows

    def plain(self, index: int, x: Tensor, training: bool) -> Tensor:
        """Run a block in which nothing else happens (:meth:`alone`)."""
        states, view = self.states[index], self.views[index]
        if states is None:
            raise UnsupportedCallError(ORDER)
        self.states[index + 1] = states
        own = states[self.roles[index].own].on(x.device)
        if view.direct and not own.gates and own.positions is None and self._bare(own):
            block: Any = self.binding.stack.blocks[index]
            whole: Tensor = type(block).forward(block, x)
            return whole
        with loaded(*self.binding.guard.offloaded[index]):
            projected = view.project(x) if own.positions is None else view.project_at(x, own.positions)
            if own.gates:
                context, _ = attend(own, view, projected, self.proportional, training)
            else:
                context = attention(view, projected, self._bias(own, projected.query), training)
            return view.mlp(view.attend(x, context, projected))

    def _bare(self, state: State) -> bool:
        """Whether attention to tokens without gates has no bias."""
        return state.real is None and (state.size is None or not self.proportional)

    def _bias(self, state: State, query: Tensor) -> Tensor | None:
        """The bias of a state without gates, made once for all blocks in which it is the same."""
        if self._bare(state):
            return None
        if torch.is_grad_enabled():  # a checkpoint must record the same when a block runs again
            return state.bias(query, self.proportional)
        key = id(state), query.dtype
        if key not in self._biases:
            self._biases[key] = state, state.bias(query, self.proportional)
        return self._biases[key][1]

    def step(self, index: int, x: Tensor, memory: Tensor | None, training: bool) -> BlockResult:
        """Run one block on the tokens, reduction included."""
        with loaded(*self.binding.guard.offloaded[index]):
            x, *beside = self._attend(index, x, memory, training)  # projections are let go before the MLP makes its own
            return BlockResult(self.views[index].mlp(x), *beside)

    def close(self, index: int, result: BlockResult) -> None:
        """Take in what a block gave, after its checkpoint where there is one."""
        role = self.binding.roles[index]
        for name, before in ((role.own, result.before), (role.memory, result.memory_before)):
            if before is not None and name is not None:
                self.undo[index, name] = replace(self.undo[index, name], before=before)
        if result.memory is not None:
            self.memory[index] = result.memory

    def _attend(self, index: int, x: Tensor, memory: Tensor | None, training: bool) -> BlockResult:
        states = self.states[index]
        if states is None:
            raise UnsupportedCallError(ORDER)
        view, role, site = self.views[index], self.roles[index], self.sites.get(index)
        device = x.device
        states = {name: state.on(device) for name, state in states.items()}  # a block's, wherever the last one ran
        result = BlockResult(x, memory)
        if site is not None and self.early:
            other = None if memory is None or role.memory is None else BlockTokens(memory, states[role.memory])
            result, states = self.reduce(index, site, BlockTokens(x, states[role.own]), other, states, training)
            x, memory, site = result.x, result.memory, None
        own = states[role.own]
        projected = view.project(x) if own.positions is None else view.project_at(x, own.positions)
        rows = self.rows(index)
        if rows is not None:
            x, projected = x[:, :rows], projected.front(rows)
        masked = self.heads.get((index, False)) if self.heads else None
        if own.gates or masked is not None:
            context, bias = attend(own, view, projected, self.proportional, training, masked)
        else:
            bias = self._bias(own, projected.query)
            context = attention(view, projected, bias, training)
        x = view.attend(x, context, projected)
        crossed = None
        if memory is not None and role.memory is not None:
            seen = view.project_memory(x, memory)
            masked = self.heads.get((index, True)) if self.heads else None
            context, memory_bias = attend(states[role.memory], view, seen, self.proportional, training, masked)
            x = view.attend_memory(x, context, seen)
            crossed = BlockTokens(memory, states[role.memory], seen, memory_bias)
        if site is not None:
            result, states = self.reduce(index, site, BlockTokens(x, own, projected, bias), crossed, states, training)
        else:
            result = result._replace(x=x)
        self.states[index + 1] = states
        return result

    def check_restored(self, index: int, result: BlockResult) -> None:
        """Raise UnsupportedCallError where tokens that are restored at the end would lose their gradient."""
        beside = any(side is not None for side in (result.memory, result.before, result.memory_before))
        if beside and self.differentiates and not torch.is_grad_enabled():
            raise UnsupportedCallError(
                f"block {index} runs inside a checkpoint with use_reentrant=True, which loses the gradients of all "
                "that the block gives beside its tokens; wrap it with use_reentrant=False (CheckpointImpl.NO_REENTRANT)"
            )
