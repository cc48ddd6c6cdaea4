"""Masks on attention heads: what a head gives is left out before the output projection, and not computed if it can be.

Axes: B batch, H heads.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce.backbones import Adapter
from tokenreduce.engine.head_proof import output_projection
from tokenreduce.errors import UnfitReducerError, UnsupportedCallError
from tokenreduce.methods import BaseReducer
from tokenreduce.registry import default_registry
from tokenreduce.testing import models
from tokenreduce.testing.models import backbone, batch_of_three, cast, pick_samples, run

CASES = (
    "timm-vit: VisionTransformer, class token",
    "torchvision-vit: VisionTransformer",
    "open-clip: CLIP",
    "hf-vilt: ViltForQuestionAnswering",
    "hf-blip: BlipForQuestionAnswering",
    "meter: MeterForQuestionAnswering",
    "timm-eva: Eva, EVA-02",
)


class Masked(BaseReducer):
    """Gives heads fixed weights; removes nothing."""

    off: tuple[int, ...] = (1,)
    by_row: bool = False
    soft: Any = None
    asked: Any = None
    cross: Any = None

    position = "before_block"
    streams = ("text", "image")
    masks_heads = True

    def bind(self, backbone):
        object.__setattr__(self, "heads", backbone.heads)
        return self

    def layers(self, backbone):
        return [0, backbone.depth - 1]

    def reduce_streams(self, streams, site):
        batch = next(iter(streams.values())).tokens.x.shape[0]
        for sequence, counts in self.heads.items():
            for cross, heads in enumerate(counts):
                values = torch.ones(batch, heads)
                if self.soft is not None:
                    values = self.soft.expand(batch, *self.soft.shape[1:])
                elif self.by_row:
                    values[torch.arange(batch), torch.arange(batch) % heads] = 0
                else:
                    values[:, list(self.off)] = 0
                streams.mask_heads(
                    self.asked or sequence, values, cross=bool(cross) if self.cross is None else self.cross
                )
        return {}


def case(name):
    """A model in float64, three samples, and the stack that is tried: of text and image, where there is one."""
    adapter, example = backbone(name)
    made: Adapter = default_registry().load("adapter", adapter)()
    stacks = list(made.stacks(example.model))
    return (
        example.model.double().eval(),
        cast(batch_of_three(example.inputs), torch.float64),
        ("cross" if "cross" in stacks else stacks[0]),
    )


def zeroed(stack, heads, off):
    """Set the columns of heads to zero in the output projections of the first and the last layer."""
    levels = stack.levels or [(index,) for index in range(len(stack.blocks))]
    for index in (*levels[0], *levels[-1]):
        view = stack.view(stack.blocks[index])
        for parts in (view.attention_parts, view.cross_parts):
            linear = [m for part in parts for m in part.modules() if isinstance(m, nn.Linear)]
            if linear:
                weight = linear[-1].weight
                width = weight.shape[1] // heads
                for head in off:
                    weight.data[:, head * width : (head + 1) * width] = 0


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_masked_head_is_one_without_columns_in_the_output_projection(name, assert_close):
    model, inputs, stack = case(name)
    with tokenreduce.attach(model, {stack: Masked(off=(1,))}) as handle:
        ((heads, *_),) = set(handle.stacks[stack].reducer.heads.values())
        got = run(model, inputs)
        record = handle.stacks[stack].last
        assert all(values.sum(dim=1).eq(heads - 1).all() for values in record.heads.values())
        before, after = handle.last.macs
        assert after < before
        of_block = handle.stacks[stack].stack
    with tokenreduce.attach(model, {stack: "none"}):
        plain = run(model, inputs)
        zeroed(of_block, heads, (1,))
        expected = run(model, inputs)
    for one, other in zip(got, expected, strict=True):
        if one.is_floating_point():
            assert_close(one, other, 1e-9)
    assert any((one - other).abs().max() > 1e-7 for one, other in zip(got, plain, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", [CASES[0], CASES[3], CASES[5]])
def test_a_head_that_one_sample_needs_is_computed_for_it_alone(name, assert_close):
    model, inputs, stack = case(name)
    with tokenreduce.attach(model, {stack: Masked(by_row=True)}) as handle:
        whole = run(model, inputs)
        ((heads, *_),) = set(handle.stacks[stack].reducer.heads.values())
    for row in range(3):
        with tokenreduce.attach(model, {stack: Masked(off=(row % heads,))}):
            alone = run(model, pick_samples(inputs, [row]))
        for one, every in zip(alone, whole, strict=True):
            if one.ndim and one.is_floating_point():
                assert_close(one, every[row : row + 1], 1e-9)


@torch.no_grad()
def test_heads_that_are_off_are_not_computed(tiny_vit, images):
    """Counted by torch from what runs: the two products of a head, over 17 tokens, in two blocks."""
    model = tiny_vit()
    with tokenreduce.attach(model, Masked()):
        one = tokenreduce.count_macs(model, (images(1),))
    with tokenreduce.attach(model, Masked(off=())):
        assert tokenreduce.count_macs(model, (images(1),)) - one == 2 * 2 * 17 * 17 * 8
    with tokenreduce.attach(model, Masked(off=(0, 1, 2, 3))) as handle:
        assert tokenreduce.count_macs(model, (images(1),)) == one - 3 * 2 * 2 * 17 * 17 * 8
        before, after = handle.last.macs
        assert before - after == 4 * 2 * 2 * 17 * 17 * 8


def test_a_soft_mask_has_a_gradient_and_costs_nothing_less(tiny_vit, images):
    model = tiny_vit().double()
    soft = torch.tensor([[0.3, 1.0, 0.0, 0.7]], dtype=torch.float64, requires_grad=True)

    def answer(values):
        with tokenreduce.attach(model, Masked(soft=values)) as handle:
            output = model(images().double()).square().sum()
            assert handle.last.macs[0] == handle.last.macs[1]
            return output

    answer(soft).backward()
    step = torch.tensor([[0.0, 0.0, 1e-6, 0.0]], dtype=torch.float64, requires_grad=True)
    slope = (answer(soft.detach() + step) - answer(soft.detach() - step)) / 2e-6
    torch.testing.assert_close(soft.grad[0, 2], slope.detach(), rtol=1e-4, atol=1e-6)


def test_blocks_that_cannot_do_it_are_refused():
    """A norm over all heads stands in front of open_clip's projection; nothing is changed then."""
    adapter, example = backbone("open-clip: CLIP-custom-block")
    with pytest.raises(UnfitReducerError, match="the sum of what each head gives"):
        tokenreduce.attach(example.model, {"vision": Masked()}, adapter=adapter)
    assert tokenreduce.attachment(example.model) is None
    tokenreduce.attach(example.model, {"vision": "smarttrim"}, adapter=adapter).detach()  # tokens alone are fine


