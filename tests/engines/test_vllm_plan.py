"""tokenreduce-vllm without vLLM: what is asked for, how many tokens it leaves, and what is refused in which words."""

from types import SimpleNamespace

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce.errors import (
    LayerError,
    OptionError,
    TokenReduceError,
    UnfitReducerError,
    UnknownNameError,
    UnknownOptionError,
    UnsupportedModelError,
)
from tokenreduce.registry import default_registry
from tokenreduce_vllm.checks import plan_for
from tokenreduce_vllm.families import FAMILIES
from tokenreduce_vllm.settings import Settings, settings_of

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
TEXT = {**SMALL, "vocab_size": 99}
QWEN = transformers.Qwen2Config(**TEXT, num_key_value_heads=2)


def llava(**given):
    """LLaVA-1.5 with CLIP: 64 image tokens, three blocks of the tower are read."""
    vision = transformers.CLIPVisionConfig(**SMALL, image_size=112, patch_size=14)
    options = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", **given}
    config = transformers.LlavaConfig(vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), **options)
    config.architectures = ["LlavaForConditionalGeneration"]
    return config


def onevision():
    """LLaVA-OneVision with SigLIP: 16 patches of a tile."""
    vision = transformers.SiglipVisionConfig(**SMALL, image_size=56, patch_size=14)
    config = transformers.LlavaOnevisionConfig(vision_config=vision, text_config=QWEN, vision_feature_layer=-1)
    config.architectures = ["LlavaOnevisionForConditionalGeneration"]
    return config


def internvl():
    """InternVL: 4 tokens of a tile."""
    vision = transformers.InternVLVisionConfig(**SMALL, image_size=[56, 56], patch_size=[14, 14])
    config = transformers.InternVLConfig(vision_config=vision, text_config=QWEN, image_seq_length=4)
    config.architectures = ["InternVLForConditionalGeneration"]
    return config


def plan(settings, config=None, processes=1, **given):
    """The plan that vLLM would follow, from what it hands to the checks."""
    config = llava() if config is None else config
    config.tokenreduce = settings
    multimodal = SimpleNamespace(enable_mm_embeds=False, mm_encoder_tp_mode="weights", **given)
    model = SimpleNamespace(hf_config=config, multimodal_config=multimodal)
    return plan_for(model, SimpleNamespace(tensor_parallel_size=processes))


def test_a_config_that_asks_for_nothing_has_no_plan():
    assert plan(None) is None
    config = llava()
    config.architectures = ["SomethingElse"]
    assert plan(None, config) is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("divprune", Settings({"reducer": "divprune"})),
        ({"reducer": "divprune", "keep": 64}, Settings({"reducer": "divprune", "keep": 64})),
        ({"handover": "random"}, Settings({"reducer": "random"})),
        (
            {"vision": {"reducer": "tome", "r": 4, "layers": [1]}, "handover": "random"},
            Settings({"reducer": "random"}, {"reducer": "tome", "r": 4, "layers": [1]}),
        ),
        ({"reducer": {"handover": {"reducer": "random"}}, "restore": None}, Settings({"reducer": "random"})),
    ],
)
def test_settings(given, wanted):
    assert settings_of(SimpleNamespace(tokenreduce=given)) == wanted


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"reducer": "divprune", "keep": 16}, 16),
        ({"reducer": "divprune", "keep": 0.25}, 16),
        ({"reducer": "visionzip", "keep": 12}, 12),
        ({"reducer": "evit", "keep": 0.3}, 21),
        ({"vision": {"reducer": "tome", "r": 10}}, 34),
        ({"vision": {"reducer": "tome", "r": 10, "layers": [1]}}, 54),
        ({"vision": {"reducer": "tome", "r": 10}, "handover": {"reducer": "divprune", "keep": 0.5}}, 17),
    ],
)
def test_placeholders_of_an_image(settings, left):
    assert plan(settings).left(64) == left


def test_a_number_is_of_an_image_and_a_share_of_its_tokens():
    number, share = plan({"reducer": "divprune", "keep": 9}, onevision()), plan("divprune", onevision())
    assert [number.left(n) for n in (16, 48, 144)] == [9, 9, 9]
    assert [share.left(n) for n in (16, 48, 144)] == [2, 5, 15]
    assert plan({"vision": {"reducer": "tome", "r": 2}}, onevision()).left(48) == 48  # every token is put back


def test_placeholders_are_what_a_reducer_leaves():
    """Every registered reducer that is taken leaves as many tokens as were counted."""
    taken = []
    for name in default_registry().reducers:
        try:
            made = plan(name)
        except TokenReduceError:
            continue
        signals = {need: torch.rand(2, 64, 8 if need in ("keys", "encoder_features") else 1) for need in made.needs}
        signals = {need: value.squeeze(-1) if value.shape[-1] == 1 else value for need, value in signals.items()}
        if "class_features" in signals:
            signals["class_features"] = torch.rand(2, 1, 8)
        if "projector" in signals:
            signals["projector"] = lambda x: x
        assert tokenreduce.apply(made.handover, torch.randn(2, 64, 8), **signals).x.shape[1] == made.left(64), name
        taken.append(name)
    assert {"divprune", "visionzip", "fopru", "vispruner", "scope", "random", "pooling", "tome", "evit"} <= set(taken)


