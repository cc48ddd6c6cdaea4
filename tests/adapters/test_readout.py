"""``readout_only=True``: the last block computes what the head reads; what the head reads is the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import tokenreduce
from tests.helpers import assert_same_gradients, gradients
from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError, UnsupportedModelError
from tokenreduce.registry import default_registry
from tokenreduce.testing.models import quietly, run
from tokenreduce_methods.dynamicvit.method import DynamicViT

SUPPORTED = [
    ("timm-vit", "VisionTransformer, class and register tokens"),
    ("timm-vit", "VisionTransformer, post-norm blocks"),
    ("timm-eva", "Eva, DINOv3"),
    ("torchvision-vit", "VisionTransformer"),
    ("open-clip", "CLIP-custom-block"),
    ("open-clip", "CustomTextCLIP-timm"),
    ("hf-vit", "ViTForImageClassification"),
    ("hf-vit", "DeiTForImageClassificationWithTeacher"),
    ("hf-vilt", "ViltForQuestionAnswering"),
    ("hf-vilt", "ViltForImagesAndTextClassification"),
]
METHODS = {"none": {}, "tome": {"r": 3}, "evit": {"keep": 0.6}, "smarttrim": {}}


class Late(DynamicViT):
    """Learns what to remove after attention."""

    position = "after_attention"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("adapter", "label"), SUPPORTED)
def test_the_head_reads_the_same(adapter, label, method, assert_close):
    example = quietly(default_registry().load("adapter", adapter)().examples()[label])
    model, given = example.model.eval(), {"adapter": adapter, **METHODS[method]}
    with torch.no_grad():
        with tokenreduce.attach(model, method, **given):
            expected = run(model, example.inputs)
        with tokenreduce.attach(model, method, **given, readout_only=True) as handle:
            got = run(model, example.inputs)
            assert "readout_only" in handle.notes[-1] and handle.notes[-1] in str(handle)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 2e-6)


def test_padding_and_text(tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt(), vilt_inputs(3, lengths=[7, 4, 5])
    with torch.no_grad():
        with tokenreduce.attach(model, "pumer", layers=[1, 3]):
            expected = model(**inputs).logits
        with tokenreduce.attach(model, "pumer", layers=[1, 3], readout_only=True):
            assert_close(model(**inputs).logits, expected, 2e-6)


@pytest.mark.parametrize("method", ["none", "tome", "dynamicvit"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(method, checkpointing, tiny_vit, images):
    model, x = tiny_vit().train(), images()
    model.set_grad_checkpointing(checkpointing)
    found = []
    for alone in (False, True):
        torch.manual_seed(0)  # of a learnable method's weights, and of its gates
        with tokenreduce.attach(model, method, readout_only=alone):
            torch.manual_seed(1)
            found.append(gradients(model, model(x).square().sum()))
    assert_same_gradients(found[1], found[0])


@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast"])
def test_half_precision(how, tiny_vit, images, assert_close):
    model, x = tiny_vit(), images()
    if how != "autocast":
        model, x = model.to(getattr(torch, how)), x.to(getattr(torch, how))
    got = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        for alone in (False, True):
            with tokenreduce.attach(model, "tome", r=3, readout_only=alone):
                got.append(model(x))
    assert got[0].dtype == got[1].dtype
    assert_close(got[1].float(), got[0].float(), 2e-3 if how == "float16" else 2e-2)


def test_compiled(tiny_vit, images, assert_close):
    model, x = tiny_vit(depth=2), images()
    torch._dynamo.reset()
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=3, readout_only=True):
        expected = model(x)
        assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), expected)
    torch._dynamo.reset()


def test_multiply_adds(tiny_vit, images):
    """The record counts what torch's counter counts; the site that nobody reads takes nothing away."""
    model, x, found = tiny_vit(), images(), []
    for alone in (False, True):
        with torch.no_grad(), tokenreduce.attach(model, "random", keep=0.6, readout_only=alone) as handle:
            counted = tokenreduce.count_macs(model, {"x": x}, samples=2)
            found.append((counted, handle.last.macs[1], handle.last))
    saved = found[0][0] - found[1][0]
    assert saved == found[0][1] - found[1][1] > 0
    assert found[0][2].macs[0] == found[1][2].macs[0]
    last = found[1][2].sites[-1]
    assert last.tokens_out == last.tokens_in == found[0][2].sites[-1].tokens_in > found[0][2].sites[-1].tokens_out


def test_what_is_computed(tiny_vit, images, assert_close):
    """A part that is called by itself gives the rows that there are; a pause all of them; detach everything back."""
    model, x = tiny_vit(), images()
    with torch.no_grad():
        whole, logits = model.forward_features(x), model(x)
        untouched = {name: value.clone() for name, value in model.state_dict().items()}
        handle = tokenreduce.attach(model, "none", readout_only=True)
        assert_close(model.forward_features(x), whole[:, :1], 2e-6)
        with handle.paused():
            assert_close(model.forward_features(x), whole, 2e-6)
        twin = copy.deepcopy(model)
        assert_close(twin(x), logits, 2e-6)
        handle.detach()
        assert torch.equal(model.forward_features(x), whole) and torch.equal(model(x), logits)
        assert twin.forward_features(x).shape[1] == 1
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())


