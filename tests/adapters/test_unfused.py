"""Attention that is not fused, where a user asked for it: derivatives of derivatives, and forward mode."""

from __future__ import annotations

import pytest
import timm.layers
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tokenreduce
from tokenreduce_models.open_clip.adapter import OpenClip
from tokenreduce_models.timm.eva import TimmEva
from tokenreduce_models.torchvision.vit import TorchvisionViT
from tokenreduce_models.transformers import (
    blip,
    clip,
    dinov2,
    dinov3,
    siglip,
    siglip2,
    videomae,
    vilt,
    vit,
    vit_mae,
)

EAGER = {
    "ViTForImageClassification": vit.ViT,
    "CLIPVisionModelWithProjection": clip.Clip,
    "SiglipVisionModel": siglip.Siglip,
    "Siglip2VisionModel": siglip2.Siglip2,
    "Dinov2Model": dinov2.Dinov2,
    "DINOv3ViTModel": dinov3.Dinov3,
    "ViTMAEModel": vit_mae.ViTMAE,
    "VideoMAEModel": videomae.VideoMAE,
}
WITHOUT_A_CHOICE = {
    "BLIP": lambda: blip.Blip().examples()["BlipVisionModel"](),
    "ViLT": lambda: vilt.Vilt().examples()["ViltForQuestionAnswering"](),
    "torchvision": lambda: TorchvisionViT().examples()["VisionTransformer"](),
    "open_clip": lambda: next(iter(OpenClip().examples().values()))(),
}


def curvature(model, inputs):
    """The gradient of the squared gradient of a model's answer with respect to its picture."""
    name = next(key for key in ("x", "pixel_values", "image") if key in inputs)
    picture = inputs[name].detach().clone().requires_grad_()
    output = model(**{**inputs, name: picture})
    while not isinstance(output, torch.Tensor):
        parts = output.values() if isinstance(output, dict) else output
        output = next(part for part in parts if isinstance(part, torch.Tensor) and part.requires_grad)
    (slope,) = torch.autograd.grad(
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum(), picture, create_graph=True
    )
    (curved,) = torch.autograd.grad(slope.square().sum(), picture)
    return curved


def timm_models(tiny_vit):
    yield tiny_vit()
    for label in ("Eva, EVA-02", "Eva, Perception Encoder"):
        yield TimmEva().examples()[label]().model


@pytest.mark.parametrize("when", ["before", "after"])
def test_timm_attention_that_is_switched_to_matrices(when, tiny_vit, images, assert_close):
    for model in timm_models(tiny_vit):
        handle = tokenreduce.attach(model, "none") if when == "after" else None
        if when == "after":
            with pytest.raises(RuntimeError, match="derivative"):
                curvature(model, {"x": images()})
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        handle = handle or tokenreduce.attach(model, "none")
        got = curvature(model, {"x": images()})
        handle.detach()
        assert_close(got, curvature(model, {"x": images()}), 1e-4)
        with tokenreduce.attach(model, "tome", r=2):
            assert curvature(model, {"x": images()}).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # of torch itself, in forward mode
def test_timm_models_made_without_fused_attention(tiny_vit, images):
    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    try:
        model = tiny_vit()
    finally:
        timm.layers.set_fused_attn(fused)
    with tokenreduce.attach(model, "tome", r=2):
        assert curvature(model, {"x": images()}).isfinite().all()
        _, moved = torch.func.jvp(model, (images(),), (torch.ones(2, 3, 32, 32),))
        assert moved.isfinite().all()


@pytest.mark.parametrize("label", EAGER)
def test_eager_attention_of_transformers(label, assert_close):
    example = EAGER[label]().examples()[label]()
    model, inputs = example.model, example.inputs
    handle = tokenreduce.attach(model, "none")
    with pytest.raises(RuntimeError, match="derivative"):
        curvature(model, inputs)
    model.set_attn_implementation("eager")
    got = curvature(model, inputs)
    handle.detach()
    assert_close(got, curvature(model, inputs), 1e-4)
    with tokenreduce.attach(model, "tome", r=2):
        assert curvature(model, inputs).isfinite().all()


@pytest.mark.parametrize("label", WITHOUT_A_CHOICE)
def test_torchs_own_switch_for_models_that_have_none(label):
    example = WITHOUT_A_CHOICE[label]()
    with tokenreduce.attach(example.model, "tome", r=2), sdpa_kernel(SDPBackend.MATH):
        assert curvature(example.model, example.inputs).isfinite().all()


def test_dropout_of_weights_that_are_not_fused(tiny_vit, images):
    model = tiny_vit()
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.p = 0.5
    with torch.no_grad(), tokenreduce.attach(model, "none"):
        assert torch.equal(model(images()), model(images()))
        model.train()
        assert not torch.equal(model(images()), model(images()))
