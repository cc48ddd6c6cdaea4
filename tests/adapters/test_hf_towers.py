"""Every vision tower of transformers: zero budget changes nothing, tokens shrink, detach gives back every bit."""

from __future__ import annotations

import pytest
import torch

import tokenreduce
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.clip import Clip
from tokenreduce_models.transformers.dinov2 import Dinov2
from tokenreduce_models.transformers.siglip import Siglip
from tokenreduce_models.transformers.vit import ViT

from ..helpers import assert_same_gradients, enable_checkpointing, gradients

EXAMPLES = {label: make for kind in (Clip, Siglip, ViT, Dinov2, Blip) for label, make in kind().examples().items()}
CLASSLESS = [k for k in EXAMPLES if "Siglip" in k or "MaskedImage" in k or k == "CLIPForImageClassification"]
WHOLE = ["ViTModel", "ViTForMaskedImageModeling", "DeiTModel", "DeiTForMaskedImageModeling", "Dinov2Model"]
WHOLE += ["Dinov2WithRegistersModel", "BlipVisionModel"]
PREFIX = {"Siglip": 0, "DeiT": 2, "Dinov2WithRegisters": 4}  # one class token elsewhere


@pytest.fixture(params=EXAMPLES)
def label(request):
    return request.param


@pytest.fixture
def example(label):
    return EXAMPLES[label]()


def prefix(label):
    return next((count for start, count in PREFIX.items() if label.startswith(start)), 1)


def run(example, **call):
    with torch.no_grad():
        return example.model(**example.inputs, **call)


def vision(output):
    return getattr(output, "vision_model_output", output)


def tower(model):
    """The part that embeds the image."""
    return next(m for m in model.modules() if hasattr(m, "embeddings") and m.main_input_name == "pixel_values")


def test_every_class_of_the_library_has_an_example():
    assert {"CLIPModel", "SiglipModel", "ViTModel", "DeiTForImageClassificationWithTeacher"} <= set(EXAMPLES)
    assert {"Dinov2ForImageClassification", "Dinov2WithRegistersModel", "BlipForQuestionAnswering"} <= set(EXAMPLES)
    assert len(EXAMPLES) == 23


@pytest.mark.parametrize("zero", [("none", {}), ("tome", {"r": 0})], ids=lambda z: z[0])
def test_zero_budget_is_the_identity_on_every_field(label, example, zero, tensors_of, assert_close):
    expected = run(example, output_hidden_states=True)
    name, options = zero
    with tokenreduce.attach(example.model, name, **options) as handle:
        got = run(example, output_hidden_states=True)
        assert all(row.tokens_in == row.tokens_out for row in handle.last.sites)
    assert type(got) is type(expected)
    assert list(got) == list(expected)
    for one, other in zip(tensors_of(got), tensors_of(expected), strict=True):
        assert_close(one, other)


def test_methods_by_class_attention_are_refused_where_no_head_reads_a_class_token(label, example):
    for name in ("evit", "pumer"):
        if label in CLASSLESS:
            with pytest.raises(tokenreduce.errors.UnfitReducerError, match="key-norm"):
                tokenreduce.attach(example.model, name)
        else:
            tokenreduce.attach(example.model, name).detach()


def test_hidden_states_have_the_tokens_of_their_block(label, example):
    total = prefix(label) + 25
    with tokenreduce.attach(example.model, "tome", r=3):
        for _ in range(2):  # the library installs its hooks the first time
            states = vision(run(example, output_hidden_states=True)).hidden_states
            assert [state.shape[1] for state in states] == [total, total - 3, total - 6, total - 9, total - 12]
    plain = vision(run(example, output_hidden_states=True)).hidden_states
    assert len(plain) == 5
    assert torch.equal(states[0], plain[0])


def test_attentions_are_refused(label, example):
    model = example.model
    with tokenreduce.attach(model, "tome", r=3):
        with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="output_attentions"):
            run(example, output_attentions=True)
        tower(model).config._output_attentions = True  # what the setter does, which insists on eager attention
        with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="detach"):
            run(example)
        run(example, output_attentions=False)


@pytest.mark.parametrize("label", [label for label in EXAMPLES if "Blip" not in label])
def test_eager_attention(label, example, tensors_of, assert_close):
    model = example.model
    tower(model).set_attn_implementation("eager")  # the default is sdpa; BLIP's is always eager
    expected = tensors_of(run(example))
    with tokenreduce.attach(model, "none"):
        for one, other in zip(tensors_of(run(example)), expected, strict=True):
            assert_close(one, other)


def loss(model, inputs):
    tensors = [t for t in model(**inputs).values() if isinstance(t, torch.Tensor) and t.requires_grad]
    return sum((t * torch.linspace(-1, 1, t.numel()).view(t.shape)).sum() for t in tensors)


CHECKPOINTED = [(label, "tome", {"r": 3}) for label in EXAMPLES]
CHECKPOINTED += [(label, "random", {"keep": 0.6, "seed": 1}) for label in WHOLE]  # dropped tokens that come back


@pytest.mark.parametrize(("label", "name", "options"), CHECKPOINTED)
def test_gradients_are_the_same_through_checkpoints(label, name, options):
    found = []
    for checkpointing in (False, True):
        example = EXAMPLES[label]()
        model = example.model.train()
        with tokenreduce.attach(model, name, **options) as handle:
            torch.manual_seed(0)
            if checkpointing:
                enable_checkpointing(model)
            found.append(gradients(model, loss(model, example.inputs)))
            assert handle.last.sites[-1].tokens_out < handle.last.sites[0].tokens_in
    plain, again = found
    assert any(("q_proj" in name or "qkv" in name) and grad.abs().max() > 0 for name, grad in plain.items())
    assert all(gradient.isfinite().all() for gradient in plain.values())
    assert_same_gradients(again, plain)