class Undeclared(Masked):
    """Does not say that it masks heads."""

    masks_heads = False

    def bind(self, backbone):
        object.__setattr__(self, "heads", {"image": (4,)})
        return self


@pytest.mark.parametrize(
    ("reducer", "message"),
    [
        (Undeclared(), "masks_heads"),
        (type("Late", (Masked,), {"position": "after_attention"})(), "before_block"),
        (Masked(asked="text"), "mask heads of: image"),
        (Masked(cross=True), "cross-attention of 'image'"),
        (Masked(soft=torch.ones(1, 3)), r"must be \(B, 4\)"),
        (Masked(soft=torch.ones(1, 4, 1)), r"must be \(B, H\)"),
    ],
)
def test_masks_that_do_not_fit(reducer, message, tiny_vit, images):
    model = tiny_vit()
    with tokenreduce.attach(model, reducer), pytest.raises(UnsupportedCallError, match=message):
        model(images())


def test_the_output_projection_is_the_last_linear_layer(tiny_vit):
    attn = tiny_vit().blocks[0].attn
    assert output_projection([attn.qkv, attn.proj], 32) is attn.proj
    assert output_projection([attn.qkv, attn.proj], 33) is None and output_projection([], 32) is None


def test_every_case_is_there():
    assert set(CASES) <= set(models())
