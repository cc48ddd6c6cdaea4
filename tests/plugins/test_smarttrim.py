"""SmartTrim: what its trimmers compute, that training sees what evaluation does, and how it is trained.

Axes: B batch, N tokens, n not protected, C width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce.core.heads import HeadMasks
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import Gate, Streams
from tokenreduce.testing import synthetic_backbone
from tokenreduce_methods.smarttrim import trimmers as acting
from tokenreduce_methods.smarttrim.method import SmartTrim
from tokenreduce_methods.smarttrim.trimmer import START, HeadTrimmer, TokenTrimmer, draw
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.siglip import Siglip


def train(module, scramble, seed=3, bias=0.3):
    """Weights as if learned: about half of the tokens go, others in every sample."""
    scramble(module, seed)
    for part in module.modules():
        if isinstance(part, (TokenTrimmer, HeadTrimmer)):
            nn.init.constant_(part.local.bias, bias)
    return module


def still(model):
    """Training mode in which nothing is random but the trimmers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


@pytest.fixture
def certain(monkeypatch):
    """Draws that go by the sign, as evaluation does."""
    monkeypatch.setattr(acting, "draw", lambda logit, tau: (logit >= 0).to(logit.dtype) + logit * 0)


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [t for t in output.to_tuple() if hasattr(t, "shape")]


# ------------------------------------------------------------------------------------------------------- trimmers


