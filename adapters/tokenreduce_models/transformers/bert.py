"""Blocks built like BERT's (post-norm attention, perhaps cross-attention, post-norm MLP), and levels of them.

Axes: B batch, N tokens, M memory tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenreduce.backbones import BlockView, Layout, Positions, Projected, Role, Stack, current
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

PARTS = ("attention", "crossattention", "intermediate", "output")


class BertView(BlockView):
    """``attention``, ``crossattention`` where there is one, ``intermediate`` and ``output``; norms come last."""

    dropout = current(lambda view: view.layer.attention.self.dropout.p)
    attention_parts = current(lambda view: [view.layer.attention])
    mlp_parts = current(lambda view: [view.layer.intermediate, view.layer.output])
    cross_parts = current(lambda view: [one for part in view.crossed for one in (part.self.query, part.output)])
    memory_parts = current(lambda view: [one for part in view.crossed for one in (part.self.key, part.self.value)])
    memory_width = current(lambda view: next((part.self.key.in_features for part in view.crossed), None))

    def __init__(self, layer: nn.Module) -> None:
        parts: Any = layer  # of several libraries, known by its parts
        self.layer = parts

    @property
    def crossed(self) -> list[Any]:
        """The cross-attention, where there is one."""
        found = getattr(self.layer, "crossattention", None)
        return [] if found is None else [found]

    def project(self, x: Tensor) -> Projected:
        return project(self.layer.attention.self, x, x)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = self.layer.attention.output(context, x)
        return out

    def project_memory(self, x: Tensor, memory: Tensor) -> Projected:
        return project(self.layer.crossattention.self, x, memory)

    def attend_memory(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = self.layer.crossattention.output(context, x)
        return out

    def mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer.output(self.layer.intermediate(x), x)
        return out


class Projections(Protocol):
    """What BERT calls ``attention.self``."""

    num_attention_heads: int
    attention_head_size: int
    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]


def project(attention: Projections, x: Tensor, memory: Tensor) -> Projected:
    """Query of tokens (B, N, C), key and value of a memory (B, M, C'), in heads."""
    shape = (attention.num_attention_heads, attention.attention_head_size)
    pairs = ((attention.query, x), (attention.key, memory), (attention.value, memory))
    return Projected(*(torch.unflatten(linear(tokens), -1, shape).transpose(1, 2) for linear, tokens in pairs))


def additive(real: Tensor | None, tokens: Tensor) -> Tensor:
    """(B, 1, 1, N) to add to attention logits over tokens (B, N, C): 0 where ``real`` (B, N), else very low.

    ``real`` None means all.
    """
    mask = tokens.new_zeros(tokens.shape[:2])
    if real is not None:
        mask = mask.masked_fill(~real, torch.finfo(mask.dtype).min)
    return mask[:, None, None]


def token_type(embeddings: nn.Module, kind: int, like: Tensor) -> Tensor:
    """(C,) the embedding of a token type, on the device of a tensor; the module is called, so that its hooks act."""
    made: Tensor = embeddings(torch.full((1,), kind, dtype=torch.long, device=like.device))
    return made[0]


class CoAttention(Stack):
    """Levels of a text block with the image as memory, then an image block with the text as memory.

    A subclass runs them; its blocks take (tokens, memory, mask, memory mask) and return a tuple, tokens first.
    """

    name = "cross"
    prefix = {"text": 1, "image": 1}
    sequences = (("text",), ("image",))
    readout = 0
    padded = True

    def __init__(self, text_blocks: Iterable[nn.Module], image_blocks: Iterable[nn.Module]) -> None:
        self.blocks = [block for pair in zip(text_blocks, image_blocks, strict=True) for block in pair]
        self.levels = [(2 * i, 2 * i + 1) for i in range(len(self.blocks) // 2)]

    def role(self, index: int) -> Role:
        return Role("image", "text") if index % 2 else Role("text", "image")

    def view(self, block: nn.Module) -> BlockView:
        missing = [part for part in PARTS if not hasattr(block, part)]
        if missing:
            raise UnsupportedModelError(f"{type(block).__name__} has no {', '.join(missing)}; not a co-attention block")
        return BertView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        assert memory is not None
        return self.unpack(block.forward(x, memory, additive(real, x), additive(memory_real, memory)))

    def pack(self, x: Tensor) -> tuple[Tensor]:
        return (x,)

    def unpack(self, returned: tuple[Tensor, ...]) -> Tensor:
        return returned[0]


class Plain:
    """A ``Pass`` for proofs: the library's own blocks of a :class:`CoAttention`, on all tokens."""

    def __init__(self, stack: CoAttention) -> None:
        self.stack, self.masks = stack, dict[str, Tensor]()

    def start(
        self,
        x: Tensor,
        lengths: Mapping[str, int] | Layout,
        real: Tensor | None = None,
        positions: Positions | None = None,
    ) -> None:
        name = lengths.name if isinstance(lengths, Layout) else "+".join(lengths)
        self.masks[name] = additive(real, x)

    def __call__(self, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        raise UnsupportedCallError("two sequences were started; run.block(index, x, memory) runs their blocks in turn")

    def block(self, index: int, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        role, block = self.stack.role(index), self.stack.blocks[index]
        assert memory is not None and role.memory is not None
        return self.stack.unpack(block(x, memory, self.masks[role.own], self.masks[role.memory])), memory

    def places(self, sequence: str = "image") -> Tensor | None:
        return None

    def check_whole(self, what: str) -> None:
        """Every block computes every token."""

    def follow(self, sequence: str, x: Tensor, since: int = 0) -> Tensor:
        return x

    def finish(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        return tokens
