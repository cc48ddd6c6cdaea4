"""Masks of what is left, as every kernel takes them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.backbones import Kept
from tokenreduce.engine.causal.masks import physical_mask
from tokenreduce.errors import UnsupportedCallError


@st.composite
def cuts(draw):
    """Logical lengths, and what is left of the past and of this call in two samples."""
    past, length = draw(st.integers(0, 5)), draw(st.integers(1, 6))
    left = []
    for _ in range(2):
        old = sorted(draw(st.sets(st.integers(0, past - 1)))) if past else []
        new = sorted(draw(st.sets(st.integers(0, length - 1), min_size=1)))
        left.append((old, new))
    return past, length, left


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([[-1] * (longest - len(row)) + row for row in rows], dtype=torch.long)


@settings(max_examples=60, deadline=None)
@given(cuts(), st.sampled_from(["none", "bool", "additive", "flat"]), st.integers(0, 3))
def test_a_mask_is_the_logical_one_at_rows_and_columns(cut, form, window):
    past, length, left = cut
    total = past + length
    rows = padded([new for _, new in left])
    old = padded([old for old, _ in left]) if past else torch.empty(2, 0, dtype=torch.long)
    columns = torch.cat([old, torch.where(rows >= 0, rows + past, -1)], dim=1)
    ragged = bool((columns < 0).any())
    seen = torch.ones(total, total, dtype=torch.bool).tril()[past:]
    offset = min(window, past)
    logical = {
        "none": None,
        "bool": seen[None, None, :, offset:].expand(2, 1, -1, -1),
        "additive": torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None, :, offset:],
        "flat": torch.ones(2, total, dtype=torch.bool)[:, offset:],
    }[form]
    got = physical_mask(logical, rows, columns, total, past, ragged, form == "flat")
    if got is None:
        assert form == "none" and not ragged
        return
    hidden = offset if form != "none" else 0
    if got.ndim == 2:
        assert torch.equal(got, (columns >= hidden))
        return
    visible = got if got.dtype == torch.bool else got == 0
    for b in range(2):
        for i, row in enumerate(rows[b].tolist()):
            if row < 0:
                continue
            want = [hidden <= column <= past + row for column in columns[b].tolist()]
            assert visible[b, 0, i].tolist() == want


def test_kernels_that_take_flat_masks_get_them_only_where_there_is_padding():
    rows = torch.tensor([[-1, 0, 2], [0, 1, 2]])
    assert physical_mask(None, rows, rows, 3, 0, True, True).tolist() == [[False, True, True], [True, True, True]]
    assert physical_mask(None, rows[1:], rows[1:], 3, 0, False, True) is None


def test_a_cache_follows_what_is_done_to_it():
    kept = Kept(torch.tensor([[-1, 0, 3], [1, 2, 4]]), 5, True)
    grown = kept.grown(2)
    assert grown.columns().tolist() == [[-1, 0, 3, 5, 6], [1, 2, 4, 5, 6]]
    assert (grown.logical, grown.entries) == (7, 5)
    assert grown.places(2).tolist() == [[2, 3], [3, 4]]
    assert grown.cropped(2).columns().tolist() == kept.columns().tolist()
    with pytest.raises(UnsupportedCallError, match=r"2 tokens after a reduced prompt was to be cropped by 3"):
        grown.cropped(3)
    trimmed = grown.trimmed(4)
    assert trimmed.columns().tolist() == [[6], [6]] and trimmed.places(1).tolist() == [[3], [4]]
    assert trimmed.logical == 7
    assert grown.selected(torch.tensor([1, 1])).columns().tolist() == [[1, 2, 4, 5, 6]] * 2
    assert trimmed.repeated(2).places(1).tolist() == [[3], [3], [4], [4]]
