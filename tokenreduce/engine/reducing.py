"""What a reducer's choice does at a site: to tokens, states, gates, masks on heads and counts.

Axes: B batch, H heads, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..backbones.dispatch import device_of, loaded
from ..core.composition import combine
from ..core.gate import Gate, share_left
from ..core.heads import HeadMasks
from ..core.reduction import Reduction, compose_assignments
from ..core.site import Site
from ..core.state import State
from ..core.tokens import Tokens
from ..errors import UnsupportedCallError
from ..methods.contract import check_reductions
from .one_pass import BlockResult, PassState, States
from .outputs import Undo
from .record import SiteCounts
from .site_io import BlockTokens, SiteReader


class Reducing(PassState):
    """A pass that can reduce at a site."""

    def reduce(
        self, index: int, site: Site, own: BlockTokens, memory: BlockTokens | None, states: States, training: bool
    ) -> tuple[BlockResult, States]:
        if self.binding.around is None:
            return self._act(index, site, own, memory, states, training)
        with self.binding.around():
            return self._act(index, site, own, memory, states, training)

    def _act(
        self, index: int, site: Site, own: BlockTokens, memory: BlockTokens | None, states: States, training: bool
    ) -> tuple[BlockResult, States]:
        role, reducer, device = self.roles[index], self.reducer, own.x.device
        losses: dict[str, Tensor] = {}
        reader = SiteReader(self.binding.stack, reducer, self.views[index], training, self.guide, self.space)
        kept = losses if training else None
        modules = (reducer,) if isinstance(reducer, nn.Module) else ()  # with weights, on a device of their own
        place = device_of(reducer) if isinstance(reducer, nn.Module) else device
        heads = self._heads_before(index, place) if reducer.masks_heads and self.early else None
        with loaded(*modules):
            streams = reader.streams(own.on(place), None if memory is None else memory.on(place), kept, heads)
            chosen = reducer.reduce_streams(streams, site)
            check_reductions(chosen, streams, reducer)
        self._mask(index, heads, device)
        chosen = {name: value.on(device) for name, value in chosen.items()}
        if losses:
            self.losses[index] = losses
        if losses or any(isinstance(value, Gate) for value in chosen.values()):
            self._check_gradient(index)
        self.counts[index] = []
        x, before, state = self._shrink(index, site, role.own, own, chosen)
        if state is not own.state:  # what is left alone keeps its states, so that nothing is counted twice
            states = {**states, role.own: state}
        if memory is None or role.memory is None:
            return BlockResult(x, None, before), states
        states = dict(states)
        y, memory_before, states[role.memory] = self._shrink(index, site, role.memory, memory, chosen)
        return BlockResult(x, y, before, memory_before), states

    def _mask(self, index: int, heads: HeadMasks | None, device: torch.device) -> None:
        """Note the masks that a reducer has set on heads."""
        if heads is not None and heads.given:
            self.heads.update({at: m.to(device) for at, m in self.binding.head_masks(index, heads.given).items()})
            self._check_gradient(index)

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

    def _shrink(
        self, index: int, site: Site, sequence: str, seen: BlockTokens, chosen: Mapping[str, Reduction | Gate]
    ) -> tuple[Tensor, Tensor | None, State]:
        """One sequence with the gates and reductions of its streams applied; and as it was, where that is needed."""
        whole = chosen.get(seen.state.layout.name)
        if isinstance(whole, Reduction) and len(chosen) == 1 and seen.state.plain:
            return self._shrink_plain(index, site, sequence, seen, whole)
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

    def _shrink_plain(
        self, index: int, site: Site, sequence: str, seen: BlockTokens, whole: Reduction
    ) -> tuple[Tensor, None, State]:
        """The same for a sequence of one stream about which nothing else is known, as in most passes of a ViT."""
        x, state = seen.x, seen.state
        _, left = combine(state.layout, {state.layout.name: whole}, x.shape[0], x.device, x.dtype)
        tokens = Tokens(x, state.size).after(whole)
        self.done[index, sequence] = whole
        drops = state.drops or whole.drops
        changed = State(left, state.initial, tokens.given_size, tokens.real, None, drops, valid=whole.valid)
        self.counts[index].append(SiteCounts.of(site, left.name, state, changed))
        return tokens.x, None, changed


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
