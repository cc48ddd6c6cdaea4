"""torchvision's ViT: what reads it decides what it gets, training draws the same, sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import EncoderBlock

import tokenreduce
from tokenreduce.attachments.resizing import resize_model
from tokenreduce.errors import UnsupportedModelError

SIZES = {"image_size": 32, "patch_size": 8, "num_layers": 4, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}


@pytest.fixture
def vit(scramble):
    def build(kind=VisionTransformer, **options):
        return scramble(kind(**{**SIZES, "num_classes": 7, **options})).eval()

    return build


class AllTokens(VisionTransformer):
    """Reads every token, at its place."""

    def forward(self, x):
        x = self._process_input(x)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        return self.encoder(x)


def test_zero_budget_in_training_draws_the_same_attention_dropout(vit, images, assert_close):
    model = vit(attention_dropout=0.2).train()

    def run():
        torch.manual_seed(11)
        return model(images(4))

    expected = run()
    with tokenreduce.attach(model, "none"):
        assert_close(run(), expected)


def test_a_model_that_reads_every_token_gets_every_token(vit, images):
    model = vit(AllTokens)
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=3) as handle:
        assert model(images()).shape == (2, 17, 32)
        assert handle.last.tokens == {"image": 17 - 4 * 3}


def test_a_tower_without_its_classifier(vit, images):
    tower = vit()
    tower.heads = nn.Identity()
    model = nn.Sequential(tower, nn.Linear(32, 3))
    with torch.no_grad(), tokenreduce.attach(model, "evit", keep=0.5) as handle:
        assert model(images()).shape == (2, 3)
        assert handle.last.tokens["image"] < 17


def test_resized(vit, images):
    model = vit()
    with torch.no_grad():
        small = resize_model(model, 24, 24)
        assert small(images(height=24, width=24)).shape == (2, 7)
        assert model(images()).shape == (2, 7)
    with pytest.raises(UnsupportedModelError, match="square"):
        resize_model(model, 24, 32)
    with pytest.raises(tokenreduce.errors.OptionError, match="multiple of 8"):
        resize_model(model, 25, 25)


@pytest.mark.parametrize("maker", ["swin_t", "swin_v2_t", "maxvit_t"])
def test_windowed_models_are_refused_with_the_reason(maker):
    with torch.device("meta"):
        model = getattr(models, maker)()
    for one in (model, nn.Sequential(model)):
        with pytest.raises(UnsupportedModelError, match="windows of a full grid"):
            tokenreduce.attach(one, "tome")


def test_video_models_are_refused_with_the_reason():
    with torch.device("meta"):
        swin, mvit = models.video.swin3d_t(), models.video.mvit_v2_s()
    with pytest.raises(UnsupportedModelError, match="windows of a full grid"):
        tokenreduce.attach(swin, "tome")
    with pytest.raises(UnsupportedModelError, match="pools neighbouring tokens"):
        tokenreduce.attach(mvit, "tome")


def test_a_convolutional_network_has_no_tokens():
    with torch.device("meta"):
        model = models.resnet18()
    with pytest.raises(UnsupportedModelError, match="no tokens"):
        tokenreduce.attach(model, "tome")


def test_two_towers_and_foreign_parts_are_refused(vit):
    with pytest.raises(UnsupportedModelError, match="2 VisionTransformers"):
        tokenreduce.attach(nn.ModuleList([vit(), vit()]), "tome")
    model = vit()
    block: EncoderBlock = model.encoder.layers[1]
    block.self_attention = nn.Sequential(block.self_attention)
    with pytest.raises(UnsupportedModelError, match="before wrapping"):
        tokenreduce.attach(model, "tome")
