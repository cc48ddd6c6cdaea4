"""ViLT, every way to call it: patches in raster order, masks or none, any image size, other inputs and outputs."""

from __future__ import annotations

import pytest
import torch

import tokenreduce

TEXT = 7


def run(model, inputs, **more):
    with torch.no_grad():
        return model(**inputs, **more)


@pytest.fixture(params=["no mask", "ones", "partial"])
def masked(request, vilt_inputs):
    inputs = vilt_inputs(lengths=[7, 4, 2])
    if request.param != "no mask":
        inputs["pixel_mask"] = torch.ones(3, 32, 32, dtype=torch.long)
    if request.param == "partial":
        inputs["pixel_mask"][1, 16:] = 0
        inputs["pixel_mask"][2, :, 24:] = 0
    return inputs


def test_the_same_answer_on_every_call(masked, crossing, tiny_vilt, assert_close):
    model, (name, options) = tiny_vilt(), crossing
    with tokenreduce.attach(model, name, **options):
        first = run(model, masked).logits
        for _ in range(3):
            assert_close(run(model, masked).logits, first, 1e-6)


def test_a_mask_of_ones_is_the_same_as_none(crossing, tiny_vilt, vilt_inputs, assert_close):
    model, inputs, (name, options) = tiny_vilt(), vilt_inputs(), crossing
    ones = torch.ones(3, 32, 32)
    with tokenreduce.attach(model, name, **options):
        expected = run(model, inputs).logits
        assert_close(run(model, {**inputs, "pixel_mask": ones}).logits, expected)
        assert_close(run(model, {**inputs, "pixel_mask": ones.long()}).logits, expected)
        assert_close(run(model, {**inputs, "attention_mask": torch.ones(3, TEXT)}).logits, expected)


def test_no_padding_is_the_same_beside_a_padded_neighbour(deterministic, tiny_vilt, vilt_inputs, assert_close):
    """The way through the masked embedding and the way past it meet."""
    model, inputs, (name, options) = tiny_vilt(), vilt_inputs(), deterministic
    mask = torch.ones(3, 32, 32)
    mask[1:, 16:] = 0
    with tokenreduce.attach(model, name, **options):
        whole = run(model, inputs).logits
        assert_close(run(model, {**inputs, "pixel_mask": mask}).logits[:1], whole[:1])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize("mask", [False, True])
