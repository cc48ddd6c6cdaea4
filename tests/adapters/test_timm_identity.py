"""timm ViTs: a budget of zero changes nothing whatever the block is made of, and detach gives back every bit."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention, Mlp, RmsNorm, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock

import tokenreduce

CASES = {
    "plain": {},
    "layer-scale": {"init_values": 1e-5},
    "qk-norm": {"qk_norm": True},
    "drop-path": {"drop_path_rate": 0.4},
    "dropout": {"proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "pos_drop_rate": 0.2},
    "reg-tokens": {"reg_tokens": 4},
    "reg-tokens-no-embed": {"reg_tokens": 4, "no_embed_class": True},
    "reg-tokens-no-class": {"reg_tokens": 3, "class_token": False, "global_pool": "avg"},
    "distilled": {"cls": VisionTransformerDistilled},
    "no-class": {"class_token": False, "global_pool": "avg"},
    "attn-norm": {"scale_attn_norm": True},
    "mlp-norm": {"scale_mlp_norm": True},
    "gated": {"gated": True},
    "gated-normed": {"gated": True, "scale_attn_norm": True},
    "swiglu": {"mlp_layer": SwiGLU},
    "rms-norm": {"norm_layer": RmsNorm},
    "pre-norm": {"pre_norm": True, "norm_layer": torch.nn.LayerNorm},
    "no-final-norm": {"final_norm": False},
    "no-bias": {"qkv_bias": False, "proj_bias": False},
    "pool-avg": {"global_pool": "avg"},
    "pool-avg-with-prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "pool-avgmax": {"global_pool": "avgmax"},
    "pool-max": {"global_pool": "max"},
    "pool-map": {"global_pool": "map"},
    "pool-map-no-class": {"global_pool": "map", "class_token": False},
    "pool-prr": {"global_pool": "prr"},
    "pool-prr-no-class": {"global_pool": "prr", "class_token": False},
    "pool-none": {"global_pool": ""},
    "pool-none-no-class": {"global_pool": "", "class_token": False},
    "fc-norm": {"fc_norm": True},
    "avg-without-fc-norm": {"global_pool": "avg", "fc_norm": False},
    "res-post": {"block_fn": ResPostBlock, "init_values": 1e-5},
    "res-post-qk-norm": {"block_fn": ResPostBlock, "qk_norm": True, "drop_path_rate": 0.2},
    "no-embed-class": {"no_embed_class": True},
    "no-pos-embed": {"pos_embed": "none"},
    "dynamic-size": {"dynamic_img_size": True},
    "features": {"num_classes": 0},
}


@pytest.fixture(params=[("tome", {"r": 3}), ("pumer", {})], ids=["tome", "pumer"])
def reducer(request):
    """One that merges, one that prunes and merges; the others are tried on fewer models."""
    return request.param


@pytest.fixture(params=["none", "random"])
def zero(request):
    return request.param, {} if request.param == "none" else {"remove": 0}


def build(tiny_vit, scramble, case):
    arguments = dict(CASES[case])
    gated = arguments.pop("gated", False)
    model = tiny_vit(**arguments)
    if gated:
        for block in model.blocks:
            block.attn = Attention(
                32,
                num_heads=4,
                qkv_bias=True,
                gated=True,
                scale_norm=arguments.get("scale_attn_norm", False),
                norm_layer=torch.nn.LayerNorm,
            )
        scramble(model)
    return model.eval()


def fitted(model, name, options):
    """Saliency for a model without a class token: EViT and PuMer have nothing else to go by there."""
    if name in ("evit", "pumer") and not model.has_class_token:
        return {**options, "saliency": "key-norm"}
    return options


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def model(case, tiny_vit, scramble):
    return build(tiny_vit, scramble, case)


def test_zero_budget_is_the_identity(case, model, zero, images, assert_close):
    x = images(2, 48, 24) if case == "dynamic-size" else images()
    name, options = zero
    with torch.no_grad():
        expected, features = model(x), model.forward_features(x)
        with tokenreduce.attach(model, name, **fitted(model, name, options)):
            assert_close(model(x), expected)
            assert_close(model.forward_features(x), features)


def test_zero_budget_in_training_draws_the_same_dropout(case, model, images, assert_close):
    model.train()

    def run():
        torch.manual_seed(11)
        output = model(images(4))
        return torch.stack(output) if isinstance(output, tuple) else output  # distilled: two heads in training

    expected = run()
    with tokenreduce.attach(model, "none"):
        assert_close(run(), expected)


def test_removes_tokens_and_detach_is_bit_exact(case, model, reducer, images, snapshot, forwards, tensors_of):
    x = images()
    with torch.no_grad():
        expected, untouched = [*tensors_of(model(x)), model.forward_features(x)], snapshot(model)
        name, options = reducer
        handle = tokenreduce.attach(model, name, **fitted(model, name, options))
        assert [key for key in model.state_dict() if "tokenreduce." not in key] == untouched[2]
        reduced = model(x)
        assert reduced.shape == expected[0].shape
        assert reduced.isfinite().all()
        assert not torch.equal(reduced, expected[0])
        rows = handle.last.sites
        assert rows[-1].tokens_out < rows[0].tokens_in == model.num_prefix_tokens + 16
        assert rows[-1].tokens_out >= model.num_prefix_tokens
        handle.detach()
        assert forwards(model) == []
        assert snapshot(model) == untouched
        for one, other in zip([*tensors_of(model(x)), model.forward_features(x)], expected, strict=True):
            assert torch.equal(one, other)


def test_protected_tokens_are_never_touched(case, model, reducer, images):
    name, options = reducer
    with tokenreduce.attach(model, name, trace=True, **fitted(model, name, options)) as handle, torch.no_grad():
        model(images())
        trace = handle.last.trace
    for sample in trace:
        for token in range(model.num_prefix_tokens):
            assert sample[token] == [token]


def test_model_without_fused_attention(tiny_vit, images, assert_close):
    model = tiny_vit(qk_norm=True)
    for block in model.blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)


def test_a_tower_inside_a_users_own_model(tiny_vit, images, assert_close):
    model = torch.nn.Sequential(tiny_vit(num_classes=0), Mlp(32, 16, 3))
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)
        with tokenreduce.attach(model, "tome", r=3) as handle:
            assert model(images()).shape == (2, 3)
            assert handle.last.sites[-1].tokens_out == 17 - 4 * 3


def test_two_towers_are_refused(tiny_vit):
    with pytest.raises(tokenreduce.errors.UnsupportedModelError):
        tokenreduce.attach(torch.nn.ModuleList([tiny_vit(), tiny_vit()]), "tome")


def test_patch_dropout_in_training(tiny_vit, images):
    model = tiny_vit(patch_drop_rate=0.5).train()
    with tokenreduce.attach(model, "tome", r=1) as handle:
        model(images()).sum().backward()
        assert handle.last.sites[0].tokens_in == 1 + 8


def test_calls_that_run_blocks_one_by_one_are_refused_not_ignored(tiny_vit, images):
    model, x = tiny_vit(), images()
    with tokenreduce.attach(model, "tome", r=2), torch.no_grad():
        with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="detach"):
            model.forward_intermediates(x)
        with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="detach"):
            model.forward_features(x, attn_mask=torch.zeros(17, 17))
        assert model(x).shape == (2, 7)
