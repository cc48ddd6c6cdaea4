"""Token counts are integers that follow from the shape of the input alone."""

from __future__ import annotations

import pytest
import torch

import tokenreduce

TEXT = 7


def numbers(handle):
    rows = handle.last.sites
    for row in rows:
        assert type(row.tokens_in) is int
        assert type(row.tokens_out) is int
        assert type(row.layer) is int
        assert 0 < row.tokens_out <= row.tokens_in
    return [(row.layer, row.stream, row.tokens_in, row.tokens_out) for row in rows]


CONTENTS = {
    "noise": lambda x: x,
    "zeros": torch.zeros_like,
    "equal patches": lambda x: x[..., :8, :8].repeat(1, 1, 4, 4),
    "huge": lambda x: 1e4 * x,
    "one bright pixel": lambda x: torch.zeros_like(x).index_fill(3, torch.tensor([5]), 100.0),
}


@pytest.mark.parametrize("batch", [1, 5])
def test_counts_on_a_vit_do_not_depend_on_the_image(batch, reducer, tiny_vit, images):
    model, (name, options) = tiny_vit(), reducer
    with tokenreduce.attach(model, name, **options) as handle, torch.no_grad():
        model(images())
        expected = numbers(handle)
        for change in CONTENTS.values():
            output = model(change(images(batch, seed=3)))
            assert output.isfinite().all()
            assert numbers(handle) == expected


def test_counts_on_a_vilt_do_not_depend_on_words_pixels_or_masks(crossing, tiny_vilt, vilt_inputs):
    model, (name, options) = tiny_vilt(), crossing
    with tokenreduce.attach(model, name, **options) as handle, torch.no_grad():
        model(**vilt_inputs())
        expected = numbers(handle)
        for change in CONTENTS.values():
            inputs = vilt_inputs(2, seed=4)
            output = model(**{**inputs, "pixel_values": change(inputs["pixel_values"])}).logits
            assert output.isfinite().all()
            assert numbers(handle) == expected
        model(**vilt_inputs(lengths=[1, 4, 7], sizes=[(32, 32), (8, 8), (16, 32)]))
        assert numbers(handle) == expected


def test_published_counts_of_pumer_on_vilt(tiny_vilt, vilt_inputs):
    """ViLT at 384 pixels, patches of 32: 145 image tokens, 32 text tokens, three reducers."""
    model = tiny_vilt(num_hidden_layers=12, hidden_size=8, num_attention_heads=2, image_size=48, patch_size=4)
    with tokenreduce.attach(model, "pumer") as handle, torch.no_grad():
        model(**vilt_inputs(1, text=32, height=48, width=48))
        rows = handle.last.sites
    assert [site.layer for site in handle.sites] == [2, 5, 8]
    assert [row.tokens_in for row in rows if row.stream == "image"] == [145, 87, 52]
    assert [row.tokens_out for row in rows if row.stream == "image"] == [87, 52, 31]
    assert [row.tokens_out for row in rows if row.stream == "text"] == [26, 21, 17]


def test_published_counts_of_tome_on_a_vit(tiny_vit, images):
    model = tiny_vit(depth=12, embed_dim=8, num_heads=2, img_size=56, patch_size=4)
    x = images(1, 56, 56)
    with torch.no_grad():
        with tokenreduce.attach(model, "tome", r=13) as handle:
            model(x)
            assert [row.tokens_out for row in handle.last.sites] == list(range(184, 40, -13))
        with tokenreduce.attach(model, "tome", r=16) as handle:
            model(x)
            assert [row.tokens_out for row in handle.last.sites][-3:] == [37, 21, 11]
        with tokenreduce.attach(model, "tome", r=(16, -1.0)) as handle:
            model(x)
            removed = [row.tokens_in - row.tokens_out for row in handle.last.sites]
            assert removed == [32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0]


def test_published_counts_of_evit_on_a_vit(tiny_vit, images):
    """DeiT at keep 0.7 in blocks 3, 6, 9: 138 + 1 fused, then of 139 ..."""
    model = tiny_vit(depth=12, embed_dim=8, num_heads=2, img_size=56, patch_size=4)
    with tokenreduce.attach(model, "evit", keep=0.7) as handle, torch.no_grad():
        model(images(1, 56, 56))
    assert [site.layer for site in handle.sites] == [3, 6, 9]
    assert [row.tokens_out for row in handle.last.sites] == [1 + 138 + 1, 1 + 98 + 1, 1 + 70 + 1]


def test_nothing_is_read_back_from_the_device(reducer, tiny_vit, tiny_vilt, images, vilt_inputs):
    """With no data behind the tensors (fake tensors), a pass still runs: no count is read from a value."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    name, options = reducer
    for model, inputs in [
        (tiny_vit(), {"x": images()}),
        (tiny_vit(global_pool="avg"), {"x": images()}),
        (tiny_vilt(), {**vilt_inputs(), "attention_mask": torch.ones(3, TEXT)}),
    ]:
        with tokenreduce.attach(model, name, **options) as handle, torch.no_grad():
            model(**inputs)
            expected = numbers(handle)
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                output = model(**{key: mode.from_tensor(value) for key, value in inputs.items()})
            assert (output if isinstance(output, torch.Tensor) else output.logits).shape[0] == len(
                inputs[next(iter(inputs))]
            )
            assert numbers(handle) == expected