def test_an_exchanged_part_acts(tiny_vit, images, assert_close):
    model, x = tiny_vit(), images()
    with torch.no_grad(), tokenreduce.attach(model, "none", readout_only=True) as handle:
        before = model(x)
        model.blocks[-1].mlp.fc1 = nn.Linear(32, 128)
        got = model(x)
        handle.detach()
        assert_close(got, model(x), 2e-6)
        assert (got - before).abs().max() > 1e-3


def test_saved(tiny_vit, images, tmp_path):
    model, x = tiny_vit(), images()
    with torch.no_grad():
        with tokenreduce.attach(model, "tome", r=3, readout_only=True) as handle:
            expected, config = model(x), handle.config
            handle.save(tmp_path)
        assert config["readout_only"] is True
        with tokenreduce.load(model, tmp_path) as handle:
            assert handle.config == config
            assert torch.equal(model(x), expected) and model.forward_features(x).shape[1] == 1
        with tokenreduce.attach(model, **config):
            assert torch.equal(model(x), expected)
        with tokenreduce.attach(model, "tome", r=3) as handle:
            assert "readout_only" not in handle.config


def vit(kind=ViTForImageClassification):
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return kind(ViTConfig(**config, image_size=32, patch_size=8)).eval()


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        ({"global_pool": "avg"}, {}, UnsupportedModelError, "reads every token"),
        ({"global_pool": ""}, {}, UnsupportedModelError, "global_pool='token'"),
        ({}, {"restore": True}, OptionError, "restore=True"),
        ({}, {"restore": False}, OptionError, "restore=False"),
        ({}, {"trace": True}, OptionError, "trace=True"),
        ({}, {"readout_only": 1}, OptionError, "True or False"),
        ({}, {"reducer": "evit", "layers": [3]}, UnfitReducerError, "name earlier layers"),
        ({}, {"reducer": Late(), "layers": [1, 3]}, UnfitReducerError, "name layers= without 3"),
    ],
    ids=str,
)
def test_refused_at_attach(make, options, error, words, tiny_vit, snapshot):
    model = tiny_vit(**make)
    untouched = snapshot(model)
    with pytest.raises(error, match=words):
        tokenreduce.attach(model, **{"reducer": "none", "readout_only": True, **options})
    assert snapshot(model) == untouched


def test_what_gives_tokens_back_is_refused(tiny_vilt):
    for model in (vit(ViTModel), tiny_vilt("ViltForMaskedLM"), tiny_vilt("ViltModel")):
        with pytest.raises(UnsupportedModelError, match="leave readout_only out"):
            tokenreduce.attach(model, "none", readout_only=True)


HOOKED = {
    "block": lambda model: model.blocks[-1].register_forward_hook(lambda *_: None),
    "part": lambda model: model.blocks[-1].mlp.fc2.register_forward_pre_hook(lambda *_: None),
    "gradient": lambda model: model.blocks[-1].register_full_backward_hook(lambda *_: None),
    "norm": lambda model: model.norm.register_forward_hook(lambda *_: None),
    "blocks": lambda model: model.blocks.register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("where", HOOKED)
def test_a_hook_that_would_see_fewer_rows(where, tiny_vit, images):
    model, x = tiny_vit(), images()
    with tokenreduce.attach(model, "none", readout_only=True) as handle:
        hook = HOOKED[where](model)
        with pytest.raises(UnsupportedCallError, match="without readout_only=True"):
            model(x)
        with handle.paused():
            model(x)
        hook.remove()
        model(x)
        model.blocks[-1].register_forward_pre_hook(lambda *_: None)  # it is given every token
        model.blocks[-2].register_forward_hook(lambda *_: None)
        model.head.register_forward_hook(lambda *_: None)
        model(x)


def test_another_pooling(tiny_vit, images):
    model, x = tiny_vit(), images()
    with tokenreduce.attach(model, "none", readout_only=True):
        model.global_pool = "avg"
        with pytest.raises(UnsupportedCallError, match="was changed after attach"):
            model(x)


def test_hidden_states(tiny_vilt, vilt_inputs, images):
    model, x = vit(), images()
    with torch.no_grad(), tokenreduce.attach(model, "none", readout_only=True):
        expected = model(x).logits
        with pytest.raises(UnsupportedCallError, match="output_hidden_states=True"):
            model(x, output_hidden_states=True)
        model.config.output_hidden_states = True
        with pytest.raises(UnsupportedCallError, match="output_hidden_states=True"):
            model(x)
        model.config.output_hidden_states = False
        assert torch.equal(model(x).logits, expected)
    other, inputs = tiny_vilt(), vilt_inputs(2, lengths=[5, 4])
    tokenreduce.attach(other, "none", readout_only=True)
    with pytest.raises(UnsupportedCallError, match="output_hidden_states=True"):
        other(**inputs, output_hidden_states=True)
