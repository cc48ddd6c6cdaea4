"""Soft removal: what attention does with a gate, and what becomes of it. Axes: B batch, N tokens, n of a stream."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tokenreduce
from tokenreduce.backbones import Layout
from tokenreduce.core.gate import EPSILON, pool_as_kept
from tokenreduce.core.state import State
from tokenreduce.errors import UnsupportedCallError
from tokenreduce.methods import BaseReducer, Gate, Reduction


class Fixed(BaseReducer):
    """Gates by given values at its first site, and shows what it finds at the others."""

    values: Any = None
    late: Any = None

    def __post_init__(self):
        object.__setattr__(self, "found", [])

    def reduce_streams(self, streams, site):
        stream = streams[streams.main]
        self.found.append(stream.gate)
        if site.index == 0:
            return {streams.main: Gate(self.values)}
        return {} if self.late is None else self.late(streams)


class EarlyFixed(Fixed):
    """The same before the block."""

    position = "before_block"


def attend(view, block, x, gate):
    """A timm block with dense attention whose keys count as much as the gate (B, N) says."""
    attn, (batch, length, width) = block.attn, x.shape
    qkv = attn.qkv(block.norm1(x)).reshape(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    weight = (qkv[0] @ qkv[1].transpose(-1, -2) * attn.scale).exp() * (gate[:, None, None] + EPSILON)
    prob = weight / weight.sum(dim=-1, keepdim=True)
    x = x + attn.proj((prob @ qkv[2]).transpose(1, 2).reshape(batch, length, width))
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("position", ["after_attention", "before_block"])
@pytest.mark.parametrize("hard", [False, True])
def test_attention_weighs_keys_by_the_gate(position, hard, tiny_vit, images):
    model, x = tiny_vit().double(), images().double()
    values = torch.rand(2, 17, dtype=torch.float64)
    values = (values.round() if hard else values).requires_grad_()
    reducer = (EarlyFixed if position == "before_block" else Fixed)(values=values)
    with tokenreduce.attach(model, reducer, layers=[1, 3], trace=True) as handle:
        got = model(x)
        assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == [(17, 17)] * 2
        assert handle.last.trace[0] == [[token] for token in range(17)]
        before, after = handle.last.macs
        assert before == after
        ends = handle.last.gates
    other = values.detach().clone().requires_grad_()
    gate = torch.cat([torch.ones(2, 1, dtype=torch.float64), other[:, 1:]], dim=1)  # the class token is protected
    tokens, first = model._pos_embed(model.patch_embed(x)), 1 if position == "before_block" else 2
    for index, block in enumerate(model.blocks):
        tokens = block(tokens) if index < first else attend(None, block, tokens, gate)
    expected = model.head(model.norm(tokens)[:, 0])
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert reducer.found[0] is None
    assert torch.equal(reducer.found[1], gate)
    assert torch.equal(ends["image"], gate) and not ends["image"].requires_grad
    got.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(values.grad, other.grad, rtol=1e-6, atol=1e-9)
    assert (values.grad[:, 1:] != 0).all()  # of those at 0 too
    assert not values.grad[:, 0].any()


@pytest.mark.parametrize("padded", [False, True])
def test_the_kernel_stays_fused(padded, tiny_vilt, vilt_inputs):
    """A bias that asks for a gradient would fall back to a kernel that makes the whole attention matrix."""
    masks = {"lengths": [7, 4, 2], "sizes": [(32, 32), (16, 24), (32, 8)]} if padded else {}
    model = tiny_vilt(hidden_dropout_prob=0.0).train()
    with tokenreduce.attach(model, "dynamicvit") as handle, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(**vilt_inputs(**masks)).logits.sum().backward()
        assert all(p.grad.abs().max() > 0 for p in handle.stacks["encoder"].reducer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_is_on_top_of_padding_and_size(dtype):
    real, size = torch.tensor([[True, True, False, True]]), torch.tensor([[2.0, 1.0, 0.0, 3.0]])
    gates = {"image": torch.tensor([[0.5, 0.0]])}
    layout = Layout.of({"text": 2, "image": 2}, {})
    state = State(layout=layout, initial=layout, size=size, real=real, gates=gates)
    like = torch.zeros(1, dtype=dtype)
    expected = torch.tensor([[2.0, 1.0, 0.0, 3 * EPSILON]]).log()
    torch.testing.assert_close(state.bias(like, True), expected.to(dtype)[:, None, None])
    assert state.bias(like, True).dtype == dtype
    expected = torch.tensor([[1.0, 1.0, 0.0, EPSILON]]).log()
    torch.testing.assert_close(state.bias(like, False), expected.to(dtype)[:, None, None], rtol=1e-4, atol=1e-5)


def test_gates_of_the_last_pass(tiny_vit, images):
    model = tiny_vit()
    with tokenreduce.attach(model, "dynamicvit") as handle:
        assert handle.last is None
        model.train()
        model(images())
        assert set(handle.last.gates["image"].round(decimals=5).unique().tolist()) == {0.0, 1.0}
        copy.deepcopy(model)
        model.eval()
        model(images())
        assert handle.last.gates == {}


def test_padding_counts_as_0_and_protected_tokens_as_1():
    real = torch.tensor([[True, True, False]])
    gate = Gate(torch.tensor([[0.0, 0.5, 0.7]], dtype=torch.bfloat16)).effective(1, real)
    assert gate.dtype == torch.float32
    assert gate.tolist() == [[1.0, 0.5, 0.0]]


def test_a_gate_goes_along_with_the_tokens_that_are_kept(tiny_vit, images):
    values, keep = torch.rand(2, 17), torch.tensor([[0, 5, 3, 9], [0, 1, 2, 16]])
    fold = torch.tensor([[6, 7], [8, 9]])

    def take(streams):
        if streams["image"].tokens.count == 4:
            return {}
        return {"image": Reduction(keep, fold, torch.tensor([[1, 2]] * 2), length=17)}

    reducer = Fixed(values=values, late=take)
    with torch.no_grad(), tokenreduce.attach(tiny_vit(), reducer, layers=[0, 1, 2]) as handle:
        handle.model(images())
        assert handle.last.tokens == {"image": 4}
    gate = values.clone()
    gate[:, 0] = 1
    assert torch.equal(reducer.found[2], gate.gather(1, keep))  # a merged token counts as its destination


def test_a_new_token_counts_in_full(tiny_vit, images):
    def fuse(streams):
        if streams["image"].tokens.count == 3:
            return {}
        return {"image": Reduction(torch.tensor([[0, 5, -1]] * 2), length=17, fresh=1)}

    reducer = Fixed(values=torch.zeros(2, 17), late=fuse)
    with torch.no_grad(), tokenreduce.attach(tiny_vit(), reducer, layers=[0, 1, 2]) as handle:
        handle.model(images())
    assert reducer.found[2].tolist() == [[1.0, 0.0, 1.0]] * 2


def test_in_two_streams_of_one_sequence_each_has_its_own(tiny_vilt, vilt_inputs):
    seen = []

    class Text(BaseReducer):
        streams = ("text", "image")

        def reduce_streams(self, streams, site):
            seen.append({name: stream.gate for name, stream in streams.items()})
            assert streams.whole().initial == 24
            return {"text": Gate(torch.full((2, 7), 0.5))} if site.index == 0 else {}

    with torch.no_grad(), tokenreduce.attach(tiny_vilt(), Text(), layers=[0, 1]) as handle:
        handle.model(**vilt_inputs(2))
        assert [(r.stream, r.tokens_in, r.tokens_out) for r in handle.last.sites] == 2 * [
            ("text", 7, 7),
            ("image", 17, 17),
        ]
    assert seen[0] == {"text": None, "image": None}
    assert seen[1]["image"] is None
    assert seen[1]["text"].tolist() == [[1.0] + [0.5] * 6] * 2


@pytest.mark.parametrize("value", [torch.zeros(2, 17, dtype=torch.long), torch.zeros(17), [0.5]])
def test_what_is_not_a_gate(value):
    with pytest.raises(UnsupportedCallError, match="floating-point values"):
        Gate(value)


def test_gates_that_do_not_fit(tiny_vit, images, tiny_vilt, vilt_inputs):
    model = tiny_vit()
    wrong = r"gate of 'image' must be \(2, 17\), got \(2, 16\)"
    with tokenreduce.attach(model, Fixed(values=torch.ones(2, 16))), pytest.raises(UnsupportedCallError, match=wrong):
        model(images())

    class Whole(Fixed):
        def reduce_streams(self, streams, site):
            assert streams.sequence == "text+image"
            if site.index == 0:
                return {self.values: Gate(torch.ones(2, 24 if self.values == "text+image" else 17))}
            return {streams.sequence: Reduction.identity(2, 24)}

    model, inputs = tiny_vilt(), vilt_inputs(2)
    for name in ("text+image", "image"):
        with (
            tokenreduce.attach(model, Whole(values=name), layers=[0, 1]),
            pytest.raises(UnsupportedCallError, match="do not go with a reduction of the whole sequence"),
        ):
            model(**inputs)


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_mean_over_all_is_the_mean_of_the_kept(prefix):
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    gate = torch.rand(2, 9, dtype=torch.float64)
    gate[:, :prefix] = 1
    got = pool_as_kept(x, gate, prefix)
    weight = gate[:, prefix:, None]
    expected = (x[:, prefix:] * weight).sum(dim=1) / weight.sum(dim=1)
    torch.testing.assert_close(got[:, prefix:].mean(dim=1), expected)
    assert torch.equal(got[:, :prefix], x[:, :prefix])
    hard = gate.round()
    kept = hard[:, prefix:] == 1
    assert torch.equal(pool_as_kept(x, hard, prefix)[:, prefix:][kept], x[:, prefix:][kept])
    assert pool_as_kept(x, torch.zeros_like(gate), prefix).isfinite().all()


def test_training_and_evaluation_pool_the_same_tokens(tiny_vit, images):
    """A model that reads the mean of its patches: gates of 0 and 1 against taking the tokens away."""
    values = torch.zeros(2, 17)
    values[:, [0, 3, 4, 9, 15]] = 1

    def gone(streams):
        return {"image": streams["image"].tokens.keep_top(values, remove=12)} if streams["image"].gate is None else {}

    class Hard(Fixed):
        def reduce_streams(self, streams, site):
            return gone(streams) if site.index == 0 else {}

    model, x = tiny_vit(global_pool="avg"), images()
    with torch.no_grad():
        with tokenreduce.attach(model, Fixed(values=values), layers=[1]):
            soft = model(x)
        with tokenreduce.attach(model, Hard(), layers=[1]):
            hard = model(x)
    torch.testing.assert_close(soft, hard, rtol=1e-3, atol=1e-4)
