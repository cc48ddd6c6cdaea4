"""PEFT's kinds of adapters around reduced models: before attach and after, merged and unloaded again."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

import tokenreduce

from ..language import tinies

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for what it has renamed

ENCODER = ["q_proj", "v_proj"]
KINDS = {
    "LoRA": lambda targets: peft.LoraConfig(r=4, target_modules=targets),
    "DoRA": lambda targets: peft.LoraConfig(r=4, use_dora=True, target_modules=targets),
    "IA3": lambda targets: peft.IA3Config(target_modules=targets, feedforward_modules=[]),
}


def vit():
    config = transformers.ViTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64},
        **{"image_size": 32, "patch_size": 8, "num_labels": 3},
    )
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 2])}
    return transformers.ViTForImageClassification(config).eval(), inputs, ("tome", {"r": 3})


def llava():
    tiny = tinies.llava()
    inputs = tiny.inputs(batch=2)
    return tiny.model, {**inputs, "labels": inputs["input_ids"]}, ("random", {"keep": 4})


def changed(model):
    """The adapter's weights as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = 0.3 * torch.randn(weight.shape, generator=generator)
            if "lora_A" in name or "lora_B" in name:
                weight.copy_(noise)  # whatever they were drawn as
            elif "lora_" in name or "ia3_" in name:
                weight.add_(noise)
    return model


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("make", [vit, llava])
@pytest.mark.parametrize("kind", KINDS)
def test_before_attach_and_after_give_the_same(kind, make):
    model, inputs, (method, options) = make()
    other = copy.deepcopy(model)
    with tokenreduce.attach(model, method, **options):
        untrained = logits(model, inputs)
    wrapped = changed(peft.get_peft_model(model, KINDS[kind](ENCODER))).eval()
    plain = logits(wrapped, inputs)
    handle = tokenreduce.attach(wrapped, method, **options)
    expected = logits(wrapped, inputs)
    assert not torch.allclose(expected, untrained, atol=1e-4)  # the adapter acts
    assert not torch.equal(expected, plain)
    handle.detach()
    assert torch.equal(logits(wrapped, inputs), plain)

    tokenreduce.attach(other, method, **options)
    around = changed(peft.get_peft_model(other, KINDS[kind](ENCODER))).eval()
    assert torch.allclose(logits(around, inputs), expected, atol=1e-5)


@pytest.mark.parametrize("make", [vit, llava])
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_trains_through_the_reducer(kind, make):
    model, inputs, (method, options) = make()
    wrapped = peft.get_peft_model(model, KINDS[kind](ENCODER)).train()
    handle = tokenreduce.attach(wrapped, method, **options)
    wrapped(**inputs).loss.backward()
    trained = {name for name, weight in wrapped.named_parameters() if weight.grad is not None}
    assert trained and all("lora_" in name or "ia3_" in name for name in trained)
    assert handle.last.tokens["image"] < handle.last.initial["image"]


@pytest.mark.parametrize("make", [vit, llava])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_unloaded_while_attached(kind, make):
    model, inputs, (method, options) = make()
    plain = logits(model, inputs)
    handle = tokenreduce.attach(model, method, **options)
    reduced = logits(model, inputs)
    wrapped = changed(peft.get_peft_model(model, KINDS[kind](ENCODER))).eval()
    expected = logits(wrapped, inputs)
    unloaded = copy.deepcopy(wrapped).unload()
    assert torch.allclose(logits(unloaded, inputs), reduced, atol=1e-5)
    merged = wrapped.merge_and_unload()
    assert torch.allclose(logits(merged, inputs), expected, atol=1e-4)
    assert tokenreduce.attachment(merged) is handle
    handle.detach()
    assert not torch.allclose(logits(merged, inputs), plain, atol=1e-4)  # the adapter is in the weights


def test_an_adapter_is_loaded_and_switched_off_while_attached(tmp_path):
    model, inputs, (method, options) = vit()
    wrapped = changed(peft.get_peft_model(copy.deepcopy(model), KINDS["LoRA"](ENCODER))).eval()
    tokenreduce.attach(wrapped, method, **options)
    expected = logits(wrapped, inputs)
    wrapped.save_pretrained(tmp_path)
    tokenreduce.attach(model, method, **options)
    reduced = logits(model, inputs)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    assert torch.allclose(logits(loaded, inputs), expected, atol=1e-5)
    with loaded.disable_adapter():
        assert torch.allclose(logits(loaded, inputs), reduced, atol=1e-5)


def test_what_save_pretrained_of_a_wrapped_model_keeps(tmp_path):
    model, _, (method, options) = vit()
    wrapped = peft.get_peft_model(model, KINDS["LoRA"](ENCODER))
    tokenreduce.attach(wrapped, method, **options)
    wrapped.save_pretrained(tmp_path)
    assert {"adapter_model.safetensors", "tokenreduce.json"} <= {path.name for path in tmp_path.iterdir()}
    again, inputs, _ = vit()
    again.load_state_dict(
        {k: v for k, v in wrapped.get_base_model().state_dict().items() if "lora" not in k}, strict=False
    )
    tokenreduce.load(again, tmp_path)
    assert logits(again, inputs).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_learnable_reducer_that_is_named_trains_beside_the_adapter(kind):
    model, inputs, _ = vit()
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2], keep=0.7)
    config = KINDS[kind](ENCODER)
    config.modules_to_save = ["tokenreduce"]
    wrapped = peft.get_peft_model(model, config).train()
    (wrapped(**inputs).loss + sum(handle.last.losses.values())).backward()
    trained = {name for name, weight in wrapped.named_parameters() if weight.grad is not None}
    assert any(".tokenreduce.modules_to_save." in name for name in trained)
    assert any("lora_" in name or "ia3_" in name for name in trained)
    if kind != "IA3":  # PEFT asks what it saved for its weight there, which only single layers have
        whole = wrapped.eval().merge_and_unload()
        assert logits(whole, inputs).isfinite().all()
