"""The one engine: attention, signals and applying reductions, for every method on every backbone.

A forward pass makes a fresh :class:`Run`; nothing is kept on the model. Block i reads ``run.states[i]`` and
writes ``run.states[i + 1]``, so running a block again (gradient checkpointing) gives the same.

Axes: B batch, H heads, N tokens, C width, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import BlockView, Ending, Projected, Stack
from .errors import UnsupportedCallError
from .gather import check_reductions, joint_kind, make_streams
from .reducer import Reducer
from .reduction import Reduction, follow, join, spread
from .state import State
from .streams import Site
from .tokens import Tokens

if TYPE_CHECKING:
    from .handle import Attachment


class Bound:
    """A stack with its reducer: what attach makes, and every forward pass reads."""

    def __init__(
        self, stack: Stack, views: list[BlockView], reducer: Reducer, sites: list[Site], ending: Ending, trace: bool
    ) -> None:
        self.stack, self.views, self.reducer, self.ending = stack, views, reducer, ending
        self.sites = {site.layer: site for site in sites}
        self.trace = trace
        self.track = trace or ending != "none"
        self.handle: Attachment | None = None
        self.last: Record | None = None


class Record:
    """What one forward pass did: tokens in and out per site and stream, tokens before and after each block.

    Tensors (sizes and assignment) are only kept for a trace.
    """

    def __init__(
        self,
        counts: list[tuple[int, str, int, int]],
        first: Mapping[str, int],
        state: State,
        layers: list[int],
        trace: bool,
    ) -> None:
        self.counts, self.first, self.layers, self.lengths = counts, first, layers, state.lengths
        size = state.real.float() if state.size is None and state.real is not None else state.size
        self.size = size if trace else None
        self.assignment = state.assignment if trace else None


class Run:
    """One forward pass through one stack."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.states: list[State | None] = [None] * (len(bound.views) + 1)
        self.undo: dict[int, tuple[Tensor | None, Tensor]] = {}
        self.counts: dict[int, list[tuple[int, str, int, int]]] = {}

    def start(self, x: Tensor, lengths: Mapping[str, int], real: Tensor | None = None) -> None:
        """Begin with tokens (B, N, C) whose streams have these lengths; ``real`` (B, N) is False for padding."""
        assignment = None
        if self.bound.track:
            assignment = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        self.states[0] = State(dict(lengths), None, real, assignment, text=lengths.get("text", 0))

    def __call__(self, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Run every block; ``seen`` collects the tokens before the first block and after each."""
        stack = self.bound.stack
        if seen is not None:
            seen.append(x)
        for block in stack.blocks:
            x = stack.unpack(block(x, run=self))
            if seen is not None:
                seen.append(x)
        return self._finish(x)

    def step(self, layer: int, x: Tensor, training: bool) -> Tensor:
        """Run one block on the tokens, reduction included."""
        x = self._attend(layer, x, training)  # projections are let go before the MLP makes its own tensors
        return self.bound.views[layer].mlp(x)

    def _attend(self, layer: int, x: Tensor, training: bool) -> Tensor:
        state = self.states[layer]
        if state is None:
            raise UnsupportedCallError("blocks must run in order, after run.start(...)")
        view, bound = self.bound.views[layer], self.bound
        projected = view.project(x)
        bias = state.bias(projected.query, bound.reducer.proportional_attention)
        x = view.attend(x, attention(view, projected, bias, training), projected)
        site = bound.sites.get(layer)
        if site is not None:
            x, state = self._reduce(site, x, state, projected, bias, training)
        self.states[layer + 1] = state
        return x

    def _reduce(
        self, site: Site, x: Tensor, state: State, projected: Projected, bias: Tensor | None, training: bool
    ) -> tuple[Tensor, State]:
        bound = self.bound
        streams = make_streams(
            bound.stack, bound.reducer, x, state, projected, bias, self.bound.views[site.layer].scale, training
        )
        chosen = bound.reducer.reduce_streams(streams, site)
        if not chosen:
            self.counts[site.layer] = [(site.layer, name, n, n) for name, n in state.lengths.items()]
            return x, state
        check_reductions(chosen, state.lengths, bound.reducer)
        is_image, lengths = state.is_image, dict(state.lengths)
        if "joint" in chosen:
            whole = chosen["joint"]
            if is_image is None:
                is_image = joint_kind(x, state.lengths)
            is_image = whole.take(is_image)
            removed = sum(lengths.values()) - whole.count
            self.counts[site.layer] = [(site.layer, "text+image", whole.length, whole.count)]
            from_image = min(removed, lengths["image"] - 1)  # nominal: what merged with what differs per sample
            lengths["image"] -= from_image
            lengths["text"] -= removed - from_image
        else:
            batch, device = x.shape[0], x.device
            parts = [chosen.get(n) or Reduction.identity(batch, k, device) for n, k in state.lengths.items()]
            whole = join(parts)
            lengths = {n: part.count for n, part in zip(state.lengths, parts, strict=True)}
            self.counts[site.layer] = [(site.layer, n, state.lengths[n], k) for n, k in lengths.items()]
        size, real = state.size, state.real
        if size is not None or whole.source is not None:
            size = whole.add_up(Tokens(x, state.size, state.real).sizes())
        if real is not None:
            real = whole.add_up(real.to(torch.int32)) > 0
        assignment = state.assignment
        if assignment is not None:
            end = whole.assignment()
            assignment = follow(assignment, end)
            keep_last = whole.drops and (bound.ending in ("full", "expand") or is_image is not None)
            self.undo[site.layer] = (x if keep_last else None, end)
        drops = state.drops or whole.drops
        return whole.apply(x), State(lengths, size, real, assignment, is_image, drops, state.text)

    def _finish(self, x: Tensor) -> Tensor:
        first, state, bound = self.states[0], self.states[-1], self.bound
        assert first is not None and state is not None
        counts = [row for layer in sorted(self.counts) for row in self.counts[layer]]
        inner = [sum(s.lengths.values()) for s in self.states if s is not None]
        bound.last = Record(counts, first.lengths, state, inner, bound.trace)
        return self._end(x, first, state)

    def _end(self, x: Tensor, first: State, state: State) -> Tensor:
        """Hand back what the rest of the model expects."""
        ending, assignment = self.bound.ending, state.assignment
        if assignment is None or ending == "none" or not self.undo:
            return x
        if ending == "expand":
            if state.size is None:  # nothing was merged: the survivors stand for themselves
                return x
            return self._restore(x) if state.drops else spread(x, assignment)
        if ending == "text":
            text, rest = first.lengths["text"], state.lengths["text"]
            if state.is_image is None:
                return torch.cat([spread(x, assignment[:, :text]), x[:, rest:]], dim=1)
            rest = self.bound.stack.prefix["text"]  # merged across modalities: what follows [CLS] may be of the image
            return torch.cat([self._restore(x)[:, :text], x[:, rest:]], dim=1)
        return self._restore(x)

    def _restore(self, x: Tensor) -> Tensor:
        """Every token at its place: merged ones share their value, dropped ones have the last value they had."""
        for layer in sorted(self.undo, reverse=True):
            before, end = self.undo[layer]
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

    def __init__(self, bound: Bound, block: nn.Module, layer: int) -> None:
        self.bound, self.block, self.layer = bound, block, layer

    def __call__(self, x: Tensor, run: Run | None = None, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(run, Run):
            raise UnsupportedCallError(
                f"block {self.layer} of {type(self.bound.stack.module).__name__} was called by itself while a reducer "
                "is attached (by forward_intermediates, an attention mask, or a call of your own); it expects to be "
                "run by the whole stack. Call model(...) without a mask, or handle.detach() first."
            )
        stack = self.bound.stack
        checkpoint = stack.checkpointer(self.block)
        if checkpoint is None:
            return stack.pack(self.compute(x, run)[0])
        y, before = checkpoint(self.compute, x, run)
        if before is not None:  # handed through the checkpoint, so that gradients reach dropped tokens
            run.undo[self.layer] = (before, run.undo[self.layer][1])
        return stack.pack(y)

    def compute(self, x: Tensor, run: Run) -> tuple[Tensor, Tensor | None]:
        """The block's output, and the tokens before its site where they are needed again."""
        y = run.step(self.layer, x, self.block.training)
        before, _ = run.undo.get(self.layer, (None, None))
        return y, before


class StackForward:
    """Stands in for the stack's ``forward``: every call is a fresh :class:`Run`."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.bound.stack.forward(Run(self.bound), *args, **kwargs)