def test_patches_reach_the_blocks_in_raster_order(height, width, mask, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt("ViltModel"), vilt_inputs(height=height, width=width)
    keep = torch.ones(3, height // 8, width // 8, dtype=torch.bool)
    if mask:
        inputs["pixel_mask"] = torch.ones(3, height, width, dtype=torch.long)
        inputs["pixel_mask"][1, 16:] = 0
        inputs["pixel_mask"][2, :, 24:] = 0
        keep[1, 2:], keep[2, :, 3:] = False, False
    with tokenreduce.attach(model, "none"):
        tokens = run(model, inputs, output_hidden_states=True).hidden_states[0][:, TEXT:]
    parts = model.embeddings
    with torch.no_grad():
        patches = parts.patch_embeddings(inputs["pixel_values"]) + parts.token_type_embeddings.weight[1][:, None, None]
        table = parts.position_embeddings[:, 1:].transpose(1, 2).unflatten(-1, (4, 4))
        for sample in range(3):
            high, wide = int(keep[sample, :, 0].sum()), int(keep[sample, 0].sum())
            grid = torch.nn.functional.interpolate(table, (high, wide), mode="bilinear", align_corners=True)
            expected = (patches[sample, :, :high, :wide] + grid[0]).flatten(1).T
            assert_close(tokens[sample, 1 : 1 + high * wide], expected)


def test_a_trace_names_patches_in_raster_order(tiny_vilt, vilt_inputs):
    """A patch that no other resembles is the last to merge: it shows up at its position in the image."""
    model, inputs = tiny_vilt(), vilt_inputs(batch=1)
    with tokenreduce.attach(model, "evit", keep=0.2, fuse=False, layers=[0], trace=True) as handle:
        run(model, inputs)
        plain = handle.last.trace.stream("image")
        flipped = {**inputs, "pixel_values": inputs["pixel_values"].roll(8, dims=3)}
        run(model, flipped)
        moved = handle.last.trace.stream("image")
    assert (plain >= 0).sum() == (moved >= 0).sum() == 4
    with tokenreduce.attach(model, "evit", keep=0.2, fuse=False, layers=[0], trace=True) as handle:
        run(model, inputs)
        assert torch.equal(handle.last.trace.stream("image"), plain)


@pytest.mark.parametrize("masked_image", [False, True])
def test_fewer_patches_than_the_image_has(masked_image, crossing, tiny_vilt, vilt_inputs):
    model, (name, options) = tiny_vilt(max_image_length=9), crossing
    inputs = vilt_inputs(sizes=[(32, 32), (24, 16), (16, 16)] if masked_image else None)
    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        assert run(model, inputs).logits.isfinite().all()
        assert next(row.tokens_in for row in handle.last.sites if row.stream != "text") in (10, 10 + TEXT)


@pytest.mark.parametrize("sizes", [None, [(32, 32), (24, 16), (16, 16)]], ids=["whole", "masked"])
@pytest.mark.parametrize("limit", [1, 9, 16, 50])
def test_zero_budget_with_a_limit_on_patches(sizes, limit, tiny_vilt, vilt_inputs, assert_close):
    """Where the original draws patches, it draws the same ones from the same state of torch's generator."""
    model, inputs = tiny_vilt(max_image_length=limit), vilt_inputs(sizes=sizes)
    torch.manual_seed(2)
    expected = run(model, inputs).logits
    with tokenreduce.attach(model, "none"):
        torch.manual_seed(2)
        assert_close(run(model, inputs).logits, expected)


SIZES = [(48, 24), (16, 16), (8, 8), (8, 40), (64, 48), (37, 45)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_zero_budget_on_other_image_sizes(height, width, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt(), vilt_inputs(height=height, width=width)
    expected = run(model, inputs).logits
    with tokenreduce.attach(model, "none"):
        assert_close(run(model, inputs).logits, expected)
        mask = torch.ones(3, height, width)
        assert_close(run(model, {**inputs, "pixel_mask": mask}).logits, expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_other_image_sizes(height, width, crossing, tiny_vilt, vilt_inputs):
    model, inputs, (name, options) = tiny_vilt(), vilt_inputs(height=height, width=width), crossing
    with tokenreduce.attach(model, name, layers=[0, 1, 2, 3], **options) as handle:
        assert run(model, inputs).logits.isfinite().all()
        begin = TEXT + 1 + (height // 8) * (width // 8)
        assert sum(row.tokens_in for row in handle.last.sites if row.layer == 0) == begin


@pytest.mark.parametrize("text", [1, 2, 40])
def test_other_text_lengths(text, crossing, tiny_vilt, vilt_inputs):
    model, inputs, (name, options) = tiny_vilt("ViltForMaskedLM"), vilt_inputs(text=text), crossing
    with tokenreduce.attach(model, name, layers=[0, 1, 2, 3], **options):
        logits = run(model, inputs).logits
    assert logits.shape == (3, text, 99)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("text", "size"), [(40, 16), (7, 32)])
def test_merging_over_both_modalities_in_every_block(text, size, tiny_vilt, vilt_inputs):
    """Long text and few patches: the image runs out, the text does not."""
    options = {"modality_aware": False, "prune": 0, "merge": 0.9, "text_merge": 0.9, "layers": [0, 1, 2, 3]}
    model, inputs = tiny_vilt("ViltForMaskedLM"), vilt_inputs(text=text, height=size, width=size)
    with tokenreduce.attach(model, "pumer", trace=True, **options) as handle:
        assert run(model, inputs).logits.shape == (3, text, 99)
        counts = [n for row in handle.last.sites for n in (row.tokens_in, row.tokens_out)]
        assert all(n > 0 for n in counts)
        assert counts == sorted(counts, reverse=True)
        trace = handle.last.trace
    assert trace.source.min() >= 0
    for sample in trace:
        assert sorted(token for members in sample for token in members) == list(range(text + 1 + (size // 8) ** 2))


def test_joint_merging_keeps_every_image_token_in_the_output(tiny_vilt, vilt_inputs, assert_close):
    """With the text put back in front, what follows it is what became of the image, none of it lost."""
    model, inputs = tiny_vilt("ViltModel"), vilt_inputs(batch=1)
    options = {"modality_aware": False, "prune": 0}
    with tokenreduce.attach(model, "pumer", restore=False, trace=True, **options) as handle:
        tokens = run(model, inputs).last_hidden_state[0]
        members = handle.last.trace[0]
    with tokenreduce.attach(model, "pumer", **options):
        image = run(model, inputs).last_hidden_state[0, TEXT:]
    for end, tokens_in in enumerate(members):
        if all(token >= TEXT for token in tokens_in):  # a final token of the image alone
            assert (image - tokens[end]).abs().amax(dim=1).min() < 1e-5, f"final token {end} is missing"


def test_nlvr2_with_two_images(crossing, tiny_vilt, vilt_inputs, assert_close):
    model, (name, options) = tiny_vilt("ViltForImagesAndTextClassification"), crossing
    inputs = vilt_inputs(pairs=True, lengths=[7, 4, 2], sizes=[(32, 32), (16, 24), (32, 8)])
    plain = run(model, inputs).logits
    with tokenreduce.attach(model, name, **options) as handle:
        logits = run(model, inputs).logits
        assert logits.shape == plain.shape
        assert not torch.equal(logits, plain)
        assert_close(run(model, inputs).logits, logits, 1e-6)
        assert handle.last.sites[-1].tokens_out < 17
        swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
        assert not torch.equal(run(model, swapped).logits, logits)


def test_nlvr2_with_given_image_embeddings(tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt("ViltForImagesAndTextClassification"), vilt_inputs()
    inputs.pop("pixel_values")
    inputs["image_embeds"], inputs["pixel_mask"] = torch.randn(3, 2, 9, 32), torch.ones(3, 2, 3, 3)
    expected = run(model, inputs).logits
    with tokenreduce.attach(model, "none"):
        assert_close(run(model, inputs).logits, expected)


def test_word_embeddings_given(crossing, tiny_vilt, vilt_inputs, assert_close):
    model, inputs, (name, options) = tiny_vilt(), vilt_inputs(lengths=[7, 4, 2]), crossing
    given = {key: value for key, value in inputs.items() if key != "input_ids"}
    with torch.no_grad():
        given["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"])
    with tokenreduce.attach(model, name, **options):
        assert_close(run(model, given).logits, run(model, inputs).logits)


def test_image_embeddings_given(crossing, tiny_vilt, vilt_inputs, assert_close):
    model, inputs, (name, options) = tiny_vilt(), vilt_inputs(), crossing
    with torch.no_grad():
        patches = model.vilt.embeddings.patch_embeddings(inputs["pixel_values"]).flatten(2).transpose(1, 2)
        place = model.vilt.embeddings.position_embeddings
        front = model.vilt.embeddings.cls_token + place[:, :1]
        embeddings = torch.cat([front.expand(3, -1, -1), patches + place[:, 1:]], dim=1)
    given = {"input_ids": inputs["input_ids"], "image_embeds": embeddings, "pixel_mask": torch.ones(3, 17)}
    with tokenreduce.attach(model, name, **options):
        assert_close(run(model, given).logits, run(model, inputs).logits)


def test_wrong_calls_fail_as_they_do_without_a_reducer(tiny_vilt, vilt_inputs):
    model, inputs = tiny_vilt(), vilt_inputs()
    wrong = [
        {**inputs, "image_embeds": torch.randn(3, 9, 32)},
        {**inputs, "inputs_embeds": torch.randn(3, TEXT, 32)},
        {"input_ids": inputs["input_ids"]},
        {"pixel_values": inputs["pixel_values"]},
        {**inputs, "pixel_values": inputs["pixel_values"][:2]},
        {**inputs, "pixel_values": torch.randn(3, 1, 32, 32)},
    ]
    for call in wrong:
        with pytest.raises(ValueError) as plain:  # noqa: PT011
            run(model, call)
        with tokenreduce.attach(model, "pumer"), pytest.raises(ValueError) as attached:  # noqa: PT011
            run(model, call)
        assert str(attached.value) == str(plain.value)


def test_hidden_states_shrink_with_the_tokens(reducer, tiny_vilt, vilt_inputs):
    model, inputs, (name, options) = tiny_vilt("ViltModel"), vilt_inputs(), reducer
    plain = run(model, inputs, output_hidden_states=True)
    with tokenreduce.attach(model, name, **options) as handle:
        output = run(model, inputs, output_hidden_states=True)
        rows = handle.last.sites
    assert len(output.hidden_states) == len(plain.hidden_states) == 5
    lengths = [state.shape[1] for state in output.hidden_states]
    assert lengths[0] == TEXT + 17
    for layer in range(4):
        removed = sum(row.tokens_in - row.tokens_out for row in rows if row.layer == layer)
        assert lengths[layer + 1] == lengths[layer] - removed
    assert lengths[-1] < lengths[0]


def test_hidden_states_under_a_head(tiny_vilt, vilt_inputs):
    model, inputs = tiny_vilt("ViltForQuestionAnswering"), vilt_inputs()
    with tokenreduce.attach(model, "pumer"):
        assert len(run(model, inputs, output_hidden_states=True).hidden_states) == 5
        model.config.output_hidden_states = True
        assert len(run(model, inputs).hidden_states) == 5


def test_attention_matrices_are_refused(tiny_vilt, vilt_inputs):
    model, inputs = tiny_vilt(), vilt_inputs()
    with tokenreduce.attach(model, "pumer"):
        expected = run(model, inputs).logits
        with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="output_attentions"):
            run(model, inputs, output_attentions=True)
        model.config.output_attentions = True
        with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="detach"):
            run(model, inputs)
        model.config.output_attentions = False
        assert torch.equal(run(model, inputs).logits, expected)
    assert run(model, inputs, output_attentions=True).attentions[0].shape == (3, 4, 24, 24)


@pytest.mark.parametrize("kind", ["ViltModel", "ViltForQuestionAnswering", "ViltForMaskedLM"])
@pytest.mark.parametrize("hidden", [False, True])
def test_tuples_instead_of_a_dict(kind, hidden, tiny_vilt, vilt_inputs, tensors_of, assert_close):
    model, inputs = tiny_vilt(kind), vilt_inputs()
    plain = run(model, inputs, return_dict=False, output_hidden_states=hidden)
    with tokenreduce.attach(model, "pumer"):
        output = run(model, inputs, return_dict=False, output_hidden_states=hidden)
        expected = run(model, inputs, output_hidden_states=hidden)
    assert isinstance(output, tuple)
    assert len(output) == len(plain)
    for one, other in zip(tensors_of(output), tensors_of(expected), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize(("kind", "width"), [("ViltForMaskedLM", 99), ("ViltForTokenClassification", 5)])
def test_heads_over_text_get_every_text_token(kind, width, crossing, tiny_vilt, vilt_inputs):
    model, inputs, (name, options) = tiny_vilt(kind), vilt_inputs(lengths=[7, 4, 2]), crossing
    plain = run(model, inputs).logits
    with tokenreduce.attach(model, name, **options) as handle:
        logits = run(model, inputs).logits
        rows = handle.last.sites
    assert logits.shape == plain.shape == (3, TEXT, width)
    assert logits.isfinite().all()
    assert (logits[0, 0] != logits[0, 1]).any()
    assert sum(r.tokens_out for r in rows if r.layer == rows[-1].layer) < TEXT + 17


def test_restored_text_is_what_became_of_each_token(tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt("ViltModel"), vilt_inputs()
    with tokenreduce.attach(model, "pumer", text_merge=0.5, restore=False, trace=True) as handle:
        tokens = run(model, inputs).last_hidden_state
        source = handle.last.trace.stream("text")
    with tokenreduce.attach(model, "pumer", text_merge=0.5):
        text = run(model, inputs).last_hidden_state[:, :TEXT]
    assert len(source[0].unique()) < TEXT
    assert_close(text, tokens.gather(1, source.unsqueeze(-1).expand(-1, -1, 32)))


def test_losses(tiny_vilt, vilt_inputs):
    inputs = vilt_inputs(lengths=[7, 4, 2])
    labels = {
        "ViltForQuestionAnswering": torch.rand(3, 5),
        "ViltForMaskedLM": torch.randint(0, 99, (3, TEXT)),
        "ViltForTokenClassification": torch.randint(0, 5, (3, TEXT)),
    }
    for kind, target in labels.items():
        with tokenreduce.attach(tiny_vilt(kind), "pumer") as handle:
            assert run(handle.model, inputs, labels=target).loss.isfinite()


def test_positional_arguments(tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt(), vilt_inputs(lengths=[7, 4, 2])
    kinds = torch.zeros_like(inputs["input_ids"])
    with torch.no_grad(), tokenreduce.attach(model, "pumer"):
        expected = model(**inputs, token_type_ids=kinds).logits
        got = model(inputs["input_ids"], inputs["attention_mask"], kinds, inputs["pixel_values"]).logits
        assert_close(got, expected, 1e-6)
        bare = model.vilt(inputs["input_ids"], inputs["attention_mask"], kinds, inputs["pixel_values"])
        assert_close(model.classifier(bare.pooler_output), expected, 1e-6)


def test_one_block_called_alone_is_refused(tiny_vilt, vilt_inputs):
    model = tiny_vilt()
    with tokenreduce.attach(model, "pumer"), pytest.raises(tokenreduce.errors.UnsupportedCallError, match="detach"):
        model.vilt.encoder.layer[0](torch.randn(1, 5, 32))
