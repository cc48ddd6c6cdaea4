"""Laws of reductions by which samples keep different numbers of tokens: each sample is as it would be alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.backbones.layout import Layout, Segment
from tokenreduce.core.composition import combine, join
from tokenreduce.methods import Reduction, Tokens

from .test_reduction import chains, reductions

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def one(reduction, sample):
    """A sample of a reduction by itself, without what fills it up."""
    valid = torch.ones_like(reduction.keep, dtype=torch.bool) if reduction.valid is None else reduction.valid
    place = (valid[sample].cumsum(0) - 1)[None]
    row = slice(sample, sample + 1)
    target = reduction.target
    if target is not None:
        target = torch.where(target[row] >= 0, place.gather(1, target[row].clamp(min=0)), -1)
    return Reduction(
        reduction.keep[row][:, valid[sample]],
        None if reduction.source is None else reduction.source[row],
        target,
        length=reduction.length,
        keep_weight=None if reduction.keep_weight is None else reduction.keep_weight[row][:, valid[sample]],
        weight=None if reduction.weight is None else reduction.weight[row],
        mean=reduction.mean,
        fresh=reduction.fresh,
        partial=reduction.partial,
    )


def filled_up(reduction, generator):
    """The same with positions that stand for no token, at places and with tokens as they come."""
    return filling(reduction, generator)[0]


def filling(reduction, generator, extra=2):
    """The same; and (B, K) where each position went."""
    batch, count = reduction.keep.shape
    order = torch.stack([torch.randperm(count + extra, generator=generator) for _ in range(batch)])
    anything = torch.randint(0, reduction.length, (batch, extra), generator=generator)
    place = order.argsort(dim=1)

    def moved(side, filling):
        return None if side is None else torch.cat([side, filling], dim=1).gather(1, order)

    target = reduction.target
    if target is not None:
        target = torch.where(target >= 0, place.gather(1, target.clamp(min=0)), -1)
    filled = Reduction(
        moved(reduction.keep, anything),
        reduction.source,
        target,
        length=reduction.length,
        keep_weight=moved(reduction.keep_weight, torch.rand(batch, extra, generator=generator)),
        weight=reduction.weight,
        mean=reduction.mean,
        fresh=reduction.fresh,
        partial=reduction.partial,
        valid=order < count,
    )
    return filled, place[:, :count]


@st.composite
def ragged(draw, **options):
    """(reduction, the same without filling, generator)."""
    plain, generator = draw(reductions(**options))
    return filled_up(plain, generator), plain, generator


def check_same(reduction, plain, generator):
    """That a filled-up reduction does to each sample what the plain one does."""
    batch, length = reduction.keep.shape[0], reduction.length
    x, size = torch.randn(batch, length, 4, generator=generator), torch.rand(batch, length, generator=generator)
    valid, end, wanted = reduction.valid, reduction.assignment(), plain.assignment()
    assert reduction.counts().tolist() == valid.sum(dim=1).tolist() == plain.counts().tolist()
    assert (end < 0).equal(wanted < 0)
    assert valid.gather(1, end.clamp(min=0))[end >= 0].all()
    torch.testing.assert_close(reduction.restore(reduction.apply(x), x), plain.restore(plain.apply(x), x), **EXACT)
    assert not reduction.add_up(size)[~valid].any()
    assert not reduction.side(size, 1.0)[~valid].any()
    for b in range(batch):
        own = one(reduction, b)
        for name, side in (("apply", x), ("add_up", size), ("take", size), ("average", size)):
            torch.testing.assert_close(
                getattr(reduction, name)(side)[b][valid[b]], getattr(own, name)(side[b : b + 1])[0], **EXACT
            )
    detached = reduction.detach()
    assert detached.valid is reduction.valid


@given(ragged())
def test_what_fills_up_changes_no_sample(case):
    reduction, plain, generator = case
    check_same(reduction, plain, generator)


@given(chains(), st.booleans())
def test_then_of_filled_up_reductions(case, later_too):
    first, later, generator = case
    plain = first.then(later)
    filled, place = filling(first, generator)
    later = Reduction(
        torch.where(later.keep >= 0, place.gather(1, later.keep.clamp(min=0)), -1),
        None if later.source is None else place.gather(1, later.source),
        later.target,
        length=filled.count,
        keep_weight=later.keep_weight,
        weight=later.weight,
        mean=later.mean,
        fresh=later.fresh,
        partial=later.partial,
    )
    both = filled.then(filled_up(later, generator) if later_too else later)
    check_same(both, plain, generator)


def test_a_fold_of_what_fills_up_goes_nowhere():
    first = Reduction(torch.tensor([[0, 1, 1]]), length=2, valid=torch.tensor([[True, True, False]]))
    later = Reduction(torch.tensor([[0, 1]]), torch.tensor([[2]]), torch.tensor([[0]]), length=3)
    both = first.then(later)
    assert both.assignment().tolist() == [[0, 1]]
    torch.testing.assert_close(both.apply(torch.tensor([[[2.0], [5.0]]])), torch.tensor([[[2.0], [5.0]]]))


@given(ragged(batch=2), reductions(batch=2))
def test_join_keeps_what_is_valid(case, other):
    reduction, plain, generator = case
    other = other[0]
    whole = join([reduction, other])
    assert whole.valid[:, : reduction.count].equal(reduction.valid)
    assert whole.valid[:, reduction.count :].all()
    check_same(whole, join([plain, other]), generator)


def test_streams_that_alternate_have_their_filling_behind_them():
    layout = Layout([Segment("text", 1, 1), Segment("image", 4), Segment("text", 2)])
    keep = torch.tensor([[0, 1, 3], [2, 0, 0]])
    image = Reduction(keep, length=4, valid=torch.tensor([[True, True, True], [True, False, False]]))
    whole, left = combine(layout, {"image": image}, 2, torch.device("cpu"))
    assert whole.keep[0].tolist() == [0, 1, 2, 4, 5, 6]
    assert whole.keep[1][whole.valid[1]].tolist() == [0, 3, 5, 6]
    assert left.lengths == {"text": 3, "image": 3}
    columns = left.columns("image")
    assert whole.valid.gather(1, columns).tolist() == [[True] * 3, [True, False, False]]


@pytest.mark.parametrize("real", [None, torch.tensor([[True] * 4, [True, True, True, False]])])
def test_tokens_know_what_is_no_token(real):
    valid = torch.tensor([[True, True, True], [True, False, False]])
    reduction = Reduction(torch.tensor([[0, 1, 3], [2, 0, 0]]), length=4, valid=valid)
    left = Tokens(torch.randn(2, 4, 3), None, real, 0).after(reduction)
    assert left.real.equal(valid)
    assert left.sizes().equal(valid.float())
    merged = Tokens(torch.randn(2, 4, 3), torch.ones(2, 4), real, 0).after(reduction)
    assert merged.size.equal(valid.float())


def test_without_filling_nothing_is_made():
    reduction = Reduction(torch.tensor([[0, 2], [1, 2]]), length=3)
    assert reduction.valid is None
    assert Tokens(torch.randn(2, 3, 3)).after(reduction).real is None
    assert reduction.counts().tolist() == [2, 2]
    assert reduction.then(Reduction.identity(2, 2)).valid is None
