"""Padding (ViLT): what it holds never matters, and it goes before any real token."""

from __future__ import annotations

import pytest
import torch

import tokenreduce

TEXT = 7
LENGTHS = [7, 4, 2]
SIZES = [(32, 32), (24, 32), (32, 16)]
PATCHES = [16, 12, 8]
REAL_TEXT = torch.arange(TEXT) < torch.tensor(LENGTHS)[:, None]
REAL = torch.cat([REAL_TEXT, torch.arange(17) <= torch.tensor(PATCHES)[:, None]], dim=1)


def poisoned(inputs, seed):
    """The same inputs with other words and pixels in the padding."""
    generator = torch.Generator().manual_seed(seed)
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    other_ids = torch.randint(1, 99, ids.shape, generator=generator)
    other_pixels = 5 * torch.randn(pixels.shape, generator=generator)
    return {
        **inputs,
        "input_ids": torch.where(inputs["attention_mask"].bool(), ids, other_ids),
        "pixel_values": torch.where(inputs["pixel_mask"].bool().unsqueeze(1), pixels, other_pixels),
    }


def run(model, inputs, seed=0):
    torch.manual_seed(seed)  # the plain embedding fills up with patches drawn from the padding
    with torch.no_grad():
        output = model(**inputs)
    if "logits" not in output:
        return output.last_hidden_state[:, :TEXT]
    return output.logits


@pytest.fixture(params=["ViltForQuestionAnswering", "ViltForMaskedLM", "ViltModel"])
def kind(request):
    return request.param


@pytest.fixture
def inputs(vilt_inputs):
    return vilt_inputs(lengths=LENGTHS, sizes=SIZES)


def real_part(output):
    return output[REAL_TEXT] if output.ndim == 3 else output


def test_the_plain_model_ignores_padding(kind, tiny_vilt, inputs, assert_close):
    model = tiny_vilt(kind)
    assert_close(real_part(run(model, poisoned(inputs, 1))), real_part(run(model, inputs)))


@pytest.mark.parametrize("layers", [None, [0, 2]], ids=str)
def test_the_content_of_padding_never_matters(kind, crossing, layers, tiny_vilt, inputs, assert_close):
    model, (name, options) = tiny_vilt(kind), crossing
    with tokenreduce.attach(model, name, layers=layers, **options):
        expected = run(model, inputs)
        for seed in (1, 2):
            assert_close(real_part(run(model, poisoned(inputs, seed), seed)), real_part(expected))


def test_the_content_of_a_neighbour_never_matters(crossing, tiny_vilt, vilt_inputs, inputs, assert_close):
    model, (name, options) = tiny_vilt(), crossing
    others = vilt_inputs(lengths=LENGTHS, sizes=SIZES, seed=8)
    mixed = {key: torch.cat([inputs[key][:1], others[key][1:]]) for key in inputs}
    with tokenreduce.attach(model, name, **options):
        assert_close(run(model, mixed)[:1], run(model, inputs)[:1])


def test_padding_of_a_neighbour_never_matters(crossing, tiny_vilt, inputs, assert_close):
    """A neighbour that is shorter in the same frame changes nothing for a sample."""
    model, (name, options) = tiny_vilt(), crossing
    shorter = {key: value.clone() for key, value in inputs.items()}
    shorter["attention_mask"][1:, 1:] = 0
    shorter["pixel_mask"][1:, :, 8:] = 0
    with tokenreduce.attach(model, name, **options):
        assert_close(run(model, shorter)[:1], run(model, inputs)[:1])


def test_order_in_the_batch_never_matters(kind, deterministic, tiny_vilt, inputs, assert_close):
    model, (name, options) = tiny_vilt(kind), deterministic
    order = torch.tensor([2, 0, 1])
    with tokenreduce.attach(model, name, **options):
        expected = run(model, inputs)[order]
        got = run(model, {key: value[order] for key, value in inputs.items()}, seed=4)
    if got.ndim == 3:
        got, expected = got[REAL_TEXT[order]], expected[REAL_TEXT[order]]
    assert_close(got, expected)


@pytest.mark.parametrize("layers", [[0], [0, 1, 2, 3]], ids=str)
def test_padding_goes_before_any_real_token(crossing, layers, tiny_vilt, inputs):
    model, (name, options) = tiny_vilt(), crossing
    with tokenreduce.attach(model, name, trace=True, layers=layers, **options) as handle:
        run(model, inputs)
        trace = handle.last.trace
    assert trace.source.shape == (3, TEXT + 17)
    streams = [range(TEXT + 17)] if options.get("modality_aware") is False else [range(TEXT), range(TEXT, TEXT + 17)]
    for sample in range(3):
        members = trace[sample]
        for stream in streams:
            padding = {token for token in stream if not REAL[sample, token]}
            alone = [m for m in members if m and set(m) <= padding]  # padding that still has a place
            if not alone:
                continue
            for token in set(stream) - padding:
                end = trace.source[sample, token]
                assert end >= 0, "a real token was dropped while padding stayed"
                merged = [m for m in members[end] if m not in padding]
                assert merged == [token], "a real token was merged while padding stayed"


def test_sizes_count_real_tokens_only(deterministic, tiny_vilt, inputs):
    model, (name, options) = tiny_vilt(), deterministic
    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        run(model, inputs)
        trace = handle.last.trace
    for sample in range(3):
        for end, members in enumerate(trace[sample]):
            assert trace.size[sample, end] == sum(bool(REAL[sample, m]) for m in members)


def test_no_token_stands_for_real_ones_and_for_padding(crossing, tiny_vilt, inputs):
    model, (name, options) = tiny_vilt(), crossing
    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        run(model, inputs)
        trace = handle.last.trace
    for sample in range(3):
        for members in trace[sample]:
            kinds = {bool(REAL[sample, token]) for token in members}
            assert len(kinds) < 2, "a token stands for real ones and for padding"


@pytest.mark.parametrize("lengths", [[1, 1, 1], [7, 1, 2]], ids=str)
@pytest.mark.parametrize("sizes", [[(8, 8), (8, 8), (8, 8)], [(32, 32), (8, 8), (8, 32)]], ids=str)
def test_almost_nothing_but_padding(crossing, lengths, sizes, tiny_vilt, vilt_inputs, assert_close):
    model, (name, options) = tiny_vilt(), crossing
    inputs = vilt_inputs(lengths=lengths, sizes=sizes)
    with tokenreduce.attach(model, name, layers=[0, 1, 2, 3], **options):
        expected = run(model, inputs)
        assert expected.isfinite().all()
        assert_close(run(model, poisoned(inputs, 3), 3), expected)


def test_padding_in_the_middle_of_the_text(crossing, tiny_vilt, inputs, assert_close):
    model, (name, options) = tiny_vilt(), crossing
    inputs["attention_mask"] = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
    with tokenreduce.attach(model, name, **options):
        assert_close(run(model, poisoned(inputs, 3), 3), run(model, inputs))


def test_padding_with_gradients_is_finite(crossing, tiny_vilt, inputs):
    model, (name, options) = tiny_vilt(), crossing
    with tokenreduce.attach(model, name, layers=[0, 1, 2, 3], **options):
        model(**inputs).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
