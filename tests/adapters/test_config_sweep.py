"""Small configurations of every family of transformers and of METER: zero budget is the identity, detach exact."""

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce_models.transformers.tiny import LABELS, TEXT, VISION, pixels, tiny, words

SHAPES = {
    "plain": {},
    "one head": {"num_attention_heads": 1},
    "eight heads": {"num_attention_heads": 8},
    "two layers": {"num_hidden_layers": 2},
    "nine layers": {"num_hidden_layers": 9},
    "wide": {"hidden_size": 64, "num_attention_heads": 4},
    "four patches": {"image_size": 16},
    "hundred patches": {"image_size": 80},
    "coarse patches": {"image_size": 48, "patch_size": 16},
}
ACTIVATIONS = {act: {"hidden_act": act} for act in ("gelu", "quick_gelu", "gelu_new", "relu")}
DROPOUT = {"attention dropout": {"attention_dropout": 0.2}}
VIT = {
    "no qkv bias": {"qkv_bias": False},
    "dropout": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "another eps": {"layer_norm_eps": 1e-3},
}
DINO = {
    "no qkv bias": {"qkv_bias": False},
    "swiglu": {"use_swiglu_ffn": True},
    "drop path": {"drop_path_rate": 0.3},
    "layer scale": {"layerscale_value": 1e-5},
    "mlp ratio": {"mlp_ratio": 3},
}
FAMILIES = {
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**SHAPES, **ACTIVATIONS, **DROPOUT}),
    "CLIPVisionModel": ("CLIPVisionConfig", SHAPES),
    "SiglipVisionModel": ("SiglipVisionConfig", {**SHAPES, **ACTIVATIONS, **DROPOUT}),
    "ViTForImageClassification": ("ViTConfig", {**SHAPES, **ACTIVATIONS, **VIT}),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", {**SHAPES, **VIT}),
    "Dinov2ForImageClassification": ("Dinov2Config", {**SHAPES, **DINO}),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        {**SHAPES, **DINO, "one register": {"num_register_tokens": 1}, "none": {"num_register_tokens": 0}},
    ),
    "BlipVisionModel": ("BlipVisionConfig", {**SHAPES, **ACTIVATIONS, **DROPOUT}),
}
CASES = [
    pytest.param(kind, config, options, attn, id=f"{kind}-{name}-{attn}")
    for kind, (config, variants) in FAMILIES.items()
    for name, options in variants.items()
    for attn in ("sdpa", "eager")
    if not (kind.startswith("Blip") and attn == "sdpa")  # BLIP has only its own attention
]


def check(model, inputs, stacks=None):
    """Zero budget by two reducers, a real budget, and the model as it was afterwards."""
    with torch.no_grad():
        plain = [value for value in model(**inputs).to_tuple() if isinstance(value, torch.Tensor)]
        for reducer in ({"reducer": "random", "remove": 0}, {"reducer": "tome", "r": 0}):
            plan = dict.fromkeys(stacks, reducer) if stacks else reducer
            with tokenreduce.attach(model, **({"reducer": plan} if stacks else plan)):
                attached = [value for value in model(**inputs).to_tuple() if isinstance(value, torch.Tensor)]
            for one, other in zip(plain, attached, strict=True):
                largest = max(float(one.abs().max()), 1.0)
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * largest)
        with tokenreduce.attach(model, "tome", r=1, layers=[0]) as handle:
            model(**inputs)
            assert all(row.tokens_out < row.tokens_in for row in handle.last.sites if row.stream == "image")
        again = [value for value in model(**inputs).to_tuple() if isinstance(value, torch.Tensor)]
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "config", "options", "attn"), CASES)
def test_vision_towers(kind, config, options, attn):
    base = dict(VISION)
    if "Dinov2" in kind:
        base.pop("intermediate_size")
        base["mlp_ratio"] = 2
    labels = LABELS if "Classification" in kind else {}
    made = getattr(transformers, config)(**{**base, **labels, **options}, attn_implementation=attn)
    check(tiny(getattr(transformers, kind), made), {"pixel_values": pixels(size=made.image_size)})


@pytest.mark.sweep
@pytest.mark.parametrize("text", [{}, {"hidden_size": 48, "num_attention_heads": 3}], ids=["alike", "wider text"])
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["CLIPModel", "SiglipModel"])
def test_dual_encoders(kind, options, text):
    vision = {**VISION, **options}
    config = getattr(transformers, kind.replace("Model", "Config"))
    if kind == "SiglipModel":
        text = {}  # both towers end in features of one width
        words_config = {**TEXT, "hidden_size": vision["hidden_size"], "projection_size": vision["hidden_size"]}
    else:
        words_config = {**TEXT, **text}
    model = tiny(getattr(transformers, kind), config(text_config=words_config, vision_config=vision))
    check_pair(model, {"pixel_values": pixels(size=vision["image_size"]), "input_ids": words()})


def check_pair(model, inputs):
    with torch.no_grad():
        plain = model(**inputs).logits_per_image
        for name in ("none", "tome"):
            with tokenreduce.attach(model, name, **({"r": 0} if name == "tome" else {})):
                torch.testing.assert_close(model(**inputs).logits_per_image, plain, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(**inputs).logits_per_image, plain)


METER = {
    "plain": {},
    "one level": {"num_top_layer": 1},
    "six levels": {"num_top_layer": 6},
    "two vision blocks": {"vision_layers": 3},
    "wide vision": {"vision_hidden_size": 48, "vision_heads": 6},
    "wide levels": {"hidden_size": 64, "num_attention_heads": 8},
    "narrow MLP": {"intermediate_size": 16},
    "another eps": {"layer_norm_eps": 1e-5},
    "nine patches": {"image_size": 24},
    "hundred patches": {"image_size": 80},
    "relu": {"hidden_act": "relu"},
}


@pytest.mark.sweep
@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("options", METER.values(), ids=METER)
def test_meter(options, attn, order, tiny_meter):
    model, inputs = tiny_meter(**options, level_order=order)
    model.set_attn_implementation(attn)
    check(model, inputs, ("cross", "vision", "text"))
