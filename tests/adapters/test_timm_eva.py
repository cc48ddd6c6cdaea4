"""timm's Eva: what it is built with, training, calls that are refused, sizes."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.eva import Eva

import tokenreduce
from tokenreduce.attachments.resizing import resize_model
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

ROTARY = {"use_rot_pos_emb": True}
CASES = {
    "plain": {},
    "rotary": ROTARY,
    "half": {**ROTARY, "rope_rotate_half": True},
    "separate-qkv": {**ROTARY, "qkv_fused": False},
    "separate-bias": {**ROTARY, "qkv_bias": False},
    "rope-attention": {**ROTARY, "attn_type": "rope"},
    "inner-norm": {**ROTARY, "scale_attn_inner": True, "swiglu_mlp": True, "scale_mlp": True},
    "mixed": {**ROTARY, "rope_type": "mixed"},
    "mixed-one-head": {**ROTARY, "rope_type": "mixed", "num_heads": 1},
    "dinov3": {**ROTARY, "rope_type": "dinov3", "num_reg_tokens": 8, "no_embed_class": True},
    "dynamic": {**ROTARY, "dynamic_img_size": True},
    "dynamic-mixed": {**ROTARY, "rope_type": "mixed", "dynamic_img_size": True},
    "post-norm": {**ROTARY, "use_post_norm": True},
    "layer-scale": {**ROTARY, "init_values": 1e-5, "drop_path_rate": 0.3},
    "dropout": {**ROTARY, "proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "pos_drop_rate": 0.2},
    "patch-dropout": {**ROTARY, "patch_drop_rate": 0.5},
    "patch-dropout-mixed": {**ROTARY, "patch_drop_rate": 0.5, "rope_type": "mixed"},
    "pool-none": {**ROTARY, "global_pool": ""},
    "pool-map": {**ROTARY, "global_pool": "map", "class_token": False},
    "pool-token": {**ROTARY, "global_pool": "token"},
}
NAMES = [
    "eva02_tiny_patch14_224",
    "vit_pe_core_tiny_patch16_384",
    "vit_pe_spatial_tiny_patch16_512",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_224",
    "vit_medium_patch16_rope_reg1_gap_256",
]


@pytest.fixture(params=CASES)
def model(request, tiny_vit):
    return tiny_vit(Eva, **CASES[request.param])


def grouped(tiny_vit):
    try:
        return tiny_vit(Eva, **ROTARY, attn_type="rope", qkv_fused=False, num_kv_heads=2)
    except TypeError:
        pytest.skip("this timm has no grouped-query attention in Eva")


@pytest.mark.parametrize("training", [False, True])
def test_zero_budget_is_the_identity(model, training, images, assert_close):
    """In training too: what is drawn, and in which order, is the same."""
    model.train(training)

    def run():
        torch.manual_seed(11)
        return model(images(4))

    with torch.no_grad():
        expected = run()
        with tokenreduce.attach(model, "none"):
            assert_close(run(), expected)


def test_tokens_go_and_detach_is_bit_exact(model, images, snapshot):
    with torch.no_grad():
        expected, untouched = model(images()), snapshot(model)
        with tokenreduce.attach(model, "tome", r=3) as handle:
            assert model(images()).shape == expected.shape
            assert handle.last.sites[-1].tokens_out < handle.last.sites[0].tokens_in
        assert snapshot(model) == untouched
        assert torch.equal(model(images()), expected)


def test_grouped_query_attention(tiny_vit, images, assert_close):
    model = grouped(tiny_vit)
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name in timm.list_models()])
def test_models_that_timm_names(name, scramble, assert_close):
    patch = 14 if "patch14" in name else 16
    model = scramble(timm.create_model(name, depth=2, img_size=4 * patch, num_classes=5)).eval()
    x = torch.randn(2, 3, 4 * patch, 4 * patch)
    with torch.no_grad():
        expected = model(x)
        with tokenreduce.attach(model, "none") as handle:
            assert_close(model(x), expected)
            assert handle.config["adapter"] == "timm-eva"
        with tokenreduce.attach(model, "tome", r=2) as handle:
            assert model(x).shape == expected.shape
            assert handle.last.sites[-1].tokens_out == handle.last.sites[0].tokens_in - 4


def test_calls_that_need_every_token_are_refused(tiny_vit, images):
    model = tiny_vit(Eva, **ROTARY)
    with tokenreduce.attach(model, "tome", r=2), torch.no_grad():
        with pytest.raises(UnsupportedCallError, match="detach"):
            model.forward_intermediates(images())
        with pytest.raises(UnsupportedCallError, match="attn_mask"):
            model(images(), attn_mask=torch.zeros(17, 17))


def test_resized(tiny_vit, images, assert_close):
    model = tiny_vit(Eva, **ROTARY)
    small = resize_model(model, 24, 32)
    with torch.no_grad(), tokenreduce.attach(small, "tome", r=1) as handle:
        assert small(images(height=24, width=32)).shape == (2, 7)
        assert handle.last.sites[0].tokens_in == 13


def test_another_attention_is_refused(tiny_vit):
    model = tiny_vit(Eva, **ROTARY)
    model.blocks[1].attn = torch.nn.Sequential(model.blocks[1].attn)
    with pytest.raises(UnsupportedModelError, match="before wrapping"):
        tokenreduce.attach(model, "tome")
