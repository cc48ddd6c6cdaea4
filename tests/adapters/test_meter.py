"""METER: its stacks, every reducer on each, and what must hold while attached."""

import copy
import pickle
import sys

import pytest
import torch

import tokenreduce
from tokenreduce.cli import main
from tokenreduce.errors import LayerError, PluginError, UnfitReducerError, UnsupportedCallError, UnsupportedModelError

from ..helpers import enable_checkpointing, gradients

ALL = {"vision": {"reducer": "tome", "r": 3}, "cross": "pumer", "text": {"reducer": "tome", "r": 1}}


def flat(output):
    return [value for value in output.to_tuple() if isinstance(value, torch.Tensor)]


def test_without_open_clip_it_says_what_to_install(tiny_meter, monkeypatch, capsys):
    model, _ = tiny_meter()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert not tokenreduce.registry.default_registry().entry("adapter", "meter").usable
    with pytest.raises(PluginError, match=r"'meter' needs open_clip: pip install 'tokenreduce\[meter\]'"):
        tokenreduce.attach(model, "tome", adapter="meter")
    assert main(["info", "meter"]) == 0
    assert capsys.readouterr().out.count("open_clip is not installed: pip install 'tokenreduce[meter]'") == 2


@torch.no_grad()
def test_cross_is_the_default_stack_and_layers_are_levels(tiny_meter):
    model, inputs = tiny_meter()
    with tokenreduce.attach(model, "pumer", layers=[0, 3]) as handle:
        model(**inputs)
        assert {(row.stack, row.layer) for row in handle.last.sites} == {("cross", 0), ("cross", 3)}
        assert [site.depth for site in handle.sites] == [4, 4]
    with pytest.raises(LayerError, match=r"0\.\.3"):
        tokenreduce.attach(model, "pumer", layers=[4])
    with pytest.raises(UnsupportedModelError, match="no stack 'crosss'"):
        tokenreduce.attach(model, {"crosss": "pumer"})


@torch.no_grad()
def test_a_text_reducer_acts_in_the_text_block_and_an_image_reducer_in_the_image_block(tiny_meter):
    model, inputs = tiny_meter(level_order="sequential")
    seen = {}
    for name in ("text", "image"):
        block = getattr(model, f"cross_modal_{name}_layers")[1]
        block.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out[0].shape[1]}))
    with tokenreduce.attach(model, "pumer", layers=[1], prune=0.5, merge=0.0, text_merge=0.25):
        model(**inputs)
        assert seen == {"text": 9, "image": 19}
    with tokenreduce.attach(model, "tome", layers=[1], r=7):
        model(**inputs)
        assert seen == {"text": 12, "image": 30}
    with tokenreduce.attach(model, "evit", layers=[1], keep=0.5, fuse=False, saliency="text"):
        model(**inputs)
        assert seen == {"text": 12, "image": 19}


@torch.no_grad()
def test_text_is_restored_for_whatever_reads_it(tiny_meter):
    model, inputs = tiny_meter("MeterModel")
    plain = model(**inputs)
    with tokenreduce.attach(model, "pumer"):
        output = model(**inputs)
    assert output.text_features.shape == plain.text_features.shape
    assert output.image_features.shape[1] < plain.image_features.shape[1]
    with tokenreduce.attach(model, "pumer", restore=True):
        assert model(**inputs).image_features.shape == plain.image_features.shape
    with tokenreduce.attach(model, {"text": {"reducer": "tome", "r": 3}}):
        assert model(**inputs).text_features.shape == plain.text_features.shape


@torch.no_grad()
def test_copies_and_pickles_are_independent(tiny_meter):
    model, inputs = tiny_meter()
    tokenreduce.attach(model, ALL)
    expected = model(**inputs).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(**inputs).logits, expected)
        tokenreduce.attachment(twin).detach()
        assert not torch.equal(twin(**inputs).logits, expected)
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.sweep
@torch.no_grad()
@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("reducer", [ALL, {"cross": {"reducer": "tome", "r": 3}}, {"cross": "evit"}], ids=str)
def test_compiles_without_a_break(reducer, order, tiny_meter):
    model, inputs = tiny_meter(level_order=order)
    tokenreduce.attach(model, reducer)
    expected = model(**inputs).logits
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs).logits, expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_refused(tiny_meter):
    model, _ = tiny_meter()
    with pytest.raises(UnfitReducerError, match="one sequence"):
        tokenreduce.attach(model, "pumer", modality_aware=False)
    handle = tokenreduce.attach(model, "pumer")
    with pytest.raises(UnfitReducerError, match="shares no space"):
        handle.guide(torch.randn(16))
    handle.detach()
    pair = torch.nn.ModuleList([tiny_meter()[0], tiny_meter()[0]])
    with pytest.raises(UnsupportedModelError, match="2 METER models"):
        tokenreduce.attach(pair, "pumer")


