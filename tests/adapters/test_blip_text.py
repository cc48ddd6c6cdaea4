"""BLIP's text encoder, alone (stack "cross") and together with the vision tower."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch

import tokenreduce
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.transformers.blip import Blip

from ..helpers import assert_same_gradients, enable_checkpointing, gradients

ANSWER, MATCH = "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
STACKS = {"cross": ["cross"], "both": ["vision", "cross"]}
SHRINKING = {"tome": {"r": 3}, "evit": {"keep": 0.6}, "random": {"keep": 0.6}, "pumer": {}}


@functools.cache
def made_once(kind):
    return Blip().examples()[kind]()


def build(kind=MATCH, padded=True):
    """A model and inputs for it; the second text is padded."""
    made = copy.deepcopy(made_once(kind))
    inputs = dict(made.inputs)
    if padded:
        inputs["attention_mask"] = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    return made.model, inputs


@pytest.fixture(params=[ANSWER, MATCH])
def case(request):
    return build(request.param)


def plan(stacks, reducer, options):
    return {stack: {"reducer": reducer, **options} for stack in STACKS[stacks]}


def question(model, inputs):
    """What the text encoder hands on."""
    found = []
    hook = model.text_encoder.register_forward_hook(lambda module, args, output: found.append(output[0]))
    try:
        output = model(**inputs)
    finally:
        hook.remove()
    return output, found[0]


@torch.no_grad()
def test_vision_alone_is_the_default_and_cross_is_told_apart(case):
    model, inputs = case
    with tokenreduce.attach(model, "tome", r=3) as handle:
        model(**inputs)
        assert {row.stack for row in handle.last.sites} == {"vision"}
    with pytest.raises(UnsupportedModelError, match="stack 'cross'"):
        tokenreduce.attach(model, {"text": "tome"})
    for kind in ("BlipModel", "BlipForConditionalGeneration"):
        with pytest.raises(UnsupportedModelError, match="no stack 'cross'"):
            tokenreduce.attach(build(kind)[0], {"cross": "tome"})


def heads(x, attention):
    return x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(-3, -2)


@torch.no_grad()
def test_pumer_prunes_what_the_text_looks_at_least():
    model, inputs = build()
    model.double()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    real = inputs["attention_mask"].bool()
    options = {"prune": 0.4, "merge": 0, "text_merge": 0, "layers": [1]}
    with tokenreduce.attach(model, {"cross": {"reducer": "pumer", **options}}, trace=True) as handle:
        model(**inputs)
        trace = handle.stacks["cross"].last.trace
    image = model.vision_model(inputs["pixel_values"]).last_hidden_state
    text = model.text_encoder.embeddings(input_ids=inputs["input_ids"])
    mask = torch.zeros(2, 6, dtype=torch.float64).masked_fill(~real, -1e30)[:, None, None]
    layers = model.text_encoder.encoder.layer
    text = layers[0](text, image, mask)
    text = layers[1].attention(text, mask)[0]
    attention = layers[1].crossattention.self
    query, key = heads(attention.query(text), attention), heads(attention.key(image), attention)
    maps = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)
    for sample in range(2):
        score = maps[sample][real[sample]].mean(dim=0)
        kept = score.argsort(descending=True)[: 26 - round(0.4 * 26)].tolist()
        assert [group[0] - 6 for group in trace[sample][6:]] == kept
        everyone = maps[sample].mean(dim=0).argsort(descending=True)[: len(kept)].tolist()
        assert (everyone == kept) == bool(real[sample].all())  # padded words would have chosen otherwise


@torch.no_grad()
def test_tome_is_the_same_as_text_that_sees_each_token_as_often_as_it_has_members():
    """With its last layer alone reducing nothing more, layer 1 sees means; repeated, they weigh the same."""
    model, inputs = build(padded=False)
    model.double()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with tokenreduce.attach(model, {"cross": {"reducer": "tome", "r": 6, "layers": [0]}}, trace=True) as handle:
        got = question(model, inputs)[1]
        ends = handle.stacks["cross"].last.trace.stream("image") - 6
    image = model.vision_model(inputs["pixel_values"]).last_hidden_state
    layers = model.text_encoder.encoder.layer
    text = layers[0](model.text_encoder.embeddings(input_ids=inputs["input_ids"]), image)
    for sample in range(2):
        merged = torch.stack([image[sample][ends[sample] == e].mean(dim=0) for e in ends[sample]])
        expected = layers[1](text[sample : sample + 1], merged[None])[0]
        torch.testing.assert_close(got[sample], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tome", "evit", "pumer"])
def test_padding_decides_nothing(name, assert_close):
    model, inputs = build()
    real = inputs["attention_mask"].bool()
    with tokenreduce.attach(model, plan("cross", name, SHRINKING[name])):
        _, expected = question(model, inputs)
        other = {**inputs, "input_ids": torch.where(real, inputs["input_ids"], 5)}
        assert_close(question(model, other)[1][real], expected[real])
        alone = {key: value[:1] for key, value in inputs.items() if key != "attention_mask"}
        assert_close(question(model, alone)[1], expected[:1])


@torch.no_grad()
def test_an_image_is_needed():
    model, inputs = build()
    for stacks in STACKS:
        with tokenreduce.attach(model, plan(stacks, "pumer", {})):
            with pytest.raises(UnsupportedCallError, match=r"without an image.*use_itm_head"):
                model(**inputs, use_itm_head=False)
            with pytest.raises(UnsupportedCallError, match="called by itself"):
                model.text_encoder.encoder.layer[0](torch.randn(1, 3, 32), torch.randn(1, 4, 32))
    with tokenreduce.attach(model, "tome"):
        model(**inputs, use_itm_head=False)


@torch.no_grad()
def test_caches_and_attentions_are_refused():
    model, inputs = build()
    text = {"input_ids": inputs["input_ids"], "encoder_hidden_states": torch.randn(2, 9, 32)}
    with tokenreduce.attach(model, {"cross": "pumer"}):
        assert model.text_encoder(**text).last_hidden_state.shape == (2, 6, 32)
        for use_cache in (True, False):
            with pytest.raises(UnsupportedCallError, match="causal"):
                model.text_encoder(**text, is_decoder=True, use_cache=use_cache)
        with pytest.raises(UnsupportedCallError, match="output_attentions"):
            model.text_encoder(**text, output_attentions=True)


def loss(model, inputs):
    torch.manual_seed(3)
    _, text = question(model, inputs)
    return (text * torch.linspace(-1, 1, text.numel()).view(text.shape)).sum()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("stacks", STACKS)
@pytest.mark.parametrize(("name", "restore"), [("tome", None), ("pumer", True), ("random", True)])
def test_gradients_are_the_same_through_checkpoints(name, restore, stacks, reentrant):
    model, inputs = build()
    model.train()
    options = {"keep": 0.6, "seed": 1} if name == "random" else SHRINKING[name]
    with tokenreduce.attach(model, plan(stacks, name, options), restore=restore):
        plain = gradients(model, loss(model, inputs))
        enable_checkpointing(model, reentrant)
        again = gradients(model, loss(model, inputs))
    assert all(gradient.isfinite().all() for gradient in plain.values())
    assert_same_gradients(again, plain)
    layers = [key for key in plain if key.startswith("text_encoder.encoder.layer") and key.endswith("weight")]
    assert layers and all(plain[key].abs().max() > 0 for key in layers)
    assert any("vision_model" in key and plain[key].abs().max() > 0 for key in plain)


@torch.no_grad()
@pytest.mark.parametrize("stacks", STACKS)
def test_answers_are_generated(stacks):
    model, inputs = build(ANSWER)
    call = {key: inputs[key] for key in ("input_ids", "pixel_values", "attention_mask")}
    call |= {"max_new_tokens": 4, "min_new_tokens": 2, "do_sample": False}
    plain = model.generate(**call)
    with tokenreduce.attach(model, plan(stacks, "none", {})):
        assert torch.equal(model.generate(**call), plain)
    with tokenreduce.attach(model, plan(stacks, "pumer", {})) as handle:
        found = model.generate(**call)
        assert found.shape[0] == 2 and found.shape[1] >= 3
        assert torch.equal(model.generate(**call), found)
        assert handle.stacks["cross"].last.tokens["image"] < 26
    assert torch.equal(model.generate(**call), plain)


@torch.no_grad()
def test_restore_false_hands_on_fewer_words_and_fewer_image_tokens():
    model, inputs = build()
    with tokenreduce.attach(model, plan("both", "pumer", {"text_merge": 0.4}), restore=False) as handle:
        output, text = question(model, inputs)
        assert text.shape[1] == handle.stacks["cross"].last.tokens["text"] < 6
        assert output.last_hidden_state.shape[1] == handle.stacks["vision"].last.tokens["image"] < 26
        assert handle.last.sites[-1].tokens_out < handle.stacks["vision"].last.tokens["image"]


@torch.no_grad()
def test_copies_and_pickles(case):
    model, inputs = case
    plain = question(model, inputs)[1]
    tokenreduce.attach(model, plan("both", "pumer", {}))
    expected = question(model, inputs)[1]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(question(twin, inputs)[1], expected)
        tokenreduce.attachment(twin).detach()
        assert torch.equal(question(twin, inputs)[1], plain)
    assert torch.equal(question(model, inputs)[1], expected)


@torch.no_grad()
@pytest.mark.sweep
def test_compiles_without_a_break():
    model, inputs = build()
    tokenreduce.attach(model, {"cross": "pumer"})
    image = torch.randn(2, 26, 32)
    call = {"encoder_hidden_states": image, "attention_mask": inputs["attention_mask"]}
    expected = model.text_encoder(inputs["input_ids"], **call).last_hidden_state
    torch._dynamo.reset()
    compiled = torch.compile(model.text_encoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(inputs["input_ids"], **call).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
