"""DynamicViT against a slow re-implementation written from the specification sheet, in float64.

Axes: B batch, N tokens, n without the class token, C width, H heads.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.methods import Gate, Reduction, Streams
from tokenreduce.testing import synthetic_backbone
from tokenreduce_methods.dynamicvit.method import DynamicViT
from tokenreduce_models.transformers.clip import Clip

EPS = 1e-6


class Oracle:
    """A timm ViT with predictors before blocks 3, 6 and 9: dense attention, one published formula after the other."""

    def __init__(self, model, predictors, keep):
        self.model, self.predictors, self.keep = model, predictors, keep
        self.diagonal = True  # a token attends to itself whatever the policy says

    def predict(self, predictor, x, policy):
        """Log-probabilities (B, n, 2) of keep and drop: half of the channels local, half the mean of what is left."""
        norm, linear = predictor.first[0], predictor.first[1]
        x = F.gelu(F.linear(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias), linear.weight, linear.bias))
        half = x.shape[-1] // 2
        mean = (x[..., half:] * policy[..., None]).sum(1, keepdim=True) / policy[..., None].sum(1, keepdim=True)
        x = torch.cat([x[..., :half], mean.expand(-1, x.shape[1], -1)], dim=-1)
        for i, linear in enumerate([predictor.rest[0], predictor.rest[2], predictor.rest[4]]):
            x = F.linear(x, linear.weight, linear.bias)
            x = F.gelu(x) if i < 2 else x
        return F.log_softmax(x, dim=-1)

    def block(self, block, x, policy):
        attn, (batch, length, width) = block.attn, x.shape
        normed = block.norm1(x)
        qkv = attn.qkv(normed).reshape(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = qkv[0] @ qkv[1].transpose(-1, -2) * attn.scale
        if policy is None:
            prob = logits.softmax(dim=-1)
        else:
            eye = torch.eye(length, dtype=x.dtype) * self.diagonal
            mask = policy[:, None, None, :] * (1 - eye) + eye
            weight = (logits - logits.max(dim=-1, keepdim=True).values).exp() * mask
            prob = (weight + EPS / length) / (weight.sum(dim=-1, keepdim=True) + EPS)
        x = x + attn.proj((prob @ qkv[2]).transpose(1, 2).reshape(batch, length, width))
        return x + block.mlp(block.norm2(x))

    def __call__(self, images, training):
        """Logits, the tokens before the final norm, the policy (B, N), and the ratio loss."""
        model = self.model
        x = model._pos_embed(model.patch_embed(images))
        first, stage, policy = x.shape[1] - 1, 0, x.new_ones(len(x), x.shape[1])
        masked, loss = None, x.new_zeros(())
        for index, block in enumerate(model.blocks):
            if index in (3, 6, 9):
                stage += 1
                scores = self.predict(self.predictors[stage - 1], x[:, 1:], policy[:, 1:])
                if training:
                    noise = -torch.empty(scores.shape, dtype=scores.dtype).exponential_().log()
                    soft = (scores + noise).softmax(dim=-1)[..., 0]
                    hard = (soft > 0.5).to(soft) - soft.detach() + soft
                    hard = hard * policy[:, 1:]
                    loss = loss + ((hard.mean(dim=1) - self.keep**stage) ** 2).mean()
                    masked = policy = torch.cat([torch.ones_like(hard[:, :1]), hard], dim=1)
                else:
                    count = int(first * self.keep**stage)
                    order = scores[..., 0].argsort(dim=1, descending=True)[:, :count] + 1
                    order = torch.cat([torch.zeros_like(order[:, :1]), order], dim=1)
                    x = torch.stack([sample[ids] for sample, ids in zip(x, order, strict=True)])
                    policy = policy[:, : count + 1]
            x = self.block(block, x, masked)
        return model.head(model.norm(x)[:, 0]), x, policy, 2 / 3 * loss


@pytest.fixture
def pair(tiny_vit, scramble):
    """An attached ViT of 12 blocks and 16 patches in float64, and its oracle."""

    def build(keep=0.7, **arguments):
        model = tiny_vit(depth=12, **arguments).double()
        plain = copy.deepcopy(model)
        handle = tokenreduce.attach(model, "dynamicvit", keep=keep)
        scramble(model.tokenreduce, 3)  # new ones hardly tell tokens apart
        return model, handle, Oracle(plain, copy.deepcopy(model.tokenreduce.predictors), keep)

    return build


@torch.no_grad()
@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5])
def test_evaluation_is_the_oracles(pair, images, keep):
    model, handle, oracle = pair(keep)
    x = images(3).double()
    logits, tokens, _, _ = oracle(x, training=False)
    torch.testing.assert_close(model(x), logits, rtol=1e-9, atol=1e-9)
    with tokenreduce.attach(copy.deepcopy(oracle.model), "none") as other:
        assert other.model(x).shape == logits.shape
    assert handle.last.tokens == {"image": tokens.shape[1]} == {"image": 1 + int(16 * keep**3)}
    assert handle.last.losses == {}


@pytest.mark.parametrize("seed", range(3))
def test_training_is_the_oracles_for_kept_tokens(pair, images, seed):
    model, handle, oracle = pair(img_size=64)
    model.train()
    seen = []
    model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = images(3, 64, 64, seed=seed).double()
    torch.manual_seed(seed)
    got = model(x)
    torch.manual_seed(seed)
    logits, tokens, policy, loss = oracle(x, training=True)
    kept = policy > 0.5
    assert kept[:, 0].all() and not kept.all()
    torch.testing.assert_close(got, logits, rtol=1e-3, atol=1e-4)  # 1e-6 for what is dropped, 12 layers long
    torch.testing.assert_close(seen[0][kept], tokens[kept], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(handle.last.losses["ratio"], loss)
    assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == [(65, 65)] * 3


@pytest.mark.parametrize(("diagonal", "least"), [(False, 1 - 1e-6), (True, 0.95)])
def test_gradients_are_the_oracles(pair, images, diagonal, least):
    """But for the diagonal: published code passes no gradient through it, the fused kernel does (one key of N)."""
    model, handle, oracle = pair(img_size=64)
    oracle.diagonal = diagonal
    model.train()
    x = images(2, 64, 64).double()
    torch.manual_seed(0)
    (model(x).square().sum() + handle.last.losses["ratio"]).backward()
    torch.manual_seed(0)
    logits, _, _, loss = oracle(x, training=True)
    (logits.square().sum() + loss).backward()
    named = [*model.tokenreduce.predictors.named_parameters(), *model.blocks.named_parameters()]
    others = [*oracle.predictors.parameters(), *oracle.model.blocks.parameters()]
    for (name, one), other in zip(named, others, strict=True):
        if one.grad.numel() > 2:  # a slope of two biases is +- 1
            cosine = F.cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0)
            assert cosine > least, (name, cosine)
        if not diagonal:
            torch.testing.assert_close(one.grad, other.grad, rtol=2e-3, atol=1e-3 * float(other.grad.abs().max()))


@torch.no_grad()
def test_published_counts_of_196_patches(tiny_vit, images):
    model = tiny_vit(img_size=112, depth=12)
    with tokenreduce.attach(model, "dynamicvit") as handle:
        model(images(1, 112, 112))
        assert handle.config["layers"] == [3, 6, 9]
        assert [row.tokens_out - 1 for row in handle.last.sites] == [137, 96, 67]
        before, after = handle.last.macs
        counts = [197] * 3 + [138] * 3 + [97] * 3 + [68] * 3  # the block of a site sees the tokens that are left
        weights = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 2)
        assert after == sum(n * weights + 2 * n * n * 32 for n in counts)
        assert before == 12 * (197 * weights + 2 * 197 * 197 * 32)


def made(keep=0.7, width=4, sites=3, seed=0, **options):
    torch.manual_seed(seed)
    method = DynamicViT(keep=keep, **options).bind(synthetic_backbone(width=width, sites=sites))
    for parameter in method.parameters():
        parameter.data.normal_()
    return method


@torch.no_grad()
def test_order_is_falling_score_behind_the_protected(stream, site):
    method, x = made().eval(), torch.randn(2, 12, 4)
    one = method.reduce_streams(Streams({"image": stream(x, prefix=2)}), site(total=3))["image"]
    score = method.predictors[0](x[:, 2:], torch.ones(2, 10))[..., 0]
    expected = score.sort(dim=1, descending=True).indices[:, :7] + 2
    assert isinstance(one, Reduction)
    assert torch.equal(one.keep, torch.cat([torch.tensor([[0, 1]] * 2), expected], dim=1))


@pytest.mark.parametrize("training", [False, True])
def test_padding_counts_for_nothing(stream, site, training):
    method = made().train(training)
    x = torch.randn(2, 10, 4)
    other = x.clone()
    real = torch.tensor([[True] * 10, [True] * 4 + [False] * 6])
    other[1, 4:] = 100.0
    found, sums = [], []
    for tokens in (x, other):
        torch.manual_seed(5)
        losses = {}
        streams = Streams({"image": stream(tokens, real=real, training=training)}, losses=losses)
        found.append(method.reduce_streams(streams, site(total=3))["image"])
        sums.append(losses)
    if training:
        one, two = (gate.effective(0, real) for gate in found)
        assert torch.equal(one, two)
        assert not one[1, 4:].any()
        mean = torch.stack([one[0].mean(), one[1, :4].mean()])
        torch.testing.assert_close(sums[0]["ratio"], 2 / 3 * (mean - 0.7).square().mean())
    else:
        assert sorted(found[0].keep[1].tolist())[:4] == [0, 1, 2, 3]
        assert torch.equal(found[0].keep[1, :4], found[1].keep[1, :4])


def test_removed_tokens_stay_removed(stream, site):
    method, x = made().train(), torch.randn(4, 30, 4)
    gone = torch.rand(4, 30) < 0.5
    before = (~gone).float()
    streams = Streams({"image": replace(stream(x, training=True), gate=before)})
    gate = method.reduce_streams(streams, site(index=1, total=3))["image"]
    assert isinstance(gate, Gate)
    assert not gate.values[gone].any()
    assert gate.values[~gone].any()
    assert set(gate.values.detach().round(decimals=5).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_removed_with_keep_1(stream, site, training):
    losses = {}
    method = made(keep=[1.0, 0.5], sites=2).train(training)
    streams = Streams({"image": stream(torch.randn(2, 9, 4), training=training)}, losses=losses if training else None)
    before = torch.get_rng_state()
    assert method.reduce_streams(streams, site(total=2)) == {}
    assert torch.equal(before, torch.get_rng_state())
    if training:  # the predictor learns to keep all
        losses["ratio"].backward()
        assert all(p.grad is not None for p in method.predictors[0].parameters())
    chosen = method.reduce_streams(streams, site(index=1, total=2))["image"]
    assert isinstance(chosen, Gate) if training else chosen.count == 4


def test_shares(site):
    assert [DynamicViT(keep=0.7).shares(site(index=i, total=3))[1] for i in range(3)] == [0.7, 0.7**2, 0.7**3]
    listed = DynamicViT(keep=[0.9, 0.5])
    assert [listed.shares(site(index=i, total=3)) for i in range(3)] == [(0.9, 0.9), (0.5, 0.45), (1.0, 0.45)]
    assert DynamicViT(keep=0.7).scaled(0.5, 3).options()["keep"] == 0.85
    assert DynamicViT(keep=[0.9, 0.5]).usual_layers(24) == [6, 12, 18]


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"keep": 1.5}, {"tau": 0}, {"tau": "1"}, {"ratio_weight": -1}, {"ratio_weight": True}]
)
def test_options_out_of_range(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        DynamicViT(**options)


def test_as_many_predictors_as_layers(tiny_vit):
    model = tiny_vit()
    with pytest.raises(OptionError, match="keep has 3 entries for 2 sites"):
        tokenreduce.attach(model, DynamicViT(keep=[0.9, 0.8, 0.7]), layers=[1, 2])
    with tokenreduce.attach(model, "dynamicvit", layers=[0, 1, 2, 3]):
        assert len(model.tokenreduce.predictors) == 4
    assert tokenreduce.attachment(model) is None


def test_on_a_vilt_the_image_alone_is_gated(tiny_vilt, vilt_inputs, flow):
    model, inputs = tiny_vilt(), vilt_inputs(lengths=[7, 4, 2], sizes=[(32, 32), (16, 24), (32, 8)])
    with tokenreduce.attach(model, "dynamicvit", layers=[1, 2]) as handle:
        with torch.no_grad():
            model(**inputs)
        assert flow(handle) == [17, 11, 8]
        assert flow(handle, "text") == [7, 7, 7]
        model.train()
        (model(**inputs).logits.sum() + handle.last.losses["ratio"]).backward()
        assert flow(handle) == [17, 17, 17]
        for name, parameter in handle.stacks["encoder"].reducer.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("label", ["CLIPModel", "CLIPVisionModelWithProjection"])
def test_on_a_clip_tower(label):
    example = Clip().examples()[label]()
    with tokenreduce.attach(example.model, {"vision": "dynamicvit"}) as handle:
        example.model.train()
        example.model(**example.inputs)
        handle.last.losses["ratio"].backward()
        assert all(p.grad is not None for p in handle.stacks["vision"].reducer.parameters())
        example.model.eval()
        with torch.no_grad():
            example.model(**example.inputs)
        rows = handle.last.sites
        assert rows[-1].tokens_out == 1 + int((rows[0].tokens_in - 1) * 0.7 ** len(rows))