def test_a_users_own_head(tiny_meter):
    class Mine(torch.nn.Module):
        def __init__(self, meter):
            super().__init__()
            self.meter = meter

        def forward(self, **inputs):
            return self.meter(**inputs).text_features.sum(dim=1)

    meter, inputs = tiny_meter("MeterModel")
    model = Mine(meter)
    with tokenreduce.attach(model, "pumer", text_merge=0.4) as handle:
        assert model(**inputs).shape == (2, 32)
        assert handle.last.tokens["text"] < 12
        assert meter(**inputs).text_features.shape[1] == 12


class TestHeads:
    def test_question_answering(self, tiny_meter):
        model, inputs = tiny_meter(num_labels=5)
        scores = torch.rand(2, 5)
        output = model(**inputs, labels=scores)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, scores) * 5
        torch.testing.assert_close(output.loss, expected)
        right = model(**inputs, labels=torch.tensor([4, 0]))
        torch.testing.assert_close(right.loss, torch.nn.functional.cross_entropy(output.logits, torch.tensor([4, 0])))
        assert isinstance(model(**inputs, return_dict=False), tuple)

    def test_pairs_of_images(self, tiny_meter):
        model, inputs = tiny_meter("MeterForImagesAndTextClassification")
        swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
        assert model(**inputs, labels=torch.tensor([0, 1])).loss.ndim == 0
        assert not torch.allclose(model(**inputs).logits, model(**swapped).logits, atol=1e-4)
        with pytest.raises(UnsupportedCallError, match=r"\(B, 2, 3, H, W\)"):
            model(**{**inputs, "pixel_values": inputs["pixel_values"][:, 0]})
        with tokenreduce.attach(model, "pumer") as handle:
            model(**inputs)
            assert handle.last.tokens["image"] < 37
        with pytest.raises(UnsupportedCallError, match="token_types"):
            tiny_meter("MeterForImagesAndTextClassification", token_types=2)

    def test_retrieval(self, tiny_meter):
        model, inputs = tiny_meter("MeterForImageAndTextRetrieval")
        output = model(**inputs, labels=torch.tensor([1]))
        assert output.logits.shape == (2, 1)
        torch.testing.assert_close(output.loss, -output.logits[:, 0].log_softmax(0)[1])
        with pytest.raises(UnsupportedCallError, match="groups of equal size"):
            model(**inputs, labels=torch.tensor([0, 0, 0]))

    def test_a_second_image_needs_its_token_type(self, tiny_meter):
        model, inputs = tiny_meter("MeterModel")
        with pytest.raises(UnsupportedCallError, match="token_types=3"):
            model(**inputs, image_token_type=2)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_adapter_that_knows_most_of_the_model_takes_it(wrapped, tiny_meter):
    """open_clip's adapter would take METER's vision tower alone."""
    import open_clip

    assert open_clip
    model, inputs = tiny_meter()
    outer = torch.nn.Sequential(model) if wrapped else model
    handle = tokenreduce.attach(outer, "pumer")
    assert handle.config["adapter"] == "meter"
    handle.detach()
    handle = tokenreduce.attach(outer, "tome", r=2, adapter="open-clip")
    model(**inputs)
    assert {row.stack for row in handle.last.sites} == {"vision"}


@torch.no_grad()
def test_dropped_text_comes_back_with_its_last_value(tiny_meter):
    class Halve(tokenreduce.Reducer):
        streams = ("text",)

        def reduce_streams(self, streams, site):
            tokens = streams["text"].tokens
            return {"text": tokens.keep_top(-torch.arange(tokens.count).expand(2, -1), remove=tokens.count // 2)}

    model, inputs = tiny_meter("MeterModel")
    with tokenreduce.attach(model, Halve(), layers=[0, 2]):
        halved = model(**inputs).text_features
    with tokenreduce.attach(model, Halve(), layers=[0, 2], restore=True):
        full = model(**inputs).text_features
    assert halved.shape == (2, 12, 32)
    assert torch.equal(halved, full)
    assert halved.abs().sum(-1).all()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("stacks", [None, ALL, {"cross": {"reducer": "tome", "r": 3}}], ids=str)
def test_gradients_are_the_same_through_checkpoints(stacks, order, reentrant, tiny_meter):
    model, inputs = tiny_meter(level_order=order, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.train()
    if stacks:
        tokenreduce.attach(model, stacks)

    def loss_and_gradients():
        torch.manual_seed(3)  # RoBERTa keeps its dropout
        loss = model(**inputs, labels=torch.tensor([0, 1])).loss
        return loss.detach(), gradients(model, loss)

    loss, plain = loss_and_gradients()
    enable_checkpointing(model, reentrant)
    for module in model.modules():
        if type(module).__name__ == "CoAttentionLayer":
            assert module.gradient_checkpointing
    again, checkpointed = loss_and_gradients()
    torch.testing.assert_close(again, loss)
    assert set(plain) == set(checkpointed)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6)
