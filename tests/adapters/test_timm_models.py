"""Every timm model built on ``VisionTransformer``, as configured but shallow and narrow; and those that are not."""

from __future__ import annotations

import importlib
import sys

import pytest
import timm
import torch
from timm.layers import DiffAttention
from timm.models.eva import Eva
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)

import tokenreduce

BLOCKED = (ParallelScalingBlock, ParallelThingsBlock, DiffParallelScalingBlock, DiffAttention)
GRID = 5  # patches along each side

NAMES = [
    name
    for name in timm.list_models()
    if getattr(sys.modules[timm.model_entrypoint(name).__module__], "VisionTransformer", None) is VisionTransformer
]
QUICK = [
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "flexivit_small",
    "test_vit3",
    "vit_base_patch16_rpn_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch32_clip_224",
    "vit_little_patch16_reg4_gap_256",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_18x2_224",
    "vit_so150m2_patch16_reg1_gap_256",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
]
OTHERS = {
    "beit_base_patch16_224": {"depth": 1},
    "beitv2_base_patch16_224": {"depth": 1},
    "naflexvit_base_patch16_gap": {"depth": 1},
    "resnet10t": {},
    "samvit_base_patch16": {"depth": 1},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "swinv2_tiny_window8_256": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    "vit_relpos_small_patch16_224": {"depth": 1},
}


def check(name, shrink, scramble, forwards, assert_close):
    model = scramble(timm.create_model(name, num_classes=5, **shrink(name, GRID))).eval()
    assert isinstance(model, VisionTransformer)
    x = torch.randn(2, 3, *model.patch_embed.img_size)
    keys = list(model.state_dict())
    with torch.no_grad():
        expected = model(x)
        blocked = [type(m).__name__ for m in model.modules() if isinstance(m, BLOCKED)]
        if blocked:
            with pytest.raises(tokenreduce.errors.UnsupportedModelError) as caught:
                tokenreduce.attach(model, "none")
            assert any(kind in str(caught.value) for kind in blocked)
            assert forwards(model) == []
            return "refused"
        handle = tokenreduce.attach(model, "none")
        assert_close(model(x), expected)
        handle.detach()
        handle = tokenreduce.attach(model, "tome", r=4)
        reduced = model(x)
        total = model.num_prefix_tokens + GRID * GRID
        assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == [
            (total, total - 4),
            (total - 4, total - 8),
        ]
        assert reduced.shape == expected.shape
        assert reduced.isfinite().all()
        assert not torch.equal(reduced, expected)
        assert list(model.state_dict()) == keys
        handle.detach()
        assert forwards(model) == []
        assert torch.equal(model(x), expected)
    return "supported"


@pytest.mark.parametrize("name", QUICK)
def test_representative_models(name, shrink, scramble, forwards, assert_close):
    outcome = check(name, shrink, scramble, forwards, assert_close)
    assert outcome == ("refused" if name == "vit_small_patch16_18x2_224" else "supported")


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_every_vision_transformer(name, shrink, scramble, forwards, assert_close):
    check(name, shrink, scramble, forwards, assert_close)


@pytest.mark.sweep
def test_the_sweep_misses_nothing():
    modules = {timm.model_entrypoint(name).__module__ for name in NAMES}
    assert {"timm.models.vision_transformer", "timm.models.deit"} <= modules
    assert len(NAMES) > 150
    for name in timm.list_models():
        module = importlib.import_module(timm.model_entrypoint(name).__module__)
        classes = [value for value in vars(module).values() if isinstance(value, type)]  # under whatever name
        if any(issubclass(kind, VisionTransformer) for kind in classes):
            assert name in NAMES


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_refused_with_a_reason(name, snapshot):
    model = timm.create_model(name, **OTHERS[name])
    untouched = snapshot(model)
    with pytest.raises(tokenreduce.errors.UnsupportedModelError) as caught:
        tokenreduce.attach(model, "tome", r=1)
    message = str(caught.value)
    assert type(model).__name__ in message
    words = {"swin": "window", "sam": "window", "relpos": "relative position", "beit": "relative position"}
    assert all(word in message for key, word in words.items() if key in name)
    assert snapshot(model) == untouched


@pytest.mark.sweep
def test_one_model_of_every_other_module_is_refused_with_a_reason():
    first = {}
    for name in timm.list_models():
        first.setdefault(timm.model_entrypoint(name).__module__, name)
    for module, name in first.items():
        if name in NAMES:
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        if isinstance(model, Eva):
            continue
        with pytest.raises(tokenreduce.errors.UnsupportedModelError, match=type(model).__name__):
            tokenreduce.attach(model, "tome", r=1)
        assert module.startswith("timm.")
