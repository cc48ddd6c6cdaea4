"""Vision towers of transformers: what each head reads, checked by hand, and models of users."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import tokenreduce
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.clip import Clip
from tokenreduce_models.transformers.dinov2 import Dinov2
from tokenreduce_models.transformers.siglip import Siglip
from tokenreduce_models.transformers.vit import ViT

pytestmark = pytest.mark.usefixtures("no_grad")

ADAPTERS = {"CLIP": Clip, "Siglip": Siglip, "ViT": ViT, "DeiT": ViT, "Dinov2": Dinov2, "Blip": Blip}
MERGERS = {"tome": {"r": 3}, "evit": {"keep": 0.6, "saliency": "key-norm"}, "pumer": {"saliency": "key-norm"}}


def adapter(label):
    return next(kind() for start, kind in ADAPTERS.items() if label.startswith(start))


def example(label):
    made = adapter(label).examples()[label]()
    return made.model, made.inputs


def last_tokens(model, inputs, name, **options):
    """Tokens after the last block (B, K, C), and how many input tokens each stands for (B, K)."""
    with tokenreduce.attach(model, name, trace=True, restore=False, **options) as handle:
        return model(**inputs, output_hidden_states=True).hidden_states[-1], handle.last.trace.size


@pytest.mark.parametrize("label", ["CLIPForImageClassification", "SiglipForImageClassification"])
def test_a_mean_over_patches_weighs_merged_tokens_by_their_size(label, assert_close):
    model, inputs = example(label)
    x, size = last_tokens(model, inputs, "tome", r=3)
    assert size.max() > 1
    if label.startswith("CLIP"):
        x, size = x[:, 1:], size[:, 1:]
    else:
        x = model.vision_model.post_layernorm(x)
    mean = (x * size.unsqueeze(-1)).sum(dim=1) / size.sum(dim=1, keepdim=True)
    with tokenreduce.attach(model, "tome", r=3):
        assert_close(model(**inputs).logits, model.classifier(mean))


@pytest.mark.parametrize("label", ["Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"])
def test_dinov2_reads_the_class_token_and_the_weighted_mean_of_the_patches(label, assert_close):
    model, inputs = example(label)
    tower = getattr(model, model.base_model_prefix)
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    x, size = last_tokens(model, inputs, "tome", r=3)
    x, weight = tower.layernorm(x), size[:, first:, None]
    mean = (x[:, first:] * weight).sum(dim=1) / weight.sum(dim=1)
    with tokenreduce.attach(model, "tome", r=3):
        assert_close(model(**inputs).logits, model.classifier(torch.cat([x[:, 0], mean], dim=1)))


def test_attention_pooling_sees_a_merged_token_as_often_as_it_has_members(assert_close):
    model, inputs = example("SiglipVisionModel")
    x, size = last_tokens(model, inputs, "tome", r=3)
    x, head = model.post_layernorm(x), model.head
    bias = size.log()[:, None].repeat_interleave(head.attention.num_heads, dim=0)
    pooled = head.attention(head.probe.repeat(len(x), 1, 1), x, x, attn_mask=bias)[0]
    pooled = (pooled + head.mlp(head.layernorm(pooled)))[:, 0]
    with tokenreduce.attach(model, "tome", r=3):
        assert_close(model(**inputs).pooler_output, pooled)


@pytest.mark.parametrize("label", ["CLIPForImageClassification", "SiglipForImageClassification"])
def test_dropped_tokens_do_not_count_in_a_mean(label, assert_close):
    model, inputs = example(label)
    x, size = last_tokens(model, inputs, "random", keep=0.6, seed=1)
    assert size.max() == 1
    x = x[:, 1:] if label.startswith("CLIP") else model.vision_model.post_layernorm(x)
    with tokenreduce.attach(model, "random", keep=0.6, seed=1):
        assert_close(model(**inputs).logits, model.classifier(x.mean(dim=1)))


def test_one_site_of_tome_in_clip_by_hand(assert_close):
    model, inputs = example("CLIPVisionModel")
    r, block = 4, model.encoder.layers[0]
    x = model.pre_layrnorm(model.embeddings(inputs["pixel_values"]))
    normed = block.layer_norm1(x)
    keys = block.self_attn.k_proj(normed).unflatten(-1, (2, 16)).mean(dim=2)
    x = x + block.self_attn(normed)[0]
    rows = []
    for tokens, key in zip(x, nn.functional.normalize(keys, dim=-1), strict=True):
        pairs = []  # each even token but the class token proposes the odd one that it resembles most
        for i in range(2, len(tokens), 2):
            best = max(range(1, len(tokens), 2), key=lambda j: float(key[i] @ key[j]))
            pairs.append((float(key[i] @ key[best]), i, best))
        merged = {i: j for _, i, j in sorted(pairs, reverse=True)[:r]}
        groups = [[j] + [i for i in merged if merged[i] == j] for j in range(len(tokens)) if j not in merged]
        rows.append(torch.stack([tokens[group].mean(dim=0) for group in groups]))
    expected = torch.stack(rows)
    expected = expected + block.mlp(block.layer_norm2(expected))
    with tokenreduce.attach(model, "tome", r=r, layers=[0]) as handle:
        got = model(**inputs, output_hidden_states=True).hidden_states[1]
        assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == [(26, 22)]
    line = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def in_order(tokens):  # the order of the tokens is the engine's own affair
        return tokens.gather(1, (tokens @ line).argsort(dim=1).unsqueeze(-1).expand_as(tokens))

    assert_close(in_order(got), in_order(expected))


@pytest.mark.parametrize("name", MERGERS)
def test_masked_image_modeling_gets_its_grid(name):
    for label in ("ViTForMaskedImageModeling", "DeiTForMaskedImageModeling"):
        model, inputs = example(label)
        mask = torch.arange(25).expand(2, -1) % 3 == 0
        plain = model(**inputs, bool_masked_pos=mask)
        with tokenreduce.attach(model, "none"):
            assert torch.allclose(model(**inputs, bool_masked_pos=mask).loss, plain.loss, atol=1e-5)
        with tokenreduce.attach(model, name, **MERGERS[name]):
            got = model(**inputs, bool_masked_pos=mask)
        assert got.reconstruction.shape == plain.reconstruction.shape
        assert got.loss.isfinite()


@pytest.mark.parametrize(
    ("label", "project"),
    [
        ("CLIPModel", lambda model, output: output.image_embeds),
        ("CLIPVisionModelWithProjection", lambda model, output: output.image_embeds),
        ("BlipModel", lambda model, output: output.image_embeds),
        ("BlipForImageTextRetrieval", lambda model, output: model.vision_proj(output.last_hidden_state[:, 0])),
    ],
)
def test_shared_space_of_the_class_token_is_the_image_embedding(label, project, assert_close):
    model, inputs = example(label)
    stack = adapter(label).stacks(model)["vision"]
    output = model(**inputs, output_hidden_states=True)
    hidden = getattr(output, "vision_model_output", output).hidden_states[-1]
    assert stack.guidable
    expected, got = project(model, output), stack.shared_space(hidden)
    assert got.shape == (2, 26, 16)
    normalize = nn.functional.normalize
    assert_close(normalize(got[:, 0], dim=-1), normalize(expected, dim=-1))


def test_shared_space_of_siglip_is_what_its_head_makes_of_an_image_of_one_patch(assert_close):
    model, inputs = example("SiglipVisionModel")
    stack = Siglip().stacks(model)["vision"]
    patch = {"pixel_values": inputs["pixel_values"][:, :, :8, :8], "interpolate_pos_encoding": True}
    output = model(**patch, output_hidden_states=True)
    assert stack.guidable
    assert_close(stack.shared_space(output.hidden_states[-1])[:, 0], output.pooler_output)
    full = stack.shared_space(model(**inputs, output_hidden_states=True).hidden_states[-1])
    assert full.shape == (2, 25, 32)


@pytest.mark.parametrize("label", ["CLIPVisionModel", "CLIPForImageClassification", "ViTModel", "BlipVisionModel"])
def test_towers_without_a_projection_share_no_space(label):
    stack = adapter(label).stacks(example(label)[0])["vision"]
    assert not stack.guidable
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="text features"):
        stack.shared_space(torch.randn(1, 3, 32))


def test_siglip_without_its_pooling_head_gives_every_token():
    model, inputs = example("SiglipVisionModel")
    model.config.vision_use_head = False
    model = transformers.SiglipVisionModel(model.config).eval()
    with tokenreduce.attach(model, "random", keep=0.5):
        output = model(**inputs)
    assert output.pooler_output is None
    assert output.last_hidden_state.shape == (2, 25, 32)


class Own(nn.Module):
    """A user's own head, which reads the patches of the last state in a grid."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.line = tower, nn.Linear(32, 3)

    def forward(self, pixel_values):
        tokens = self.tower(pixel_values).last_hidden_state[:, -25:]
        return self.line(tokens).unflatten(1, (5, 5))


