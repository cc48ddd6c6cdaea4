"""ViLT: a budget of zero changes nothing, and detach gives back every bit."""

from __future__ import annotations

import pytest
import torch

import tokenreduce

KINDS = [
    "ViltModel",
    "ViltForQuestionAnswering",
    "ViltForImagesAndTextClassification",
    "ViltForImageAndTextRetrieval",
    "ViltForMaskedLM",
    "ViltForTokenClassification",
]
PADDED = {"lengths": [7, 4, 2], "sizes": [(32, 32), (16, 24), (32, 8)]}


def answers(model, inputs):
    """The outputs that do not depend on the order in which ViLT shuffles its patches."""
    with torch.no_grad():
        output = model(**inputs)
    if hasattr(output, "logits"):
        return [output.logits]
    return [output.pooler_output, output.last_hidden_state[:, : inputs["input_ids"].shape[1]]]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[pytest.param({}, id="whole"), pytest.param(PADDED, id="padded")])
def masks(request):
    return request.param


def test_zero_budget_is_the_identity(kind, zero, masks, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt(kind), vilt_inputs(pairs="Images" in kind, **masks)
    expected = answers(model, inputs)
    name, options = zero
    with tokenreduce.attach(model, name, **options) as handle:
        got = answers(model, inputs)
        assert all(row.tokens_in == row.tokens_out for row in handle.last.sites)
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    for one, other in zip(got, expected, strict=True):
        if one.shape[:2] == real.shape and one.ndim == 3:
            one, other = one[real], other[real]  # what padding holds is nobody's business
        assert_close(one, other)


def test_zero_budget_keeps_every_image_token(zero, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt("ViltModel"), vilt_inputs()
    line = torch.randn(32, generator=torch.Generator().manual_seed(5))

    def image_tokens():
        with torch.no_grad():
            x = model(**inputs).last_hidden_state[:, 7:]
        order = (x @ line).argsort(dim=1)  # the plain model shuffles them
        return x.gather(1, order.unsqueeze(-1).expand_as(x))

    expected = image_tokens()
    name, options = zero
    with tokenreduce.attach(model, name, **options):
        assert_close(image_tokens(), expected)


def test_zero_budget_with_given_image_embeddings_is_the_identity_on_every_token(
    zero, tiny_vilt, vilt_inputs, assert_close
):
    model, inputs = tiny_vilt("ViltModel"), vilt_inputs(lengths=[7, 4, 2])
    inputs.pop("pixel_values")
    inputs["image_embeds"] = torch.randn(3, 11, 32)
    inputs["pixel_mask"] = (torch.arange(11) < torch.tensor([11, 6, 3])[:, None]).long()
    real = torch.cat([inputs["attention_mask"], inputs["pixel_mask"]], dim=1).bool()
    name, options = zero
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state[real]
        with tokenreduce.attach(model, name, **options):
            got = model(**inputs).last_hidden_state[real]
    assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int32])
def test_zero_budget_with_masks_of_any_type(dtype, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt(), vilt_inputs(**PADDED)
    inputs = {key: value.to(dtype) if key.endswith("mask") else value for key, value in inputs.items()}
    expected = answers(model, inputs)
    with tokenreduce.attach(model, "none"):
        assert_close(answers(model, inputs)[0], expected[0])


def test_masks_with_holes(zero, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt(), vilt_inputs()
    inputs["attention_mask"] = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
    expected = answers(model, inputs)
    name, options = zero
    with tokenreduce.attach(model, name, **options):
        assert_close(answers(model, inputs)[0], expected[0])


def test_detach_is_bit_exact(kind, reducer, masks, tiny_vilt, vilt_inputs, snapshot, forwards, tensors_of):
    model, inputs = tiny_vilt(kind), vilt_inputs(pairs="Images" in kind, **masks)

    def run():
        torch.manual_seed(3)  # the plain model shuffles patches with torch's generator
        with torch.no_grad():
            return tensors_of(model(**inputs, output_hidden_states=True))

    expected, untouched = run(), snapshot(model)
    name, options = reducer
    handle = tokenreduce.attach(model, name, **options)
    assert [key for key in model.state_dict() if "tokenreduce." not in key] == untouched[2]
    assert type(model).__name__ == kind
    reduced = run()
    assert any(a.shape != b.shape for a, b in zip(reduced, expected, strict=True))
    handle.detach()
    assert forwards(model) == []
    assert snapshot(model) == untouched
    for one, other in zip(run(), expected, strict=True):
        assert torch.equal(one, other)


def test_state_dict_travels_while_attached(tiny_vilt, vilt_inputs):
    model, twin = tiny_vilt(seed=0), tiny_vilt(seed=1)
    inputs = vilt_inputs()
    with tokenreduce.attach(model, "pumer"), tokenreduce.attach(twin, "pumer"), torch.no_grad():
        assert not torch.equal(model(**inputs).logits, twin(**inputs).logits)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(model(**inputs).logits, twin(**inputs).logits)


def test_a_model_loaded_from_a_checkpoint_saved_while_attached(tiny_vilt, vilt_inputs, tmp_path):
    model, inputs = tiny_vilt(), vilt_inputs()
    handle = tokenreduce.attach(model, "pumer")
    model.save_pretrained(tmp_path)
    handle.detach()
    fresh = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.manual_seed(0)
        expected = model(**inputs).logits
        torch.manual_seed(0)
        assert torch.equal(fresh(**inputs).logits, expected)


def test_a_bare_model_inside_a_users_own_head(tiny_vilt, vilt_inputs, assert_close):
    class Head(torch.nn.Module):
        def __init__(self, vilt):
            super().__init__()
            self.vilt = vilt

        def forward(self, **inputs):
            return self.vilt(**inputs).last_hidden_state[:, :7]  # reads every text token

    model, inputs = Head(tiny_vilt("ViltModel")), vilt_inputs()
    with torch.no_grad():
        expected = model(**inputs)
        with tokenreduce.attach(model, "none"):
            assert_close(model(**inputs), expected)
        with tokenreduce.attach(model, "pumer"):
            assert model(**inputs).shape == expected.shape
