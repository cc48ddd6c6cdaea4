"""ViTMAE and VideoMAE: what is hidden at random stays hidden, the decoder gets every token that the encoder saw."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

import tokenreduce
from tokenreduce.attachments.resizing import resize_model
from tokenreduce.errors import UnsupportedModelError
from tokenreduce_models.transformers.videomae import VideoMAE
from tokenreduce_models.transformers.vit_mae import ViTMAE


@pytest.fixture(params=[ViTMAE, VideoMAE], ids=["image", "video"])
def pretraining(request):
    examples = request.param().examples()
    return next(make for label, make in examples.items() if "PreTraining" in label)()


def test_the_same_patches_are_hidden(pretraining):
    """Whatever goes, the mask, the order and the shape of the prediction are those of the plain model."""
    model, inputs = pretraining.model, pretraining.inputs
    with torch.no_grad():
        plain = model(**inputs)
        with tokenreduce.attach(model, "tome", r=2) as handle:
            got = model(**inputs)
            assert handle.last.sites[-1].tokens_out < handle.last.sites[0].tokens_in
    assert got.logits.shape == plain.logits.shape
    assert not torch.equal(got.logits, plain.logits)
    assert got.loss.isfinite()
    for name in ("mask", "ids_restore"):
        if name in plain:
            assert torch.equal(got[name], plain[name])


def test_noise_drawn_inside_is_that_of_the_plain_model(assert_close):
    model = ViTMAE().examples()["ViTMAEForPreTraining"]().model
    x = torch.randn(2, 3, 40, 40)

    def run():
        torch.manual_seed(3)
        return model(x)

    with torch.no_grad():
        plain = run()
        with tokenreduce.attach(model, "none"):
            got = run()
    assert torch.equal(got.mask, plain.mask)
    assert_close(got.logits, plain.logits)


def test_every_token_of_the_encoder_comes_back_to_its_place():
    """A dropped token stands where the decoder, by ``ids_restore``, looks for it: what stays is read as before."""
    example = ViTMAE().examples()["ViTMAEModel, half of the patches"]()
    model, inputs = example.model, example.inputs
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state
        with tokenreduce.attach(model, "random", keep=0.5, layers=[3], trace=True) as handle:
            got = model(**inputs).last_hidden_state
            kept = handle.last.trace
    assert got.shape == plain.shape
    for sample, places in enumerate(kept):  # the last block acts on what is left: attention there saw every token
        rows = [place for members in places for place in members]
        assert torch.allclose(got[sample, rows], plain[sample, rows], atol=1e-5)


def test_a_mask_ratio_of_one_leaves_the_class_token(assert_close):
    example = ViTMAE().examples()["ViTMAEModel"]()
    example.model.config.mask_ratio = 1.0
    with torch.no_grad():
        plain = example.model(**example.inputs).last_hidden_state
        with tokenreduce.attach(example.model, "tome", r=2):
            assert_close(example.model(**example.inputs).last_hidden_state, plain)


@pytest.mark.parametrize("size", [(24, 24), (40, 40), (64, 64), (24, 56)])
def test_another_size_is_what_the_library_interpolates(size, assert_close):
    example = ViTMAE().examples()["ViTMAEModel"]()
    inputs = {"pixel_values": torch.randn(2, 3, *size), "noise": torch.rand(2, size[0] // 8 * (size[1] // 8))}
    with torch.no_grad():
        expected = example.model(**inputs, interpolate_pos_encoding=True).last_hidden_state
        resized = resize_model(example.model, *size)
        assert_close(resized(**inputs).last_hidden_state, expected, 1e-6)
        with tokenreduce.attach(resized, "tome", r=1) as handle:
            assert resized(**inputs).last_hidden_state.shape == expected.shape
            assert handle.last.sites[-1].tokens_out == expected.shape[1] - 4


def test_sizes_and_the_decoder():
    config = ViTMAEConfig(**{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32})
    resized = resize_model(ViTMAEModel(config), 48, 48)
    assert resized(torch.randn(1, 3, 48, 48)).last_hidden_state.shape[1] == 1 + int(9 * 0.25)
    with pytest.raises(UnsupportedModelError, match="positions of its own"):
        resize_model(ViTMAEForPreTraining(config), 48, 48)
    with pytest.raises(UnsupportedModelError, match="predicts the pixels"):
        tokenreduce.attach(ViTMAEForPreTraining(config), {"decoder": "tome"})
    with pytest.raises(UnsupportedModelError, match="tubes"):
        resize_model(VideoMAE().examples()["VideoMAEModel"]().model, 48, 48)


def test_what_the_video_classifier_reads():
    """The mean of all tokens, where one counts by its size; or the first tube, which must be at its place."""
    model = VideoMAE().examples()["VideoMAEForVideoClassification"]().model
    assert VideoMAE().stacks(model)["vision"].output == "repeated"
    model.config.use_mean_pooling = False
    assert VideoMAE().stacks(model)["vision"].output == "full"


class MAE(VisionTransformer):
    """As MAE's fine-tuning code subclasses timm: the loop over the blocks and the pooling are its own."""

    def __init__(self, mean, **options):
        super().__init__(**options)
        self.mean = mean
        if mean:
            self.fc_norm = torch.nn.LayerNorm(self.embed_dim)
            del self.norm

    def forward_features(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x[:, 1:].mean(dim=1)) if self.mean else self.norm(x)[:, 0]

    def forward(self, x):
        return self.head(self.forward_features(x))


@pytest.mark.parametrize("mean", [False, True])
@torch.no_grad()
def test_maes_own_subclass_of_timm(mean, assert_close):
    torch.manual_seed(0)
    model = MAE(mean, img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    plain = model(x)
    with tokenreduce.attach(model, "none"):
        assert_close(model(x), plain)
    with tokenreduce.attach(model, "tome", r=3) as handle:
        reduced = model(x)
        assert next(iter(handle.stacks.values())).output == "full" and handle.last.tokens["image"] == 17 - 12
        with tokenreduce.attach(model, "tome", r=3, restore=True, replace=True):
            assert_close(model(x), reduced)
    assert torch.equal(model(x), plain)
