"""The one engine: attention, signals and applying reductions, for every method on every backbone.

A forward pass makes a fresh :class:`Run`; nothing is kept on the model. Block i reads ``run.states[i]`` and
writes ``run.states[i + 1]``, so running a block again (gradient checkpointing) gives the same. Each holds
one :class:`State` per sequence.

Axes: B batch, H heads, N tokens, M memory tokens, C width, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import plain_size
from ..backbones.dispatch import device_of, loaded
from ..backbones.layout import Layout
from ..backbones.positions import Positions
from ..core.columns import kept_columns
from ..core.composition import combine
from ..core.gate import Gate, share_left
from ..core.heads import HeadMasks
from ..core.reduction import Reduction, compose_assignments
from ..core.site import Site
from ..core.state import State
from ..core.tokens import Tokens
from ..errors import UnsupportedCallError
from ..methods.contract import check_reductions
from .attention import attend, attention
from .binding import Binding
from .outputs import Ending, Undo
from .record import Record, SiteCounts
from .site_io import BlockTokens, SiteReader

States = dict[str, State]
ORDER = "blocks must run in order, after run.start(...)"


class BlockResult(NamedTuple):
    """What one block gives: its tokens and its memory, and both as they were before the site where that is needed.

    All of it goes through a checkpoint, so that gradients reach dropped tokens that are restored at the end.
    """

    x: Tensor
    memory: Tensor | None = None
    before: Tensor | None = None
    memory_before: Tensor | None = None


class Run:
    """One forward pass through one stack.

    Reducer, guide, sites and output are those at its beginning, also when a block is run again for its gradient.
    """

    def __init__(self, binding: Binding) -> None:
        binding.look()
        binding.check_acting()
        self.binding, self.reducer, self.guide = binding, binding.acting, binding.guide
        self.space = binding.space
        self.blocks, self.output = binding.guard.blocks(), binding.output
        self.views, self.roles = binding.views, binding.roles
        self.early, self.proportional = self.reducer.position == "before_block", self.reducer.proportional_attention
        self.paused = binding.pauses > 0
        self.sites: Mapping[int, Site] = {} if self.paused else binding.live
        self.idle: Mapping[int, Site] = binding.idle
        self.differentiates = torch.is_grad_enabled()
        self.losses: dict[int, dict[str, Tensor]] = {}
        self.states: list[States | None] = [None] * (len(binding.views) + 1)
        self.undo: dict[tuple[int, str], Undo] = {}
        self.done: dict[tuple[int, str], Reduction] = {}
        self.counts: dict[int, list[SiteCounts]] = {}
        self.memory: dict[int, Tensor] = {}
        self.heads: dict[tuple[int, bool], Tensor] = {}
        self._biases: dict[tuple[int, torch.dtype], tuple[State, Tensor | None]] = {}

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
                [{name: state.on(device) for name, state in states.items()} for states in self.states if states],
                trace=binding.trace,
                losses=list(self.losses.values()),
                heads=self.heads,
                blocks=binding.blocks,
                early=self.early,
            )
            if binding.last.trace is not None and "image" in last:
                binding.last.trace.places = self.places()
        undo = {name: [self.undo[i, n] for i, n in sorted(self.undo, reverse=True) if n == name] for name in first}
        return tuple(
            self.output(x, Ending(first[name], last[name], undo[name]).on(x.device))
            for name, x in zip(first, tokens, strict=True)
        )

    def _count_idle(self) -> None:
        """Note the tokens at sites where the reducer does nothing, which are blocks like others."""
        for index, site in self.idle.items():
            states, sequence = self.states[index + 1], self.roles[index].own
            if states is not None:
                state = states[sequence]
                self.counts[index] = [SiteCounts.of(site, name, state, state) for name in state.layout.lengths]

    def alone(self, index: int) -> bool:
        """Whether nothing happens in block ``index`` but the block itself."""
        return index not in self.sites and self.roles[index].memory is None

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
            result = self._attend(index, x, memory, training)  # projections are let go before the MLP makes its own
            return result._replace(x=self.views[index].mlp(result.x))

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
        states = {name: state.on(x.device) for name, state in states.items()}  # a block's, wherever the last one ran
        result = BlockResult(x, memory)
        if site is not None and self.early:
            other = None if memory is None or role.memory is None else BlockTokens(memory, states[role.memory])
            result, states = self._reduce(index, site, BlockTokens(x, states[role.own]), other, states, training)
            x, memory, site = result.x, result.memory, None
        own = states[role.own]
        projected = view.project(x) if own.positions is None else view.project_at(x, own.positions)
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
        result = result._replace(x=x)
        if site is not None:
            result, states = self._reduce(index, site, BlockTokens(x, own, projected, bias), crossed, states, training)
        self.states[index + 1] = states
        return result

    def _reduce(
        self, index: int, site: Site, own: BlockTokens, memory: BlockTokens | None, states: States, training: bool
    ) -> tuple[BlockResult, States]:
        if self.binding.around is None:
            return self._act(index, site, own, memory, states, training)
        with self.binding.around():
            return self._act(index, site, own, memory, states, training)

    def _act(
        self, index: int, site: Site, own: BlockTokens, memory: BlockTokens | None, states: States, training: bool
    ) -> tuple[BlockResult, States]:
        role, reducer = self.roles[index], self.reducer
        losses: dict[str, Tensor] = {}
        reader = SiteReader(self.binding.stack, reducer, self.views[index], training, self.guide, self.space)
        device = own.x.device
        modules = [reducer] if isinstance(reducer, nn.Module) else []  # with weights, on a device of their own
        for module in modules:
            device = device_of(module)
        heads = self._heads_before(index, device) if reducer.masks_heads and self.early else None
        with loaded(*modules):
            seen = own.on(device), None if memory is None else memory.on(device)
            streams = reader.streams(*seen, losses if training else None, heads)
            chosen = reducer.reduce_streams(streams, site)
            check_reductions(chosen, streams, reducer)
        chosen = {name: value.on(own.x.device) for name, value in chosen.items()}
        masks: dict[tuple[int, bool], Tensor] = {}
        if heads is not None:
            masks = {at: mask.to(own.x.device) for at, mask in self.binding.head_masks(index, heads.given).items()}
            self.heads.update(masks)
        if losses or masks or any(isinstance(value, Gate) for value in chosen.values()):
            self._check_gradient(index)
        if losses:
            self.losses[index] = losses
        self.counts[index] = []
        x, before, state = self._shrink(index, site, role.own, own, chosen)
        if state is not own.state:  # what is left alone keeps its states, so that nothing is counted twice
            states = {**states, role.own: state}
        if memory is None or role.memory is None:
            return BlockResult(x, None, before), states
        states = dict(states)
        y, memory_before, states[role.memory] = self._shrink(index, site, role.memory, memory, chosen)
        return BlockResult(x, y, before, memory_before), states

    def _heads_before(self, index: int, device: torch.device) -> HeadMasks:
        """What has been said of the heads of earlier blocks; takes what is said of this one's."""
        said = sorted(self.heads.items(), key=_place)
        return HeadMasks(tuple(values.to(device) for (block, _), values in said if block < index))

    def _check_gradient(self, index: int) -> None:
        """Raise UnsupportedCallError where a gate or a loss would lose its gradient."""
        if self.differentiates and not torch.is_grad_enabled():
            raise UnsupportedCallError(
                f"block {index} is checkpointed with use_reentrant=True, which loses the gradients of "
                f"{type(self.reducer).__name__}'s gates and losses; switch it on with {{'use_reentrant': False}}"
            )

    def check_restored(self, index: int, result: BlockResult) -> None:
        """Raise UnsupportedCallError where tokens that are restored at the end would lose their gradient."""
        beside = any(side is not None for side in (result.memory, result.before, result.memory_before))
        if beside and self.differentiates and not torch.is_grad_enabled():
            raise UnsupportedCallError(
                f"block {index} runs inside a checkpoint with use_reentrant=True, which loses the gradients of all "
                "that the block gives beside its tokens; wrap it with use_reentrant=False (CheckpointImpl.NO_REENTRANT)"
            )

    def _shrink(
        self, index: int, site: Site, sequence: str, seen: BlockTokens, chosen: Mapping[str, Reduction | Gate]
    ) -> tuple[Tensor, Tensor | None, State]:
        """One sequence with the gates and reductions of its streams applied; and as it was, where that is needed."""
        x, rows = seen.x, self.counts[index]
        state = _gated(seen.state, chosen) if chosen else seen.state
        layout = state.layout
        names = (*layout.lengths, layout.name) if chosen else ()
        share, gate = None, None if state is seen.state else state.gate()
        if gate is not None and self.output.holds([n for n in names if isinstance(chosen.get(n), Gate)]):
            share = share_left(seen.state.gate(), gate)
            self.undo[index, sequence] = Undo(x, share=share)
        reductions = {n: value for n, value in chosen.items() if isinstance(value, Reduction) and n in names}
        if not reductions:
            if sequence == self.roles[index].own or state is not seen.state:  # a memory, where something is done
                rows += [SiteCounts.of(site, name, state, state) for name in layout.lengths]
            return x, None if share is None else x, state
        whole, left = combine(layout, reductions, x.shape[0], x.device, x.dtype)
        gates = {n: r.side(state.gates[n], 1.0) for n, r in reductions.items() if n in state.gates}
        past = {n: tuple(reductions[n].side(gate, 1.0) for gate in state.past_gates[n]) for n in gates}
        tokens = Tokens(x, state.size, state.real).after(whole)
        assignment, kept = state.assignment, None
        if assignment is not None:
            end = whole.assignment()
            assignment = compose_assignments(assignment, end)
            kept = x if share is not None or self.output.keeps(reductions, whole, left.mixed) else None
            self.undo[index, sequence] = Undo(kept, end, share)
        self.done[index, sequence] = whole
        changed = replace(
            state,
            layout=left,
            size=tokens.given_size,
            real=tokens.real,
            assignment=assignment,
            drops=state.drops or whole.drops,
            gates={**state.gates, **gates},
            past_gates={**state.past_gates, **past},
            positions=state.moved(whole),
            valid=state.valid_after(whole),
        )
        before = [layout.name] if layout.name in reductions else list(layout.lengths)
        rows += [SiteCounts.of(site, name, state, changed) for name in before]
        return tokens.x, kept, changed


def _place(item: tuple[tuple[int, bool], Tensor]) -> tuple[int, bool]:
    return item[0]


def _gated(state: State, chosen: Mapping[str, Reduction | Gate]) -> State:
    """The state with the gates that the reducer has set on its streams."""
    gates = {}
    for name in state.layout.lengths:
        gate = chosen.get(name)
        if isinstance(gate, Gate):
            gates[name] = gate.effective(state.layout.prefix(name), state.real_of(name))
    return state.with_gates(gates) if gates else state