@pytest.mark.parametrize(
    "label", ["CLIPVisionModel", "SiglipVisionModel", "ViTModel", "Dinov2Model", "BlipVisionModel"]
)
def test_a_tower_under_a_users_own_head_gives_every_token(label, assert_close):
    tower, inputs = example(label)
    model = Own(tower).eval()
    expected = model(**inputs)
    with tokenreduce.attach(model, "none"):
        assert_close(model(**inputs), expected)
    with tokenreduce.attach(model, "random", keep=0.6) as handle:
        assert model(**inputs).shape == (2, 5, 5, 3)
        assert handle.last.sites[-1].tokens_out < 25
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="2 towers"):
        tokenreduce.attach(nn.ModuleList([tower, example(label)[0]]), "tome")


def test_a_dual_encoder_of_the_library_around_two_models(assert_close):
    vision, inputs = example("ViTModel")
    text = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = transformers.VisionTextDualEncoderModel(
        vision_model=vision, text_model=transformers.BertModel(text).eval()
    ).eval()
    inputs["input_ids"] = torch.randint(0, 99, (2, 5))
    expected = model(**inputs)
    with tokenreduce.attach(model, "none"):
        assert_close(model(**inputs).logits_per_image, expected.logits_per_image)
    with tokenreduce.attach(model, "evit") as handle:
        assert model(**inputs).vision_model_output.last_hidden_state.shape == (2, 26, 32)
        assert handle.last.sites[-1].tokens_out < 26
