"""Weights quantised by torchao, optimum-quanto and bitsandbytes, in encoders and language models; where installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import transformers

import tokenreduce

from ..language import tinies

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("no_grad")]  # what these libraries say


def vit():
    config = transformers.ViTConfig(
        **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128},
        **{"image_size": 32, "patch_size": 8, "num_labels": 3},
    )
    model = transformers.ViTForImageClassification(config).eval()
    return model, {"pixel_values": torch.randn(2, 3, 32, 32)}, ("none", {}), ("tome", {"r": 3})


def llava():
    tiny = tinies.llava()
    return tiny.model, tiny.inputs(batch=2), ("random", {"keep": 36}), ("random", {"keep": 4})


def read_again(model, folder, **quantised):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=torch.float32, **quantised).eval()


def torchao(config):
    def quantise(model, folder):
        import torchao.quantization

        torchao.quantization.quantize_(model, getattr(torchao.quantization, config)())
        return model

    return quantise


def quanto(model, folder):
    from optimum.quanto import freeze, qint8, quantize

    quantize(model, weights=qint8)
    freeze(model)
    return model


def bitsandbytes(**options):
    def quantise(model, folder):
        config = transformers.BitsAndBytesConfig(**options, llm_int8_skip_modules=["classifier", "lm_head"])
        return read_again(model, folder, quantization_config=config, device_map="cpu")

    return quantise


KINDS = {
    "torchao int8 weights": ("torchao", torchao("Int8WeightOnlyConfig")),
    "torchao int8 dynamic": ("torchao", torchao("Int8DynamicActivationInt8WeightConfig")),
    "quanto": ("optimum.quanto", quanto),
    "bitsandbytes int8": ("bitsandbytes", bitsandbytes(load_in_8bit=True)),
    "bitsandbytes nf4": ("bitsandbytes", bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4")),
}


def installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [vit, pytest.param(llava, marks=pytest.mark.sweep)])
def test_quantised(make, kind, when, tmp_path):
    library, quantise = KINDS[kind]
    if not installed(library):
        pytest.skip(f"{library} is not installed")
    model, inputs, (same, everything), (method, options) = make()
    if kind == "bitsandbytes nf4" and make is llava:
        pytest.skip("the tiny model is narrower than a block of 4-bit weights")
    in_place = not kind.startswith("bitsandbytes")
    if when == "after" and not in_place:
        pytest.skip("bitsandbytes quantises while a model is read")
    if when == "after":
        handle = tokenreduce.attach(model, same, **everything)
        model = quantise(model, tmp_path)
        got = model(**inputs).logits
        handle.detach()
        plain = model(**inputs).logits
    else:
        model = quantise(model, tmp_path)
        plain = model(**inputs).logits
        with tokenreduce.attach(model, same, **everything):
            got = model(**inputs).logits
    assert torch.allclose(got, plain, rtol=1e-4, atol=1e-4)
    with tokenreduce.attach(model, method, **options) as handle:
        reduced = model(**inputs).logits
        assert reduced.isfinite().all() and not torch.equal(reduced, plain)
        assert handle.last.tokens["image"] < handle.last.initial["image"]
    assert torch.equal(model(**inputs).logits, plain)
