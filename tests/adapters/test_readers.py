"""attach knows whether every later call can work: by who reads the tokens, and where."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import tokenreduce
from tokenreduce.errors import OptionError, TokenReduceError, UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.transformers.tiny import VISION, pixels


def test_feature_maps_of_timm_are_refused():
    model = timm.create_model("vit_tiny_patch16_224", depth=4, img_size=32, features_only=True, out_indices=(1, 3))
    with pytest.raises(UnsupportedModelError, match="features_only"):
        tokenreduce.attach(model, "tome", r=1)


class Looping(VisionTransformer):
    """As the classifiers of MAE: a loop over the blocks."""

    def forward_features(self, x, **kwargs):
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Between(Looping):
    """Reads the tokens between blocks."""

    def forward_features(self, x, **kwargs):
        x, seen = self._pos_embed(self.patch_embed(x)), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in (1, 3):
                seen.append(x)
        return self.norm(sum(seen))


class Indexed(Looping):
    def forward_features(self, x, **kwargs):
        x = self._pos_embed(self.patch_embed(x))
        for index in range(len(self.blocks)):
            x = self.blocks[index](x)
        return self.norm(x)


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize(("reducer", "options"), [("none", {}), ("tome", {"r": 3}), ("evit", {"keep": 0.5})])
def test_a_loop_over_the_blocks_runs_them_as_one(pool, reducer, options, tiny_vit, images, assert_close):
    model, plain = tiny_vit(Looping, global_pool=pool), tiny_vit(global_pool=pool)
    with torch.no_grad():
        with tokenreduce.attach(plain, reducer, restore=True, **options):
            expected = plain(images())
        with tokenreduce.attach(model, reducer, **options) as handle:
            assert_close(model(images()), expected)
            assert len(handle.last.sites) == len(handle.sites)
            with pytest.raises(UnsupportedCallError):
                model.forward_intermediates(images())
        assert_close(model(images()), tiny_vit(global_pool=pool)(images()))


def test_a_loop_trains_as_the_plain_model_does(tiny_vit, images, assert_close):
    model = tiny_vit(Looping).train()
    model(images()).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    for checkpointing in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(checkpointing)
        with tokenreduce.attach(model, "none"):
            model(images()).sum().backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            assert_close(parameter.grad, gradient, 1e-4)


@pytest.mark.parametrize("kind", [Between, Indexed])
def test_a_loop_that_reads_between_the_blocks_is_refused(kind, tiny_vit, snapshot):
    model = tiny_vit(kind)
    untouched = snapshot(model)
    with pytest.raises(UnsupportedModelError, match="between its blocks"):
        tokenreduce.attach(model, "tome", r=1)
    assert snapshot(model) == untouched


class ReadsBetween(nn.Module):
    """A model of yours whose config says which hidden state of its tower it reads, as language models' do."""

    def __init__(self, layer):
        super().__init__()
        self.config = transformers.PretrainedConfig(vision_feature_layer=layer)
        self.tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))


@pytest.mark.parametrize("layer", [-2, [1, 2]])
def test_a_model_that_reads_hidden_states_of_its_tower_is_refused(layer):
    with pytest.raises(UnsupportedModelError, match="vision_feature_layer"):
        tokenreduce.attach(ReadsBetween(layer).eval(), "tome", r=2, restore=True)


def test_a_model_of_yours_that_asks_for_hidden_states(tensors_of):
    class Around(nn.Module):
        def __init__(self, tower, asks):
            super().__init__()
            self.tower, self.asks = tower, asks

        def forward(self, pixel_values):
            output = self.tower(pixel_values, output_hidden_states=self.asks)
            return output.hidden_states[2] if self.asks else output.last_hidden_state

    tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).eval()
    with torch.no_grad():
        for asks in (False, True):
            model = Around(tower, asks)
            expected = model(pixels()).shape
            with tokenreduce.attach(model, "tome", r=2):
                if asks:
                    with pytest.raises(UnsupportedCallError, match="output_hidden_states"):
                        model(pixels())
                else:
                    assert model(pixels()).shape == expected
        with tokenreduce.attach(nn.Sequential(tower), "tome", r=2):
            assert len(tower(pixels(), output_hidden_states=True).hidden_states) == 5


def test_timm_models_in_transformers_give_every_token():
    config = transformers.TimmWrapperConfig.from_dict(
        {
            "architecture": "vit_tiny_patch16_224",
            "num_classes": 5,
            "model_args": {"depth": 2, "img_size": 64},
            "pretrained_cfg": {"input_size": [3, 64, 64]},
        }
    )
    model = transformers.TimmWrapperModel(config).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x).last_hidden_state.shape
        with tokenreduce.attach(model, "tome", r=4) as handle:
            assert model(x).last_hidden_state.shape == expected
            assert handle.last.tokens == {"image": 9}
            with pytest.raises(TokenReduceError):
                model(x, output_hidden_states=True)


@pytest.mark.parametrize("kind", ["ViT", "Eva"])
def test_a_trace_under_patch_dropout_is_refused(kind, tiny_vit, images):
    """It would number the tokens that are left, not the patches."""
    from timm.models.eva import Eva

    model = tiny_vit({"ViT": VisionTransformer, "Eva": Eva}[kind], patch_drop_rate=0.5)
    with torch.no_grad():
        with tokenreduce.attach(model.train(), "tome", r=1, trace=True) as handle:
            with pytest.raises(UnsupportedCallError, match=r"patch dropout .* attach without trace=True"):
                model(images())
            model.eval()(images())
            assert handle.last.trace.source.shape[1] == 17
        with tokenreduce.attach(model.train(), "tome", r=1) as handle:
            model(images())
            assert handle.last.tokens == {"image": 9 - 4}


def test_a_head_that_needs_every_token_refuses_to_leave_them_out():
    from tokenreduce_models.transformers.siglip2 import Siglip2
    from tokenreduce_models.transformers.videomae import VideoMAE
    from tokenreduce_models.transformers.vit import ViT
    from tokenreduce_models.transformers.vit_mae import ViTMAE

    labels = {
        Siglip2: ["Siglip2ForImageClassification"],
        ViT: ["ViTForMaskedImageModeling", "DeiTForMaskedImageModeling"],
        ViTMAE: ["ViTMAEForPreTraining"],
        VideoMAE: ["VideoMAEForPreTraining"],
    }
    for adapter, names in labels.items():
        for name in names:
            model = adapter().examples()[name]().model
            with pytest.raises(OptionError, match=f"restore=False: {name} needs every token"):
                tokenreduce.attach(model, "tome", r=1, restore=False)
