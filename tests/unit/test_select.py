"""ops.selection and Tokens.keep_top. Axes: B batch, N tokens, K kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.errors import UnsupportedCallError
from tokenreduce.methods import Tokens
from tokenreduce.ops import others, top


@st.composite
def scores(draw):
    """(score (B, N), keep, prefix, real): distinct scores, padding anywhere behind the prefix, or none."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 10))
    prefix = draw(st.integers(0, min(3, length)))
    keep = draw(st.integers(prefix, length))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    score = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch)]).float() - length / 2
    real = None
    if draw(st.booleans()):
        real = torch.rand(batch, length, generator=generator) < 0.6
        real[:, :prefix] = True
    return score, keep, prefix, real


def slow_top(score, keep, prefix, real):
    """The kept indices of one row, prefix first, then by falling score with padding last."""
    rest = list(range(prefix, len(score)))
    rest.sort(key=lambda i: (not real[i], -score[i]))
    return list(range(prefix)) + rest[: keep - prefix]


@given(scores())
def test_top_keeps_the_prefix_and_the_highest_scores(case):
    score, keep, prefix, real = case
    by_score = top(score, keep, prefix=prefix, real=real, order="score")
    by_place = top(score, keep, prefix=prefix, real=real)
    assert by_score.shape == by_place.shape == (len(score), keep)
    for b in range(len(score)):
        row = [True] * score.shape[1] if real is None else real[b].tolist()
        wanted = slow_top(score[b].tolist(), keep, prefix, row)
        count = prefix + sum(row[prefix:])  # real tokens stand in order; which padding fills up does not matter
        assert by_score[b].tolist()[:count] == wanted[:count]
        assert by_place[b].tolist() == sorted(by_score[b].tolist())
        assert len(set(by_place[b].tolist())) == keep


@given(scores())
def test_padding_goes_before_any_real_token(case):
    score, keep, prefix, real = case
    if real is None:
        return
    kept = top(score.masked_fill(~real, float("inf")), keep, prefix=prefix, real=real)
    for b in range(len(score)):
        chosen = real[b][kept[b]]
        assert int(chosen.sum()) == min(keep, int(real[b].sum()))


@given(scores())
def test_others_are_what_is_not_kept_in_order(case):
    score, keep, prefix, real = case
    kept = top(score, keep, prefix=prefix, real=real, order="score")
    left = others(kept, score.shape[1])
    for b in range(len(score)):
        assert left[b].tolist() == sorted(set(range(score.shape[1])) - set(kept[b].tolist()))


def test_the_prefix_stays_whatever_it_scores():
    score = torch.tensor([[float("-inf"), -5.0, 1.0, 3.0, 2.0]])
    assert top(score, 3, prefix=2).tolist() == [[0, 1, 3]]
    assert top(score, 4, prefix=2, order="score").tolist() == [[0, 1, 3, 4]]


def test_keeping_all_or_only_the_prefix():
    score = torch.randn(2, 4)
    assert top(score, 4).tolist() == [[0, 1, 2, 3]] * 2
    assert top(score, 1, prefix=1).tolist() == [[0]] * 2
    assert others(top(score, 4), 4).shape == (2, 0)


def test_no_gradient_flows_through_the_choice():
    score = torch.randn(1, 5, requires_grad=True)
    kept = top(score, 2)
    assert not kept.is_floating_point()
    assert torch.equal(score, score.detach())  # the caller's score is left as it was, padding or not
    before = score.detach().clone()
    top(score, 2, real=torch.tensor([[True, False, True, True, True]]))
    assert torch.equal(score.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores(dtype):
    score = torch.tensor([[0.1, 0.9, 0.5, 0.7]], dtype=dtype)
    real = torch.tensor([[True, True, True, False]])
    assert top(score, 2).tolist() == [[1, 3]]
    assert top(score, 2, real=real).tolist() == [[1, 2]]


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="order"):
        top(torch.randn(1, 4), 2, order="falling")


@given(scores())
def test_keep_top_is_a_plain_selection(case):
    score, keep, prefix, real = case
    x = torch.randn(*score.shape, 3)
    tokens = Tokens(x, None, real, prefix)
    assert (tokens.count, tokens.removable) == (score.shape[1], score.shape[1] - prefix)
    for order in ("original", "score"):
        reduction = tokens.keep_top(score, remove=score.shape[1] - keep, order=order)
        kept = top(score, keep, prefix=prefix, real=real, order=order)
        assert reduction.source is None
        assert (reduction.length, reduction.count) == (score.shape[1], keep)
        assert torch.equal(reduction.keep, kept)
        assert torch.equal(reduction.apply(x)[:, :prefix], x[:, :prefix])


def test_keep_top_of_tokens_that_do_not_exist_is_refused():
    tokens = Tokens(torch.randn(2, 5, 3), prefix=1)
    for remove in (5, -1):
        with pytest.raises(UnsupportedCallError, match=f"remove must be 0 to 4 of 5 tokens, got {remove}"):
            tokens.keep_top(torch.randn(2, 5), remove=remove)
    with pytest.raises(UnsupportedCallError, match=r"score must be \(2, 5\), got \(2, 4\)"):
        tokens.keep_top(torch.randn(2, 4), remove=1)


def test_sizes_of_tokens():
    x, real = torch.randn(1, 3, 2), torch.tensor([[True, True, False]])
    size = torch.tensor([[2.0, 1.0, 0.0]])
    assert Tokens(x).sizes().tolist() == [[1.0, 1.0, 1.0]]
    assert Tokens(x, None, real).sizes().tolist() == [[1.0, 1.0, 0.0]]
    assert Tokens(x, size, real).sizes() is size
    assert Tokens(x.half()).sizes().dtype == torch.float32
    assert Tokens(x.double()).sizes().dtype == torch.float64
    assert torch.equal(Tokens(x).identity().apply(x), x)