def test_token_trimmer_is_the_formula():
    """Local score plus scaled product with the guide, written out one step after the other."""
    torch.manual_seed(1)
    one = TokenTrimmer(8, 6).double()
    for parameter in one.parameters():
        parameter.data.normal_()
    x, guide = torch.randn(3, 5, 8).double(), torch.randn(3, 6).double()
    got = one(x, guide)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    read = (normed * one.norm.weight + one.norm.bias) @ one.read.weight.T + one.read.bias
    own, key = read[..., :2], read[..., 2:]
    local = (own * (1 + torch.erf(own / math.sqrt(2))) / 2) @ one.local.weight[0] + one.local.bias
    apart = (guide - guide.mean(-1, keepdim=True)) / (guide.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    query = (apart * one.guide_norm.weight + one.guide_norm.bias) @ one.query.weight.T + one.query.bias
    torch.testing.assert_close(got, local + torch.einsum("bnd,bd->bn", key, query) / math.sqrt(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_new_trimmers_keep_everything(dtype):
    one, other = TokenTrimmer(12, 12).to(dtype), HeadTrimmer([12, 6], 4).to(dtype)
    x = 3 * torch.randn(2, 50, 12, dtype=dtype)
    logit, heads = one(x, x[:, 0]), other([x[:, 0], x[:, 1, :6]])
    assert logit.shape == (2, 50) and heads.shape == (2, 4)
    assert logit.dtype == heads.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (logit - START).abs().max() < 1 and (heads - START).abs().max() < 1


def test_draws_have_the_probability_of_the_logit_and_a_gradient():
    logit = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64).repeat(20000, 1).requires_grad_()
    torch.manual_seed(0)
    drawn = draw(logit, 0.7)
    assert set(drawn.detach().unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.detach().mean(0), logit.detach()[0].sigmoid(), atol=0.01, rtol=0)
    drawn.sum().backward()
    assert (logit.grad >= 0).all() and (logit.grad > 0).any(dim=0).all()
    assert draw(torch.full((1000,), 40.0), 1.0).eq(1).all() and draw(torch.full((1000,), -40.0), 1.0).eq(0).all()


# ------------------------------------------------------------------------------------------------- on made streams


def made(training=False, seed=0, sites=2, streams=("text", "image"), one_sequence=True, **options):
    torch.manual_seed(seed)
    reducer = SmartTrim(**options)
    backbone = synthetic_backbone(streams, one_sequence, width=4, sites=sites)
    active = reducer.bind(backbone)
    for parameter in active.parameters():
        parameter.data.normal_()
    return active.train(training)


def given(stream, training=False, real=None, losses=None, gates=None, past=None, heads=None):
    x = torch.randn(4, 12, 4, generator=torch.Generator().manual_seed(5))
    text, image = stream(x[:, :5], prefix=1, training=training), stream(x, real=real, training=training)
    if gates is not None:
        image = replace(image, gate=gates[-1], past_gates=tuple(gates))
    masks = HeadMasks(past or ()) if heads is None else heads
    return Streams({"text": text, "image": image}, "image", losses=losses, heads=masks)


def test_tokens_with_a_negative_logit_go(stream, site):
    active = made()
    streams = given(stream)
    chosen = active.reduce_streams(streams, site(total=2))
    for name, prefix in (("text", 1), ("image", 0)):
        tokens = streams[name].tokens
        logit = active.tokens[0][name](tokens.x[:, prefix:], streams["text"].tokens.x[:, 0])  # the class token guides
        for row in range(4):
            valid = torch.ones_like(chosen[name].keep[row], dtype=torch.bool)
            valid = valid if chosen[name].valid is None else chosen[name].valid[row]
            kept = chosen[name].keep[row][valid].tolist()
            high = [prefix + i for i, value in enumerate(logit[row].tolist()) if value >= 0]
            assert kept == [*range(prefix), *(high or [prefix + int(logit[row].argmax())])]
    assert any(one.valid is not None for one in chosen.values())


def test_odds_move_the_threshold(stream, site):
    kept = []
    for odds in (0.0, 0.3, 1.0, 4.0, 1e9):
        chosen = made(odds=odds).reduce_streams(given(stream), site(total=2))
        kept.append(int(chosen["image"].counts().sum()) if "image" in chosen else 4 * 12)
    assert kept == sorted(kept, reverse=True) and kept[0] == 48 and kept[-1] == 4 and len(set(kept)) > 3


def test_a_token_once_dropped_stays_dropped(stream, site):
    gates = [(torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) < 0.5).float()]
    streams = given(stream, training=True, losses={}, gates=gates)
    gate = made(training=True).reduce_streams(streams, site(index=0, total=2))["image"]
    assert isinstance(gate, Gate)
    assert not gate.values[gates[0] == 0].any() and gate.values[gates[0] == 1].any()


def test_the_loss_is_that_of_the_mean_over_layers(stream, site):
    """At the last site alone; padding and protected tokens do not count; the mean is that of the batch."""
    real = torch.ones(4, 12, dtype=torch.bool)
    real[2, 7:] = False
    gates = [torch.rand(4, 12).round() * real, torch.rand(4, 12).round() * real]
    losses = {}
    active = made(training=True, sites=3, keep=0.6, text_keep=1.0, weight=2.0)
    assert active.names == ("image",)
    streams = given(stream, training=True, real=real, losses=losses, gates=gates)
    active.reduce_streams(streams, site(index=1, total=3))
    assert not losses
    gate = active.reduce_streams(streams, site(index=2, total=3))["image"].values
    shares = [float((one.detach() * real).sum() / real.sum()) for one in (*gates, gate)]
    assert float(losses["tokens"].detach()) == pytest.approx(2.0 * (sum(shares) / 3 - 0.6) ** 2, abs=1e-5)
    losses["tokens"].backward()
    assert all(p.grad is not None for p in active.tokens[2].parameters())


def test_heads_have_targets_of_their_own(stream, site):
    past = (torch.tensor([[1.0, 0.0]] * 4),)
    losses = {}
    active = made(training=True, keep=1.0, head_keep=0.75, weight=1.0)
    assert not active.names
    streams = given(stream, training=True, losses=losses, past=past)
    assert active.reduce_streams(streams, site(index=1, total=2)) == {}
    ((key, values),) = streams._heads.given.items()
    assert key == ("text+image", False) and values.shape == (4, 2) and values.requires_grad
    expected = ((past[0].mean() + values.mean()) / 2 - 0.75).square()
    torch.testing.assert_close(losses["heads"], expected)


def test_one_head_stays(stream, site):
    active = made(head_keep=0.5, odds=1e9)
    streams = given(stream)
    active.reduce_streams(streams, site(total=2))
    ((_, values),) = streams._heads.given.items()
    assert values.sum(dim=1).eq(1).all()


def test_trimmers_only_where_something_is_to_go():
    assert made(text_keep=1.0).names == ("image",)
    assert len(list(made(keep=1.0).parameters())) == 0
    assert made(streams=("image",)).guides == {"image": "image"}
    one = made(one_sequence=False, head_keep=0.5)
    assert one.attentions == [("text", False), ("image", False)]


def test_scaled():
    one = SmartTrim(keep=0.5, text_keep=0.8, head_keep=0.6).scaled(0.5, 4)
    assert (one.keep, one.text_keep, one.head_keep, one.odds) == pytest.approx((0.75, 0.9, 0.8, 0.5))
    nothing = SmartTrim().scaled(0, 4)
    assert (nothing.keep, nothing.text_keep, nothing.odds) == (1.0, None, 0.0)
    assert SmartTrim(keep=0.3).scaled(9, 4).keep == 0.01


@pytest.mark.parametrize(
    "options",
    [{"keep": 0}, {"keep": 1.5}, {"text_keep": 0}, {"head_keep": -1}, {"tau": 0}, {"weight": "1"}, {"odds": -1}],
)
def test_options_out_of_range(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        SmartTrim(**options)


def test_without_widths_it_says_where_they_come_from():
    backbone = replace(synthetic_backbone(), widths={})
    with pytest.raises(UnfitReducerError, match="attach"):
        SmartTrim().bind(backbone)


# ------------------------------------------------------------------------------------------------------- on models


def vilt_case(tiny_vilt, vilt_inputs, tiny_meter, name):
    """A model, its inputs and the stacks to trim."""
    if name.startswith("Vilt"):
        return tiny_vilt(name), vilt_inputs(lengths=[7, 4, 2], sizes=[(32, 32), (16, 24), (32, 8)]), ["encoder"]
    if name.startswith("Meter"):
        model, inputs = tiny_meter(name)
        return model, inputs, ["cross", "vision", "text"]
    example = Blip().examples()[name]()
    inputs = {**example.inputs, "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])}
    return example.model, inputs, ["cross", "vision"]


MODELS = [
    "ViltForQuestionAnswering",
    "ViltModel",
    "MeterForQuestionAnswering",
    "MeterModel",
    "BlipForQuestionAnswering",
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("head_keep", [None, 0.5])
def test_training_computes_what_evaluation_does(
    name, head_keep, tiny_vilt, vilt_inputs, tiny_meter, scramble, certain, assert_close
):
    """With draws by the sign: gates on all tokens give what the hard pass gives, restored tokens included."""
    model, inputs, stacks = vilt_case(tiny_vilt, vilt_inputs, tiny_meter, name)
    model = still(model.double())
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    plan = {stack: {"reducer": "smarttrim", "head_keep": head_keep} for stack in stacks}
    with tokenreduce.attach(model, plan) as handle:
        for seed, one in enumerate(handle.stacks.values()):
            train(one.reducer, scramble, seed + 3)
        soft = tensors(model(**inputs))
        assert set(handle.last.losses) == {"tokens", "heads"} if head_keep else {"tokens"}
        gates = {
            name: {s: g.sum(dim=1) for s, g in record.gates.items()} for name, record in handle.last.stacks.items()
        }
        model.eval()
        with torch.no_grad():
            hard = tensors(model(**inputs))
        spread = 0.0
        for stack, counts in gates.items():
            record = handle.last.stacks[stack]
            for stream, count in counts.items():
                assert torch.equal(torch.as_tensor(record.counts[stream]).double().expand(len(count)), count.double())
                spread += record.spread[stream]
            assert any(record.tokens[stream] < record.initial[stream] for stream in counts), "nothing went"
        assert spread > 0, "all samples keep as many"
        if head_keep:
            assert any((values == 0).any() for one in handle.last.stacks.values() for values in one.heads.values())
    for one, other in zip(soft, hard, strict=True):
        if one.ndim == 3 and one.shape[1] > other.shape[1]:
            continue  # image features of a model whose text alone is given back
        if name == "ViltModel" and one.ndim == 3:
            one, other = one[:, :7], other[:, :7]
        assert_close(one, other, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_new_trimmers_change_nothing(name, tiny_vilt, vilt_inputs, tiny_meter, assert_close):
    model, inputs, stacks = vilt_case(tiny_vilt, vilt_inputs, tiny_meter, name)
    model.double().eval()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    with tokenreduce.attach(model, dict.fromkeys(stacks, "none")):
        expected = tensors(model(**inputs))
    with tokenreduce.attach(model, {stack: {"reducer": "smarttrim", "head_keep": 0.5} for stack in stacks}):
        got = tensors(model(**inputs))
    for one, other in zip(got, expected, strict=True):
        if one.ndim < 3:
            assert_close(one, other, 1e-9)


@torch.no_grad()
def test_samples_alone_give_the_same(tiny_meter, scramble, assert_close):
    """All three stacks at once, tokens and heads: ragged batches leave no trace in a sample's answer."""
    model, inputs = tiny_meter()
    model.double()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    plan = {stack: {"reducer": "smarttrim", "head_keep": 0.5} for stack in ("cross", "vision", "text")}
    with tokenreduce.attach(model, plan) as handle:
        for seed, one in enumerate(handle.stacks.values()):
            train(one.reducer, scramble, seed)
        whole = model(**inputs).logits
        assert max(record.spread[s] for record in handle.last.stacks.values() for s in record.spread) > 0
        for row in range(len(whole)):
            alone = model(**{key: value[row : row + 1] for key, value in inputs.items()}).logits
            assert_close(alone, whole[row : row + 1], 1e-9)


def test_a_guide_from_the_other_modality(tiny_vilt, vilt_inputs, scramble):
    """Other words, other image tokens: at the first layer, before the two have met in the encoder."""
    model, inputs = tiny_vilt(), vilt_inputs(2)
    other = {**inputs, "input_ids": inputs["input_ids"].roll(1, dims=1) % 98 + 1}
    with tokenreduce.attach(model, "smarttrim", layers=[0]) as handle, torch.no_grad():
        train(model.vilt.encoder.tokenreduce, scramble, bias=0.0)
        assert handle.stacks["encoder"].reducer.guides == {"text": "text", "image": "text"}
        traced = []
        for one in (inputs, other):
            model(**one)
            traced.append(handle.last.counts["image"])
    assert not torch.equal(*(torch.as_tensor(one) for one in traced))


def test_a_tower_without_a_class_token_is_guided_by_its_mean(scramble):
    example = Siglip().examples()["SiglipModel"]()
    with tokenreduce.attach(example.model, {"vision": "smarttrim"}) as handle, torch.no_grad():
        train(handle.stacks["vision"].reducer, scramble)
        example.model(**example.inputs)
        assert handle.last.tokens["image"] < handle.last.initial["image"]


def test_saved_and_loaded(tiny_vilt, vilt_inputs, scramble, tmp_path):
    model, inputs = tiny_vilt(), vilt_inputs(3)
    handle = tokenreduce.attach(model, "smarttrim", head_keep=0.5, layers=[1, 3])
    train(model.vilt.encoder.tokenreduce, scramble)
    with torch.no_grad():
        expected = model(**inputs).logits
        handle.save(tmp_path)
        handle.detach()
        with tokenreduce.load(model, tmp_path) as again:
            assert again.config["layers"] == [1, 3]
            assert torch.equal(model(**inputs).logits, expected)
        assert (model(**inputs).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("reentrant", [False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, tiny_vilt, vilt_inputs, scramble):
    """Gates, masks on heads and what is restored pass through a checkpoint."""
    from ..helpers import assert_same_gradients, enable_checkpointing, gradients

    found = []
    for checkpointed in (False, True):
        model = still(tiny_vilt("ViltModel"))
        with tokenreduce.attach(model, "smarttrim", head_keep=0.5) as handle:
            train(model.encoder.tokenreduce, scramble)
            if checkpointed:
                enable_checkpointing(model, reentrant)
            torch.manual_seed(7)
            output = model(**vilt_inputs(2)).last_hidden_state
            found.append(gradients(model, output.square().mean() + sum(handle.last.losses.values())))
    assert_same_gradients(found[1], found[0])
    assert all(float(g.abs().max()) > 0 for n, g in found[0].items() if "tokenreduce" in n and "weight" in n)
