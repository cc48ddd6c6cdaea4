"""Vision towers of transformers: calls and models that are refused, keywords that go on working, torch.compile."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch._dynamo.utils import counters
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPEncoderLayer

import tokenreduce
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.clip import Clip
from tokenreduce_models.transformers.dinov2 import Dinov2
from tokenreduce_models.transformers.siglip import Siglip
from tokenreduce_models.transformers.vit import ViT

pytestmark = pytest.mark.usefixtures("no_grad")

EXAMPLES = {label: make for kind in (Clip, Siglip, ViT, Dinov2, Blip) for label, make in kind().examples().items()}
UNDER = ["CLIPVisionModel", "SiglipVisionModel", "ViTModel", "DeiTModel", "Dinov2Model", "BlipVisionModel"]


@pytest.mark.parametrize("label", UNDER)
@pytest.mark.parametrize("mask", ["attention_mask", "head_mask"])
def test_masks_are_refused(label, mask):
    example = EXAMPLES[label]()
    given = torch.ones(2, 25 + (label != "SiglipVisionModel") + (label == "DeiTModel"))
    given[:, 3] = 0
    with tokenreduce.attach(example.model, "none"), pytest.raises(tokenreduce.errors.UnsupportedCallError, match=mask):
        example.model(**example.inputs, **{mask: given})


@pytest.mark.parametrize("label", ["ViTForImageClassification", "Dinov2ForImageClassification"])
def test_a_mask_of_ones_is_the_same_as_none(label, assert_close):
    example = EXAMPLES[label]()
    with tokenreduce.attach(example.model, "none"):
        got = example.model(**example.inputs, attention_mask=torch.ones(2, 26))
    assert_close(got.logits, example.model(**example.inputs).logits)


@pytest.mark.parametrize("label", UNDER)
def test_images_of_another_size(label, assert_close):
    example = EXAMPLES[label]()
    call = {} if label == "Dinov2Model" else {"interpolate_pos_encoding": True}  # DINOv2 always does
    inputs = {"pixel_values": torch.randn(2, 3, 48, 32), **call}
    expected = example.model(**inputs).last_hidden_state
    with tokenreduce.attach(example.model, "none"):
        assert_close(example.model(**inputs).last_hidden_state, expected)
    with tokenreduce.attach(example.model, "tome", r=3, restore=True) as handle:
        assert example.model(**inputs).last_hidden_state.shape == expected.shape
        assert handle.last.sites[0].tokens_in == expected.shape[1]


@pytest.mark.parametrize("label", ["Dinov2WithRegistersModel", "ViTForMaskedImageModeling"])
def test_masked_positions(label, assert_close, tensors_of):
    example = EXAMPLES[label]()
    inputs = {**example.inputs, "bool_masked_pos": torch.arange(25).expand(2, -1) % 2 == 0}
    expected = tensors_of(example.model(**inputs))
    with tokenreduce.attach(example.model, "none"):
        for one, other in zip(tensors_of(example.model(**inputs)), expected, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("label", EXAMPLES)
def test_tuples_and_labels(label, tensors_of):
    example = EXAMPLES[label]()
    labels = {"labels": torch.tensor([1, 3])} if label.endswith("ImageClassification") else {}
    with tokenreduce.attach(example.model, "tome", r=3):
        whole = example.model(**example.inputs, **labels)
        parts = example.model(**example.inputs, **labels, return_dict=False)
    assert isinstance(parts, tuple)
    assert not labels or whole.loss.isfinite()
    for one, other in zip(tensors_of(parts), tensors_of(whole.to_tuple()), strict=True):
        assert torch.equal(one, other)


def test_text_towers_are_refused_with_the_reason():
    for label, word in {"CLIPModel": "causally", "SiglipModel": "last position", "BlipModel": "sees no image"}.items():
        with pytest.raises(tokenreduce.errors.UnsupportedModelError, match=word):
            tokenreduce.attach(EXAMPLES[label]().model, {"text": "tome"})
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="causally"):
        tokenreduce.attach(EXAMPLES["CLIPModel"]().model.text_model, "tome")
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="last position"):
        tokenreduce.attach(EXAMPLES["SiglipModel"]().model.text_model, "tome")
    model = EXAMPLES["CLIPModel"]().model
    with tokenreduce.attach(model, {"vision": {"reducer": "tome", "r": 2}}) as handle:
        assert {site.stack for site in handle.sites} == {"vision"}


def test_backbones_are_refused():
    config = EXAMPLES["Dinov2Model"]().model.config
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="feature maps"):
        tokenreduce.attach(transformers.Dinov2Backbone(config), "tome")


class OtherEncoder(CLIPEncoder):
    def forward(self, inputs_embeds, **kwargs):
        return super().forward(inputs_embeds.flip(1), **kwargs)


class OtherLayer(CLIPEncoderLayer):
    def forward(self, hidden_states, attention_mask, **kwargs):
        return 2 * super().forward(hidden_states, attention_mask, **kwargs)


class OtherViT(transformers.ViTModel):
    def forward(self, pixel_values=None, **kwargs):
        return super().forward(pixel_values.flip(-1), **kwargs)


class OtherClassifier(transformers.CLIPForImageClassification):
    def forward(self, pixel_values=None, **kwargs):
        return self.vision_model(pixel_values).last_hidden_state


def test_subclasses_that_do_something_else_are_refused():
    clip = EXAMPLES["CLIPVisionModel"]().model
    clip.encoder.layers[2].__class__ = OtherLayer
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="OtherLayer 2"):
        tokenreduce.attach(clip, "tome")
    clip.encoder.layers[2].__class__ = CLIPEncoderLayer
    clip.encoder.__class__ = OtherEncoder
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="its own forward"):
        tokenreduce.attach(clip, "tome")
    vit = EXAMPLES["ViTModel"]().model
    vit.__class__ = OtherViT
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="its own forward"):
        tokenreduce.attach(vit, "tome")


def test_a_head_that_was_overridden_gets_every_token():
    example = EXAMPLES["CLIPForImageClassification"]()
    example.model.__class__ = OtherClassifier
    with tokenreduce.attach(example.model, "random", keep=0.5):
        assert example.model(**example.inputs).shape == (2, 26, 32)


def test_a_model_set_to_a_kernel_that_only_runs_on_a_gpu(assert_close):
    example = EXAMPLES["CLIPVisionModel"]()
    expected = example.model(**example.inputs).pooler_output
    example.model.config._attn_implementation_internal = "flash_attention_2"
    with tokenreduce.attach(example.model, "none"):
        assert_close(example.model(**example.inputs).pooler_output, expected)
    assert example.model.config._attn_implementation == "flash_attention_2"


def test_captions_are_generated():
    example = EXAMPLES["BlipForConditionalGeneration"]()
    call = {"pixel_values": example.inputs["pixel_values"], "max_new_tokens": 3, "do_sample": False}
    expected = example.model.generate(**call)
    with tokenreduce.attach(example.model, "none"):
        assert torch.equal(example.model.generate(**call), expected)
    for restore in (None, False):
        with tokenreduce.attach(example.model, "tome", r=4, restore=restore) as handle:
            assert len(example.model.generate(**call)) == 2
            assert handle.last.sites[-1].tokens_out == 10


@pytest.mark.parametrize("training", [False, True])
def test_dropout_and_drop_path_draw_the_same_numbers(training, assert_close):
    for label in ("ViTForImageClassification", "Dinov2ForImageClassification"):
        model, inputs = EXAMPLES[label]().model, EXAMPLES[label]().inputs
        options = {"hidden_dropout_prob": 0.3} | ({"drop_path_rate": 0.4} if "Dino" in label else {})
        model = type(model)(type(model.config)(**model.config.to_dict() | options)).train(training)

        def logits(model=model, inputs=inputs):
            torch.manual_seed(11)
            return model(**inputs).logits

        expected = logits()
        with tokenreduce.attach(model, "none"):
            assert_close(logits(), expected)


COMPILED = [("CLIPVisionModel", "tome"), ("ViTForImageClassification", "evit")]
RARER = [
    ("Dinov2Model", "random"),
    ("ViTModel", "pumer"),
    ("SiglipVisionModel", "tome"),
    ("BlipVisionModel", "tome"),
    ("DeiTModel", "tome"),
]
COMPILED += [pytest.param(*case, marks=pytest.mark.sweep) for case in RARER]


@pytest.mark.parametrize(("label", "name"), COMPILED)
def test_one_graph(label, name, assert_close, tensors_of):
    torch._dynamo.reset()
    counters.clear()
    example = EXAMPLES[label]()
    layers = next(m for m in example.model.modules() if isinstance(m, torch.nn.ModuleList))
    del layers[2:]
    with tokenreduce.attach(example.model, name, layers=[0, 1]) as handle:
        expected, rows = tensors_of(example.model(**example.inputs)), handle.last.sites
        compiled = torch.compile(example.model, fullgraph=True, backend="eager")
        for one, other in zip(tensors_of(compiled(**example.inputs)), expected, strict=True):
            assert_close(one, other)
        assert counters["stats"]["unique_graphs"] == 1
        assert handle.last.sites == rows
    torch._dynamo.reset()
