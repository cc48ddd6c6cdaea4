"""The one engine: attention, signals and applying reductions, for every method on every backbone.

A forward pass makes a fresh :class:`Run`; nothing is kept on the model. Block i reads ``run.states[i]`` and
writes ``run.states[i + 1]``, so running a block again (gradient checkpointing) gives the same. Each holds
one :class:`State` per sequence.

Axes: B batch, H heads, N tokens, M memory tokens, C width, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import BlockView, Projected
from .bound import Bound, Record
from .errors import UnsupportedCallError
from .gather import Seen, check_reductions, joint_kind, make_streams
from .reduction import Reduction, follow, join, spread
from .state import State
from .streams import Site
from .tokens import Tokens

States = dict[str, State]
Undo = tuple["Tensor | None", Tensor]  # tokens before a site, where needed again; where each of them went


class Run:
    """One forward pass through one stack."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
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
        if self.bound.track:
            assignment = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        state = State(dict(lengths), None, real, assignment, text=lengths.get("text", 0))
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
                x = reduction.detached().apply(x)
        return x

    def finish(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Record the pass and hand back what the rest of the model expects: the tokens of each sequence started."""
        first, last, bound = self.states[0], self.states[-1], self.bound
        assert first is not None and last is not None
        counts = [row for index in sorted(self.counts) for row in self.counts[index]]
        between = [{name: sum(s.lengths.values()) for name, s in states.items()} for states in self.states if states]
        bound.last = Record(counts, first, last, between, bound.trace)
        return tuple(self._end(name, x, first[name], last[name]) for name, x in zip(first, tokens, strict=True))

    def step(self, index: int, x: Tensor, memory: Tensor | None, training: bool) -> tuple[Tensor, Tensor | None]:
        """Run one block on the tokens, reduction included."""
        x, memory = self._attend(index, x, memory, training)  # projections are let go before the MLP makes its own
        return self.bound.views[index].mlp(x), memory

    def _attend(self, index: int, x: Tensor, memory: Tensor | None, training: bool) -> tuple[Tensor, Tensor | None]:
        states, bound = self.states[index], self.bound
        if states is None:
            raise UnsupportedCallError("blocks must run in order, after run.start(...)")
        view, role = bound.views[index], bound.roles[index]
        proportional = bound.reducer.proportional_attention
        own = states[role.own]
        projected = view.project(x)
        bias = own.bias(projected.query, proportional)
        x = view.attend(x, attention(view, projected, bias, training), projected)
        crossed = None
        if memory is not None and role.memory is not None:
            other = states[role.memory]
            seen = view.project_memory(x, memory)
            memory_bias = other.bias(seen.query, proportional)
            x = view.attend_memory(x, attention(view, seen, memory_bias, training), seen)
            crossed = Seen(memory, other, seen, memory_bias)
        site = bound.sites.get(index)
        if site is not None:
            x, memory, states = self._reduce(index, site, Seen(x, own, projected, bias), crossed, states, training)
        self.states[index + 1] = states
        return x, memory

    def _reduce(
        self, index: int, site: Site, own: Seen, memory: Seen | None, states: States, training: bool
    ) -> tuple[Tensor, Tensor | None, States]:
        bound, role = self.bound, self.bound.roles[index]
        streams = make_streams(bound.stack, bound.reducer, own, memory, bound.views[index].scale, training, bound.guide)
        chosen = bound.reducer.reduce_streams(streams, site)
        check_reductions(chosen, streams, bound.reducer)
        self.counts[index] = []
        x, state = self._shrink(index, site, role.own, own, chosen)
        states = {**states, role.own: state}
        if memory is None or role.memory is None:
            return x, None, states
        y, states[role.memory] = self._shrink(index, site, role.memory, memory, chosen)
        return x, y, states

    def _shrink(
        self, index: int, site: Site, sequence: str, seen: Seen, chosen: Mapping[str, Reduction]
    ) -> tuple[Tensor, State]:
        """One sequence with the reductions of its streams applied."""
        x, state, rows = seen.x, seen.state, self.counts[index]
        lengths = dict(state.lengths)
        if "joint" not in chosen and not any(name in chosen for name in lengths):
            if sequence == self.bound.roles[index].own:  # a memory is reported where it shrinks
                rows += [(site.layer, name, n, n) for name, n in lengths.items()]
            return x, state
        is_image = state.is_image
        if "joint" in chosen:
            whole = chosen["joint"]
            is_image = whole.take(joint_kind(x, state))
            removed = sum(lengths.values()) - whole.count
            rows.append((site.layer, "text+image", whole.length, whole.count))
            from_image = min(removed, lengths["image"] - 1)  # nominal: what merged with what differs per sample
            lengths["image"] -= from_image
            lengths["text"] -= removed - from_image
        else:
            batch, device = x.shape[0], x.device
            parts = [chosen.get(n) or Reduction.identity(batch, k, device) for n, k in state.lengths.items()]
            whole = join(parts)
            lengths = {n: part.count for n, part in zip(state.lengths, parts, strict=True)}
            rows += [(site.layer, n, state.lengths[n], k) for n, k in lengths.items()]
        size, real = state.size, state.real
        if size is not None or whole.source is not None:
            size = whole.add_up(Tokens(x, state.size, state.real).sizes())
        if real is not None:
            real = whole.add_up(real.to(torch.int32)) > 0
        assignment = state.assignment
        if assignment is not None:
            end = whole.assignment()
            assignment = follow(assignment, end)
            wanted = chosen.get("text") if self.bound.ending == "text" and is_image is None else whole
            keep_last = self.bound.ending != "none" and wanted is not None and wanted.drops
            self.undo[index, sequence] = (x if keep_last else None, end)
        self.done[index, sequence] = whole
        drops = state.drops or whole.drops
        return whole.apply(x), State(lengths, size, real, assignment, is_image, drops, state.text)

    def _end(self, sequence: str, x: Tensor, first: State, last: State) -> Tensor:
        """Hand back what the rest of the model expects of one sequence."""
        ending, assignment = self.bound.ending, last.assignment
        if assignment is None or ending == "none" or not any(name == sequence for _, name in self.undo):
            return x
        if ending == "expand":
            if last.size is None:  # nothing was merged: the survivors stand for themselves
                return x
            return self._restore(sequence, x) if last.drops else spread(x, assignment)
        if ending == "text":
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


def attention(view: BlockView, projected: Projected, bias: Tensor | None, training: bool) -> Tensor:
    """Fused attention: (B, N, H * d)."""
    context = F.scaled_dot_product_attention(
        projected.query,
        projected.key,
        projected.value,
        attn_mask=bias,
        dropout_p=view.dropout if training else 0.0,
        scale=view.scale,
    )
    return context.transpose(1, 2).flatten(2)


class BlockForward:
    """Stands in for one block's ``forward``. A plain object, so that deepcopy and pickle keep it with its block."""

    def __init__(self, bound: Bound, block: nn.Module, index: int) -> None:
        self.bound, self.block, self.index = bound, block, index

    def __call__(
        self, x: Tensor, memory: Tensor | None = None, *args: Any, run: Run | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(run, Run):
            raise UnsupportedCallError(
                f"block {self.index} of {type(self.bound.stack.module).__name__} was called by itself while a reducer "
                "is attached (by forward_intermediates, an attention mask, or a call of your own); it expects to be "
                "run by the whole stack. Call model(...) without a mask, or handle.detach() first."
            )
        stack = self.bound.stack
        checkpoint = stack.checkpointer(self.block)
        if checkpoint is None:
            y, memory, *_ = self.compute(x, memory, run)
        else:
            y, memory, *before = checkpoint(self.compute, x, memory, run)
            for key, tokens in zip(self._sequences(), before, strict=True):
                if tokens is not None:  # handed through the checkpoint, so that gradients reach dropped tokens
                    run.undo[key] = (tokens, run.undo[key][1])
        if memory is not None:
            run.memory[self.index] = memory
        return stack.pack(y)

    def compute(self, x: Tensor, memory: Tensor | None, run: Run) -> tuple[Any, ...]:
        """The block's tokens and its memory, and the tokens before its site where they are needed again."""
        y, memory = run.step(self.index, x, memory, self.block.training)
        return y, memory, *(run.undo.get(key, (None, None))[0] for key in self._sequences())

    def _sequences(self) -> list[tuple[int, str]]:
        role = self.bound.roles[self.index]
        return [(self.index, name) for name in (role.own, role.memory) if name is not None]


class StackForward:
    """Stands in for the stack's ``forward``: every call is a fresh :class:`Run`."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = Run(self.bound) if self.bound.run is None else self.bound.run(self.bound)
        return self.bound.stack.forward(run, *args, **kwargs)
