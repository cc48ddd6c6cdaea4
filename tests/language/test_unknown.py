"""Families whose layers know more of other tokens than masked attention are refused, with the reason."""

import copy

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce.errors import UnsupportedModelError

from . import tinies

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
}
REASONS = {
    "Mllama": r"MllamaModel.*image is a memory",
    "Gemma3n": r"Gemma3nModel.*per-layer inputs.*share keys and values",
    "Gemma4": r"Gemma4Model.*per-layer inputs.*share keys and values",
    "Qwen3_5": r"Qwen3_5Model.*linear attention.*leaving out a token is not the same as hiding it",
    "Lfm2Vl": r"Lfm2VlModel.*convolutions",
}
OFFERED = [name for name in REASONS if hasattr(transformers, f"{name}ForConditionalGeneration")]


def bare(name):
    """The model without what its parts are made of: which family it is of is told by its class."""
    kind = getattr(transformers, f"{name}ForConditionalGeneration")
    model = kind.__new__(kind)
    torch.nn.Module.__init__(model)
    model.config = getattr(transformers, f"{name}Config")()
    inner = getattr(transformers, f"{name}Model")
    model.model = inner.__new__(inner)
    torch.nn.Module.__init__(model.model)
    model.model.config = model.config
    return model


@pytest.mark.parametrize("name", OFFERED)
@pytest.mark.parametrize("plan", ["tome", {"handover": "random"}, {"vision": "tome"}], ids=str)
def test_refused_with_the_reason(name, plan):
    with pytest.raises(UnsupportedModelError, match=REASONS[name]):
        tokenreduce.attach(bare(name), plan)


def test_most_are_offered_here():
    assert len(OFFERED) >= 4


def test_a_real_mllama():
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "attention_heads": 2,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "image_size": 16,
            "patch_size": 8,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1]],
        },
        text_config={**SMALL, "cross_attention_layers": [1]},
    )
    model = transformers.MllamaForConditionalGeneration(config)
    with pytest.raises(UnsupportedModelError, match=REASONS["Mllama"]):
        tokenreduce.attach(model, "tome")


def test_linear_attention_under_a_known_head():
    """LLaVA around a language model of which some layers are linear attention."""
    tiny = tinies.llava()
    text = transformers.Qwen3NextConfig(
        **SMALL,
        layer_types=["linear_attention", "full_attention"],
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    model = copy.deepcopy(tiny.model)
    model.model.language_model = transformers.Qwen3NextModel(text)
    with pytest.raises(UnsupportedModelError, match=r"Qwen3NextDecoderLayer.*linear attention"):
        tokenreduce.attach(model, "random")
