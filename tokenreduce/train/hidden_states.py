"""The tokens at the end of a stack, and who stands for whom. Axes: B batch, N0 tokens at the start, N at the end, C."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..attachments.handle import Attachment
from ..backbones.stack import Stack
from ..core.trace import Trace
from ..engine.record import Record
from ..errors import NoForwardError, UnsupportedCallError

Tokens = dict[tuple[str, str], Tensor]  # by stack and sequence


@contextmanager
def listen(stacks: Mapping[str, Stack]) -> Iterator[Tokens]:
    """Inside, every pass leaves the tokens (B, N, C) that the last block of each sequence gave."""
    heard: Tokens = {}
    hooks = []
    for name, stack in stacks.items():
        for sequence, block in _last_blocks(stack).items():
            hooks.append(block.register_forward_hook(_Listener(heard, stack, (name, sequence))))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def match_tokens(handle: Attachment, heard: Tokens, name: str) -> tuple[Tensor, Tensor]:
    """For every token at the start, the final token that stands for it (B, N0, C), and its weight (B, N0).

    The weight is 0 where the token was dropped or is padding, else 1, or its gate where there is one.

    Args:
        handle: attached with a trace.
        heard: tokens of the last pass.
        name: of the stack.

    Raises:
        UnsupportedCallError: the tokens of a sequence were reduced after its last block.
    """
    record = last_of(handle, name)
    trace = record.trace
    assert trace is not None  # checked when the distillation was made
    parts = [value for (stack, _), value in heard.items() if stack == name]
    if sum(part.shape[1] for part in parts) != trace.tokens:
        raise UnsupportedCallError(
            f"the stack {name!r} ends with {trace.tokens} tokens, but its last blocks gave "
            f"{sum(part.shape[1] for part in parts)}; hidden states cannot be compared here, leave hidden=0"
        )
    where = trace.source.clamp(min=0)
    real = (trace.size > 0).gather(1, where) & (trace.source >= 0)
    weight = real.float() * _gates(record, trace).gather(1, where)
    return _side_by_side(parts, where), weight


def join_tokens(heard: Tokens, name: str) -> Tensor:
    """(B, N0, C) the tokens of a stack that was not reduced."""
    parts = [value for (stack, _), value in heard.items() if stack == name]
    return _side_by_side(parts, None)


def _side_by_side(parts: list[Tensor], where: Tensor | None) -> Tensor:
    whole = torch.cat(parts, dim=1)
    return whole if where is None else whole.gather(1, where[..., None].expand(-1, -1, whole.shape[-1]))


def last_of(handle: Attachment, name: str) -> Record:
    """The record of a stack's last pass.

    Raises:
        NoForwardError: no forward pass yet.
    """
    record = handle.stacks[name].last
    if record is None:
        raise NoForwardError("no forward pass yet; call model(...) once before hidden states are compared")
    return record


def _gates(record: Record, trace: Trace) -> Tensor:
    gates, size = record.gates, trace.size
    parts = [gates.get(stream, size.new_ones(len(size), length)) for stream, length in trace.last.items()]
    return torch.cat(parts, dim=1)


def _last_blocks(stack: Stack) -> dict[str, nn.Module]:
    """The last block of each sequence, sequences in the order in which a pass starts them."""
    last = {stack.role(index).own: block for index, block in enumerate(stack.blocks)}
    order = ["+".join(streams) for streams in stack.sequences] or list(last)
    return {sequence: last[sequence] for sequence in order if sequence in last}


class _Listener:
    def __init__(self, heard: Tokens, stack: Stack, key: tuple[str, str]) -> None:
        self.heard, self.stack, self.key = heard, stack, key

    def __call__(self, block: nn.Module, given: object, returned: object) -> None:
        self.heard[self.key] = self.stack.unpack(returned)
