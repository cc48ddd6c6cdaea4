"""ToFu: what MLERP preserves, in which layers pairs merge, and options. Axes: B batch, N tokens, C width."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.methods import Reduction, Streams
from tokenreduce_methods.tofu.method import ToFu
from tokenreduce_methods.tofu.mlerp import mlerp


def random_merge(batch, length, fold, seed, *, drop=False):
    """A reduction to means with ``fold`` tokens folded into random others, and tokens (B, N, 3) for it."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, length, generator=generator).argsort(dim=1)
    keep, source = order[:, fold:], order[:, :fold]
    target = torch.randint(-1 if drop else 0, length - fold, (batch, fold), generator=generator)
    size = torch.randint(1, 5, (batch, length), generator=generator).double()
    reduction = Reduction(
        keep,
        source,
        target,
        length=length,
        keep_weight=size.gather(1, keep),
        weight=size.gather(1, source),
        partial=drop,
    )
    return reduction, torch.randn(batch, length, 3, generator=generator).double()


merges = st.builds(
    lambda length, fold, seed, drop: random_merge(2, length, min(fold, length - 1), seed, drop=drop),
    st.integers(2, 12),
    st.integers(1, 11),
    st.integers(0, 99),
    st.booleans(),
)
laws = settings(max_examples=60, deadline=None)


def test_mlerp_by_hand():
    x = torch.tensor([[[3.0, 0.0], [0.0, 3.0], [0.0, 5.0]]], dtype=torch.float64)
    merge = Reduction(torch.tensor([[1, 0]]), torch.tensor([[2]]), torch.tensor([[1]]), length=3)
    mean = torch.tensor([1.5, 2.5], dtype=torch.float64)
    wanted = torch.stack([x[0, 1], mean / mean.norm() * 5])
    torch.testing.assert_close(mlerp(merge, x).apply(x)[0], wanted)


@laws
@given(merges)
def test_mlerp_points_as_the_mean_and_is_as_long_as_the_longest(case):
    reduction, x = case
    got, mean, ends = mlerp(reduction, x).apply(x), reduction.apply(x), reduction.assignment()
    for row in range(len(x)):
        for place in range(reduction.count):
            members = x[row][ends[row] == place]
            if len(members) == 1:
                assert torch.equal(got[row, place], members[0])
                continue
            torch.testing.assert_close(got[row, place].norm(), members.norm(dim=-1).max())
            cosine = torch.cosine_similarity(got[row, place], mean[row, place], dim=0)
            torch.testing.assert_close(cosine, torch.ones_like(cosine))


@laws
@given(merges)
def test_mlerp_moves_tokens_as_the_mean_does(case):
    reduction, x = case
    preserved = mlerp(reduction, x)
    size = torch.ones(x.shape[:2])
    assert torch.equal(preserved.assignment(), reduction.assignment())
    assert torch.equal(preserved.add_up(size), reduction.add_up(size))
    assert preserved.drops == reduction.drops
    side = torch.randn(*x.shape[:2], 2, dtype=torch.float64)
    torch.testing.assert_close(preserved.average(side), reduction.average(side))  # keys of a merged token: the mean
    y = preserved.apply(x)
    back, ends = preserved.restore(y), reduction.assignment()
    for row in range(len(x)):
        for token, end in enumerate(ends[row].tolist()):
            assert torch.equal(back[row, token], y[row, end] if end >= 0 else torch.zeros(3, dtype=torch.float64))


@laws
@given(merges, st.integers(0, 9))
def test_mlerp_composes(case, seed):
    first, x = mlerp(*case), case[1]
    y = first.apply(x)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(2, first.count, generator=generator).argsort(dim=1)
    fold = first.count // 2
    target = torch.randint(0, first.count - fold, (2, fold), generator=generator)
    later = Reduction(order[:, fold:], order[:, :fold], target, length=first.count)
    later = mlerp(later, y) if later.source is not None else later
    torch.testing.assert_close(first.then(later).apply(x), later.apply(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mlerp_of_tokens_that_cancel_or_are_zero_is_finite(dtype):
    x = torch.tensor([[[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0]]], dtype=dtype, requires_grad=True)
    merge = Reduction(torch.tensor([[0, 2]]), torch.tensor([[1, 3]]), torch.tensor([[0, 1]]), length=4)
    y = mlerp(merge, x).apply(x)
    y.float().sum().backward()
    assert y.dtype == dtype and y.isfinite().all() and x.grad.isfinite().all()


def reduction_of(method, stream, site, layer, depth=12):
    x = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(0))
    streams = Streams({"image": stream(x, keys=x, prefix=1)}, main="image")
    return method.reduce_streams(streams, site(layer, layer, depth, depth))["image"], x


def test_early_layers_drop_and_later_ones_merge_the_same_tokens(stream, site):
    method = ToFu(r=3)
    early, x = reduction_of(method, stream, site, 5)
    late, _ = reduction_of(method, stream, site, 6)
    assert early.source is None and early.drops and late.source.shape == (2, 3) and not late.drops
    assert torch.equal(early.keep, late.keep)
    assert torch.equal(early.apply(x), early.take(x))  # what stays is as it was
    assert [method.merges(site(layer, depth=7)) for layer in range(7)] == [False] * 3 + [True] * 4
    assert ToFu(merge_from=0).merges(site(0)) and not ToFu(merge_from=12).merges(site(11))


def test_a_merged_token_is_longer_than_the_mean(stream, site):
    long, x = reduction_of(ToFu(r=3), stream, site, 6)
    short, _ = reduction_of(ToFu(r=3, preserve_norm=False), stream, site, 6)
    merged = short.add_up(torch.ones(2, 11)) > 1
    assert (long.apply(x)[merged].norm(dim=-1) > short.apply(x)[merged].norm(dim=-1)).all()
    assert torch.equal(long.apply(x)[~merged], short.apply(x)[~merged])


@torch.no_grad()
def test_dropped_tokens_do_not_count_as_members(tiny_vit, images):
    model, x = tiny_vit(), images()
    with tokenreduce.attach(model, "tofu", r=3, layers=[0, 3], trace=True) as handle:
        model(x)
        trace = handle.last.trace
    assert (trace.source < 0).sum(dim=1).tolist() == [3] * len(x)  # of the first layer; none of the last
    assert trace.size.sum(dim=1).tolist() == [14.0] * len(x)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"r": -1}, "r"),
        ({"merge_from": -1}, "merge_from must be a non-negative integer or None"),
        ({"merge_from": 2.0}, "merge_from"),
        ({"merge_from": True}, "merge_from"),
        ({"preserve_norm": None}, "preserve_norm must be True or False"),
        ({"proportional_attention": "no"}, "proportional_attention"),
    ],
)
def test_options_out_of_range(options, word):
    with pytest.raises(OptionError, match=word):
        ToFu(**options)
