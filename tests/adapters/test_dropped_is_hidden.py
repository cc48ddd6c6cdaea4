"""Dropping tokens is hiding them: the plain model, with those tokens masked in its attention, gives the same.

This holds only where the tokens that are left keep their own positions, rotary ones too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.methods import Reduction

AFTER = 1  # tokens go in this block, so later ones do not see them


class Hole(Reducer):
    """Drops every third token that is not protected, others in each sample, in one block."""

    keep: Any = 0.7

    def layers(self, backbone):
        return [AFTER]

    def reduce(self, tokens, signals, remove):
        return Reduction(left(len(tokens.x), tokens.prefix, tokens.count), length=tokens.count)


def left(batch: int, prefix: int, count: int) -> Tensor:
    """(B, K) what stays of each sample: all but every third token, another third of them in each sample."""
    free = count - prefix
    places = torch.arange(free // 3 * 3).reshape(-1, 3)
    rows = []
    for sample in range(batch):
        kept = [place for column, place in enumerate(places.unbind(1)) if column != sample % 3]
        rest = torch.arange(free // 3 * 3, free)
        rows.append(torch.cat([torch.arange(prefix), prefix + torch.cat([*kept, rest]).sort().values]))
    return torch.stack(rows)


ADAPTERS = ("timm-vit", "timm-eva", "torchvision-vit", "hf-vit", "hf-dinov3", "hf-vitmae", "hf-videomae", "hf-siglip2")
CASES = [
    (name, label)
    for name, entry in tokenreduce.registry.default_registry().adapters.items()
    if name in ADAPTERS
    if importlib.util.find_spec(entry.spec.library)
    for label in entry.spec.load()().examples()
]


@pytest.mark.parametrize(("adapter", "label"), CASES, ids=lambda value: value)
def test_dropping_tokens_is_hiding_them(adapter, label, assert_close):
    family = tokenreduce.registry.default_registry().load("adapter", adapter)()
    example = family.examples()[label]()
    model = example.model.double()
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in example.inputs.items()}
    with torch.no_grad():
        with tokenreduce.attach(model, Hole(), adapter=adapter) as handle:
            (stack,) = (one.stack for one in handle.stacks.values())
            with final(stack.blocks[-1]) as got:
                try:
                    model(**inputs)
                except Exception:  # a decoder that wants every token: what the last block gave is there all the same
                    if not got:
                        raise
        with final(stack.blocks[-1]) as whole, hidden(stack.blocks, stack.prefix["image"]):
            model(**inputs)
    tokens = whole[0]
    keep = left(len(tokens), stack.prefix["image"], tokens.shape[1])
    assert got[0].shape[1] == keep.shape[1] < tokens.shape[1]
    assert_close(got[0], tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[2])), tolerance=1e-9)


@contextmanager
def final(block: nn.Module) -> Iterator[list[Tensor]]:
    """What a block gives."""
    seen: list[Tensor] = []
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def hidden(blocks: list[nn.Module], prefix: int) -> Iterator[None]:
    """The attention of every block after ``AFTER`` with the dropped tokens masked."""
    plain: Callable[..., Tensor] = F.scaled_dot_product_attention
    current: list[int] = []

    def masked(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **given: Any) -> Tensor:
        if not current or current[-1] <= AFTER:
            return plain(query, key, value, *rest, **given)
        batch, count = key.shape[0], key.shape[2]
        mask = torch.zeros(batch, count, dtype=torch.bool).scatter(1, left(batch, prefix, count), True)[:, None, None]
        padding = given.get("attn_mask")
        mask = mask if padding is None else mask & padding
        return plain(query, key, value, attn_mask=mask, scale=given.get("scale"))

    hooks = [
        block.register_forward_pre_hook(lambda module, inputs, index=index: current.append(index))
        for index, block in enumerate(blocks)
    ]
    hooks += [block.register_forward_hook(lambda module, inputs, output: current.clear()) for block in blocks]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    F.scaled_dot_product_attention = masked
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        F.scaled_dot_product_attention = plain
        for hook in hooks:
            hook.remove()
