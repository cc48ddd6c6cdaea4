"""Inputs for pictures of another size, and grids of positions."""

import pytest
import torch
from torch.nn import functional as F

from tokenreduce.backbones import check_size, resize_grid
from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce.tasks.inputs import image_size, resize_inputs


def test_size_of_the_pictures():
    pixels, pairs = torch.randn(2, 3, 24, 32), torch.randn(2, 2, 1, 16, 8)
    assert image_size({"input_ids": torch.ones(2, 5), "pixel_values": pixels}) == (24, 32)
    assert image_size((pixels,)) == (24, 32)
    assert image_size((pixels, pairs)) == image_size((pairs, pixels)) == (16, 8)
    assert image_size((torch.zeros(2, 1, 7, 7), pixels)) == (24, 32)
    assert image_size(({"image": [pixels], "text_ids": torch.ones(2, 5)},)) == (24, 32)
    for none in ({}, (), (torch.ones(2, 3, 24, 32, dtype=torch.uint8),), (torch.randn(2, 5, 24, 32),), ("text", None)):
        assert image_size(none) is None


@pytest.mark.parametrize("size", [(12, 20), (48, 40), (24, 16)])
def test_pictures_masks_and_the_rest(size):
    pixels, ids = torch.randn(2, 3, 24, 32), torch.ones(2, 24, dtype=torch.long)
    inputs = {"pixel_values": pixels, "input_ids": ids, "pixel_mask": torch.ones(2, 24, 32).bool(), "names": ["a", "b"]}
    got = resize_inputs(inputs, *size)
    expected = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    assert torch.equal(got["pixel_values"], expected)
    assert got["pixel_mask"].shape == (2, *size) and got["pixel_mask"].dtype == torch.bool and got["pixel_mask"].all()
    assert got["input_ids"] is ids and got["names"] == ["a", "b"] and list(got) == list(inputs)
    assert inputs["pixel_values"] is pixels


def test_pairs_and_positional_arguments():
    pairs = torch.randn(2, 2, 3, 8, 8)
    other = torch.randn(2, 8, 8)
    first, second, flag = resize_inputs((pairs, other, True), 4, 6)
    assert first.shape == (2, 2, 3, 4, 6) and second is other and flag is True
    assert torch.equal(first[:, 1], resize_inputs((pairs[:, 1],), 4, 6)[0])


def test_the_same_size_changes_nothing():
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}
    assert resize_inputs(inputs, 8, 8) is inputs
    text = {"input_ids": torch.ones(2, 8, 8, dtype=torch.long)}
    assert resize_inputs(text, 4, 4) is text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_stay(dtype):
    pixels = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    (got,) = resize_inputs((pixels.to(dtype),), 4, 4)
    assert got.dtype == dtype
    (exact,) = resize_inputs((pixels,), 4, 4)
    assert torch.allclose(got.double(), exact, atol=3e-2)


def test_a_mask_keeps_its_shape():
    mask = torch.zeros(1, 2, 8, 8, dtype=torch.int32)
    mask[..., :4, :6] = 1
    inputs = resize_inputs({"pixel_values": torch.randn(1, 2, 3, 8, 8), "pixel_mask": mask}, 4, 16)
    expected = torch.zeros(1, 2, 4, 16, dtype=torch.int32)
    expected[..., :2, :12] = 1
    assert torch.equal(inputs["pixel_mask"], expected)


def test_nested_inputs():
    batch = {"image": [torch.randn(2, 3, 8, 8)], "text": (torch.ones(2, 3), "x")}
    (got,) = resize_inputs((batch,), 4, 4)
    assert got["image"][0].shape == (2, 3, 4, 4) and got["text"][0] is batch["text"][0]
    assert batch["image"][0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize("bad", [0, -4, 4.0, True, "8"])
def test_bad_sizes(bad):
    with pytest.raises(OptionError, match=r"height must be a whole number of pixels"):
        resize_inputs((torch.randn(1, 3, 8, 8),), bad, 8)


def test_sizes_of_whole_patches():
    assert check_size(32, 48, (8, 16)) == (4, 3)
    assert check_size(30, 30, (8, 8), (30, 30)) == (3, 3)
    with pytest.raises(OptionError, match=r"height must be a multiple of 8, the side of a patch, got 30; try 24 or 32"):
        check_size(30, 32, (8, 8), (30, 30))
    with pytest.raises(OptionError, match=r"got 5; try 8$"):
        check_size(32, 5, (8, 8))


def test_grids_of_positions():
    positions = torch.randn(2 + 6, 5)
    assert torch.equal(resize_grid(positions, (2, 3), (2, 3), antialias=True), positions)
    for antialias in (False, True):
        got = resize_grid(positions, (2, 3), (4, 5), antialias=antialias)
        assert got.shape == (22, 5) and torch.equal(got[:2], positions[:2])
    rows = torch.arange(4.0).repeat_interleave(4).unsqueeze(1)  # (16, 1), each row of the grid one value
    small = resize_grid(rows, (4, 4), (2, 2), antialias=True).unflatten(0, (2, 2))
    assert torch.allclose(small[:, 0], small[:, 1]) and small[0, 0] < small[1, 0]
    with pytest.raises(UnsupportedModelError, match="at least 3 x 3 position embeddings"):
        resize_grid(positions, (3, 3), (2, 2), antialias=True)