REFUSED = [  # what, error, words
    (3, OptionError, "names a reducer and its options.*--hf-overrides"),
    ({}, OptionError, "--hf-overrides"),
    ({"reducers": "divprune"}, OptionError, "no entry 'reducers'.*Did you mean 'reducer'"),
    ({"handover": 7}, OptionError, "handover is {'reducer': NAME"),
    ({"reducer": "divprun"}, UnknownNameError, "Did you mean 'divprune'"),
    ({"reducer": "divprune", "kep": 4}, UnknownOptionError, "Did you mean 'keep'"),
    ({"reducer": "os:system"}, OptionError, "code is not run because a file says so"),
    ({"reducer": "divprune", "keep": 0}, OptionError, "keep must be"),
    ({"reducer": "divprune", "unit": "tile"}, OptionError, "unit='tile' has no meaning here: an image is reduced"),
    ({"reducer": "divprune", "positions": "original"}, OptionError, "numbered anew"),
    ({"reducer": "fastv"}, UnfitReducerError, "reads layers of the language model.*one table of cache blocks"),
    ({"language": "fastv"}, OptionError, "one table of cache blocks"),
    ({"reducer": "fastv", "layers": [2]}, OptionError, "before the first layer.*one table of cache blocks"),
    ({"reducer": "sparsevlm"}, UnfitReducerError, "reads the prompt.*under the picture alone, for every question"),
    ({"reducer": "evit", "saliency": "text"}, UnfitReducerError, "reads the prompt.*divprune"),
    ({"reducer": "e-adaprune"}, UnfitReducerError, "before the encoder has run.*keep=64"),
    (
        {"reducer": "divprune", "keep": {"rule": {"kind": "energy", "value": 0.9, "cap": 9}}},
        UnfitReducerError,
        "as many tokens as a picture needs.*before the encoder has run",
    ),
    ({"vision": "ats"}, UnfitReducerError, "before the encoder has run"),
    ({"vision": "dynamicvit"}, UnfitReducerError, "has weights"),
    ({"vision": {"reducer": "tome", "layers": [9]}}, LayerError, "layer 9 is outside stack 'vision'"),
    ({"vision": "tome", "handover": "fopru"}, UnfitReducerError, "tokens that are gone have none"),
]


@pytest.mark.parametrize(("settings", "error", "words"), REFUSED, ids=[str(row[0])[:50] for row in REFUSED])
def test_refused_with_the_reason(settings, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        plan(settings)


def test_scores_from_split_heads_are_refused():
    with pytest.raises(UnfitReducerError, match=r"(?s)reads paid_logits, .*tensor parallelism.*divprune"):
        plan("fopru", processes=2)
    assert plan("divprune", processes=2).left(64) == 7
    assert plan({"vision": "tome"}, processes=2) is not None  # each process has a whole tower of its own


def test_a_tower_without_known_blocks_gives_no_signals():
    with pytest.raises(UnfitReducerError, match="FoPru needs"):
        plan("fopru", internvl())
    with pytest.raises(UnsupportedModelError, match=r"cannot be reduced here.*reduce at the hand-over"):
        plan({"vision": "tome"}, internvl())
    assert plan({"reducer": "divprune", "keep": 3}, internvl()).left(16) == 3
    with pytest.raises(UnfitReducerError, match="FoPru needs"):
        plan("fopru", llava(vision_feature_layer=[-2, -3]))


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("Qwen2VLForConditionalGeneration", "three axes"),
        ("Qwen2_5_VLForConditionalGeneration", "three axes"),
        ("InternVLChatModel", "its name ends in -hf"),
        ("LlamaForCausalLM", "does not know how its image tokens"),
    ],
)
def test_other_architectures_are_refused(architecture, words):
    config = llava()
    config.architectures = [architecture]
    with pytest.raises(UnsupportedModelError, match=f"(?s){architecture} is not served.*{words}.*Served: Llava"):
        plan("divprune", config)


def test_features_that_a_request_brings_are_refused():
    config = llava()
    config.tokenreduce = "divprune"
    model = SimpleNamespace(hf_config=config, multimodal_config=SimpleNamespace(enable_mm_embeds=True))
    with pytest.raises(UnfitReducerError, match="leave --enable-mm-embeds out"):
        plan_for(model)


def test_the_families_are_on_the_page(request):
    page = (request.config.rootpath / "docs" / "serve.md").read_text()
    for architecture in FAMILIES:
        assert architecture in page
