"""ATS against the sheet written out: significance, its cumulative distribution, the tokens hit."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError


def hit_by_hand(significance, points):
    """The tokens in whose share of the distribution at least one of the points (2 i - 1) / (2 K) lies."""
    ends = list(itertools.accumulate(value / sum(significance) for value in significance))
    found = set()
    for i in range(1, points + 1):
        point = (2 * i - 1) / (2 * points)
        found.add(next(j for j, end in enumerate(ends) if end >= point - 1e-12))
    return sorted(found)


@pytest.fixture(scope="module")
def vit(tiny_vit):
    torch.manual_seed(0)
    model = tiny_vit(img_size=32, depth=3).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, torch.randn(3, 3, 32, 32, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("points", [2, 7, 12, 15])
def test_the_tokens_that_stay_are_those_hit(vit, points):
    model, x = vit
    seen = {}
    block = model.blocks[1]
    hook = block.attn.qkv.register_forward_hook(lambda module, args, out: seen.update(qkv=out))
    with tokenreduce.attach(model, "ats", keep=points, layers=[2], trace=True) as handle:
        model(x)
    hook.remove()
    hook = model.blocks[2].attn.qkv.register_forward_hook(lambda module, args, out: seen.update(qkv=out))
    model(x)  # dense, so the third block sees the same
    hook.remove()
    heads = model.blocks[2].attn.num_heads
    qkv = seen["qkv"].unflatten(-1, (3, heads, -1))
    query, key, value = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    attention = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1)[:, :, 0].sum(dim=1)
    norms = value.transpose(1, 2).flatten(2).norm(dim=-1)
    trace = handle.stacks["vision"].last.trace
    for row in range(3):
        wanted = hit_by_hand((attention * norms)[row, 1:].tolist(), points)
        kept = [members[0] - 1 for members in trace[row] if members and members != [0]]
        assert kept == wanted
        assert len(kept) <= points


@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=12), st.integers(1, 12))
def test_hits_are_the_sheet_written_out(significance, points):
    from tokenreduce_methods.ats.method import hits

    got = hits(torch.tensor([significance], dtype=torch.float64), torch.tensor([points]))
    ends = list(itertools.accumulate(value / sum(significance) for value in significance))
    near = min(abs(end - (2 * i - 1) / (2 * points)) for end in ends for i in range(1, points + 1))
    if near > 1e-9:  # else rounding decides
        assert got[0].nonzero()[:, 0].tolist() == hit_by_hand(significance, points)


@torch.no_grad()
def test_like_tokens_all_stay_and_one_that_stands_out_stays_with_few():
    from tokenreduce_methods.ats.method import hits

    even, steep = torch.ones(8), torch.tensor([0.001] * 7 + [1.0])
    counts = hits(torch.stack([even, steep]), torch.tensor([8, 8])).sum(dim=1)
    assert counts.tolist() == [8, 1]


def test_options(vit):
    with pytest.raises(OptionError, match="saliency must be one of"):
        tokenreduce.attach(vit[0], "ats", saliency="colour")


def test_a_backbone_without_a_class_token_is_refused_with_a_hint(tiny_vit):
    model = tiny_vit(img_size=32, depth=2, class_token=False, global_pool="avg")
    with pytest.raises(UnfitReducerError, match="saliency='key-norm'"):
        tokenreduce.attach(model, "ats")
