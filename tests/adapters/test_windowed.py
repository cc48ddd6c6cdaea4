"""Swin, Hiera, MaxViT and other models that need a full grid are refused by name, with the reason."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from torch import nn

import tokenreduce
from tokenreduce.errors import UnsupportedModelError

TIMM = {
    "swin_tiny_patch4_window7_224": "windows",
    "swinv2_tiny_window8_256": "windows",
    "swinv2_cr_tiny_224": "windows",
    "hiera_tiny_224": "windows",
    "sam2_hiera_tiny": "windows",
    "maxvit_tiny_tf_224": "windows",
    "davit_tiny": "windows",
    "samvit_base_patch16_224": "windows",
    "mvitv2_tiny": "pools",
    "pvt_v2_b0": "pools",
    "beit_base_patch16_224": "bias",
    "vit_relpos_small_patch16_224": "bias",
}
SIZES = {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 16, "image_size": 32}
TRANSFORMERS = {
    "Swin": "windows",
    "Swinv2": "windows",
    "Hiera": "windows",
    "Segformer": "pools",
    "Beit": "bias",
}


def refused(model, *words):
    with pytest.raises(UnsupportedModelError) as caught:
        tokenreduce.attach(model, "tome")
    for word in (*words, "full grid", "place"):
        assert word in str(caught.value), str(caught.value)
    assert "no adapter takes" not in str(caught.value)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    refused(model, type(model).__name__, TIMM[name])
    refused(nn.Sequential(model), f"Sequential holds {type(model).__name__}", TIMM[name])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    config = getattr(transformers, f"{name}Config")()
    for kind in (f"{name}Model", f"{name}ForImageClassification"):
        with torch.device("meta"):
            model = getattr(transformers, kind)(config)
        refused(model, kind, TRANSFORMERS[name])
        refused(nn.Sequential(model), f"holds {kind}", TRANSFORMERS[name])


def test_a_part_of_a_larger_model_is_named():
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.DonutSwinConfig(**SIZES), transformers.TrOCRConfig(decoder_layers=1, d_model=32)
    )
    with torch.device("meta"):
        model = transformers.VisionEncoderDecoderModel(config)
    refused(model, "VisionEncoderDecoderModel holds DonutSwinModel", "windows")


def test_a_tower_beside_one_is_still_taken(tiny_vit, images):
    """The reason is only given where no adapter takes the model."""
    with torch.device("meta"):
        swin = timm.create_model("swin_tiny_patch4_window7_224")
    model = nn.ModuleDict({"vit": tiny_vit(), "swin": swin})
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=3) as handle:
        model["vit"](images())
        assert handle.last.sites[-1].tokens_out < 17
