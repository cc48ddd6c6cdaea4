"""Laws of Reduction, join, spread and follow. Axes: B batch, N tokens before, K after, R folded, C width."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.core.composition import join
from tokenreduce.core.reduction import compose_assignments, spread
from tokenreduce.methods import Reduction

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def random_reduction(generator, batch, length, *, kept, folded, fresh=0, mean=True, weights=True, drops=True):
    """A reduction to ``kept + fresh`` tokens with ``folded`` folds, each row of the batch drawn by itself."""
    keeps, sources, targets = [], [], []
    for _ in range(batch):
        order = torch.randperm(length, generator=generator)
        keep = torch.cat([order[:kept], torch.full((fresh,), -1)])
        keeps.append(keep[torch.randperm(kept + fresh, generator=generator)])
        sources.append(order[kept : kept + folded])
        targets.append(torch.randint(-1 if drops else 0, kept + fresh, (folded,), generator=generator))
    return Reduction(
        torch.stack(keeps),
        torch.stack(sources),
        torch.stack(targets),
        length=length,
        keep_weight=0.1 + torch.rand(batch, kept + fresh, generator=generator) if weights else None,
        weight=0.1 + torch.rand(batch, folded, generator=generator) if weights else None,
        mean=mean,
        fresh=fresh,
        partial=drops and folded > 0,
    )


@st.composite
def reductions(draw, length=None, batch=None, merge_only=False, fresh=True):
    """(reduction, generator): any shape, with folds, drops, new tokens, weights and means as hypothesis likes."""
    length = draw(st.integers(1, 9)) if length is None else length
    batch = draw(st.integers(1, 3)) if batch is None else batch
    new = draw(st.integers(0, 2)) if fresh else 0
    kept = draw(st.integers(0 if new else 1, length))
    folded = length - kept if merge_only else draw(st.integers(0, length - kept))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    reduction = random_reduction(
        generator,
        batch,
        length,
        kept=kept,
        folded=folded,
        fresh=new,
        mean=draw(st.booleans()),
        weights=draw(st.booleans()),
        drops=not merge_only,
    )
    return reduction, generator


@st.composite
def chains(draw, fresh=True):
    """Two reductions, the second of what the first leaves, and a generator."""
    first, generator = draw(reductions(fresh=fresh))
    second, _ = draw(reductions(length=first.count, batch=len(first.keep), fresh=fresh))
    return first, second, generator


def dense(reduction):
    """The (B, K, N) matrix that a reduction stands for, entry by entry, in float64."""
    batch, count = reduction.keep.shape
    matrix = torch.zeros(batch, count, reduction.length, dtype=torch.float64)
    for b in range(batch):
        for k, token in enumerate(reduction.keep[b].tolist()):
            if token >= 0:
                matrix[b, k, token] += 1.0 if reduction.keep_weight is None else float(reduction.keep_weight[b, k])
        if reduction.source is not None:
            pairs = zip(reduction.source[b].tolist(), reduction.target[b].tolist(), strict=True)
            for r, (token, k) in enumerate(pairs):
                if k >= 0:
                    matrix[b, k, token] += 1.0 if reduction.weight is None else float(reduction.weight[b, r])
        for k in range(count):
            total = float(matrix[b, k].sum())
            if reduction.mean and total > 0:
                matrix[b, k] /= total
    return matrix


def members(reduction):
    """The (B, N) assignment, entry by entry."""
    ends = torch.full((len(reduction.keep), reduction.length), -1)
    for b in range(len(reduction.keep)):
        for k, token in enumerate(reduction.keep[b].tolist()):
            if token >= 0:
                ends[b, token] = k
        if reduction.source is not None:
            for token, k in zip(reduction.source[b].tolist(), reduction.target[b].tolist(), strict=True):
                ends[b, token] = k
    return ends


def features(generator, reduction, width=3):
    return torch.randn(len(reduction.keep), reduction.length, width, generator=generator, dtype=torch.float64)


def sizes(generator, reduction):
    shape = (len(reduction.keep), reduction.length)
    return torch.randint(1, 6, shape, generator=generator).float()


@given(st.integers(1, 4), st.integers(1, 9))
def test_identity_changes_nothing(batch, length):
    identity = Reduction.identity(batch, length)
    x, size = torch.randn(batch, length, 3), torch.rand(batch, length)
    assert identity.count == identity.length == length
    assert torch.equal(identity.apply(x), x)
    assert torch.equal(identity.add_up(size), size)
    assert torch.equal(identity.take(x), x)
    assert torch.equal(identity.restore(x), x)
    assert identity.assignment().tolist() == [list(range(length))] * batch


@given(reductions())
def test_apply_is_the_dense_matrix(case):
    reduction, generator = case
    x = features(generator, reduction)
    torch.testing.assert_close(reduction.apply(x), dense(reduction) @ x, **TOLERANCE)


@given(reductions())
def test_coefficients_are_the_entries_of_the_dense_matrix(case):
    reduction, _ = case
    matrix = dense(reduction)
    kept, folded = reduction.coefficients()
    for b in range(len(reduction.keep)):
        for k, token in enumerate(reduction.keep[b].tolist()):
            assert float(kept[b, k]) == pytest.approx(float(matrix[b, k, token]) if token >= 0 else 0.0, abs=1e-6)
        if reduction.source is None:
            assert folded is None
            continue
        for r, (token, k) in enumerate(zip(reduction.source[b].tolist(), reduction.target[b].tolist(), strict=True)):
            assert float(folded[b, r]) == pytest.approx(float(matrix[b, k, token]) if k >= 0 else 0.0, abs=1e-6)


@given(reductions())
def test_a_mean_of_equal_tokens_is_that_token(case):
    reduction, generator = case
    if not reduction.mean:
        return
    row = torch.randn(len(reduction.keep), 1, 3, generator=generator)
    filled = dense(reduction).sum(dim=-1, keepdim=True) > 0  # a new token that nothing folds into stays zero
    expected = torch.where(filled, row.expand(-1, reduction.count, -1), torch.zeros(()))
    torch.testing.assert_close(reduction.apply(row.expand(-1, reduction.length, -1)), expected)


@given(reductions())
def test_assignment_says_where_each_token_ends(case):
    reduction, _ = case
    assert torch.equal(reduction.assignment(), members(reduction))


@given(reductions())
def test_drops_is_true_where_a_token_is_dropped(case):
    reduction, _ = case
    assert reduction.drops or not (members(reduction) < 0).any()


@given(reductions(merge_only=True, fresh=False))
def test_drops_is_false_where_every_token_is_kept_or_merged(case):
    reduction, _ = case
    assert not reduction.drops
    assert not Reduction.identity(2, reduction.count).drops
    assert not reduction.then(Reduction.identity(len(reduction.keep), reduction.count)).drops
    assert not join([reduction, Reduction.identity(len(reduction.keep), 3)]).drops


@given(chains())
def test_drops_of_a_composition_or_join(case):
    first, second, _ = case
    both = first.then(second)
    assert both.drops or not (both.assignment() < 0).any()
    side = join([first, second])
    assert side.drops or not (side.assignment() < 0).any()


@given(reductions())
def test_sizes_add_up_over_the_members(case):
    reduction, generator = case
    size, ends = sizes(generator, reduction), members(reduction)
    expected = torch.zeros(len(size), reduction.count)
    for b in range(len(size)):
        for token, k in enumerate(ends[b].tolist()):
            if k >= 0:
                expected[b, k] += size[b, token]
    assert torch.equal(reduction.add_up(size), expected)


@given(reductions(merge_only=True))
def test_merging_conserves_size(case):
    reduction, generator = case
    size = sizes(generator, reduction)
    assert torch.equal(reduction.add_up(size).sum(dim=1), size.sum(dim=1))


@given(reductions())
def test_take_gives_the_kept_tokens_own_value(case):
    reduction, generator = case
    flat = torch.rand(len(reduction.keep), reduction.length, generator=generator)
    deep = torch.rand(len(reduction.keep), reduction.length, 2, 3, generator=generator)
    for b in range(len(reduction.keep)):
        for k, token in enumerate(reduction.keep[b].tolist()):
            assert reduction.take(flat)[b, k] == flat[b, max(token, 0)]  # a new token has the first one's
            assert torch.equal(reduction.take(deep)[b, k], deep[b, max(token, 0)])


@given(reductions())
def test_restore_returns_the_destinations_value_and_before_for_the_dropped(case):
    reduction, generator = case
    x, ends = features(generator, reduction), members(reduction)
    y = reduction.apply(x)
    full, bare = reduction.restore(y, before=x), reduction.restore(y)
    for b in range(len(x)):
        for token, k in enumerate(ends[b].tolist()):
            assert torch.equal(full[b, token], y[b, k] if k >= 0 else x[b, token])
            assert torch.equal(bare[b, token], y[b, k] if k >= 0 else torch.zeros_like(x[b, token]))


@given(reductions())
def test_reduce_again_after_restore_of_a_mean_changes_nothing(case):
    reduction, generator = case
    if not reduction.mean:
        return
    x = features(generator, reduction)
    y = reduction.apply(x)
    torch.testing.assert_close(reduction.apply(reduction.restore(y, before=x)), y, **TOLERANCE)


@given(chains())
def test_then_applies_twice(case):
    first, second, generator = case
    x = features(generator, first)
    both = first.then(second)
    assert (both.length, both.count) == (first.length, second.count)
    torch.testing.assert_close(both.apply(x), second.apply(first.apply(x)), **TOLERANCE)


@given(chains())
def test_then_adds_sizes_up_twice(case):
    first, second, generator = case
    size = sizes(generator, first)
    assert torch.equal(first.then(second).add_up(size), second.add_up(first.add_up(size)))


@given(chains(fresh=False))
def test_then_composes_assignments(case):
    first, second, _ = case
    assert torch.equal(first.then(second).assignment(), compose_assignments(first.assignment(), second.assignment()))


@given(chains(fresh=True))
def test_then_composes_assignments_with_new_tokens(case):
    first, second, _ = case
    assert torch.equal(first.then(second).assignment(), compose_assignments(first.assignment(), second.assignment()))


def test_then_keeps_the_first_token_when_a_new_token_is_folded_later():
    fuse = Reduction(  # token 0 stays, tokens 1 and 2 become a new token
        torch.tensor([[0, -1]]), torch.tensor([[1, 2]]), torch.tensor([[1, 1]]), length=3, mean=False, fresh=1
    )
    merge = Reduction(torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[0]]), length=2)
    assert fuse.then(merge).assignment().tolist() == [[0, 0, 0]]


@given(chains(), st.integers(0, 2**20))
def test_then_is_associative(case, seed):
    first, second, generator = case
    third = random_reduction(
        torch.Generator().manual_seed(seed), len(first.keep), second.count, kept=1, folded=second.count - 1
    )
    x = features(generator, first)
    left, right = first.then(second).then(third), first.then(second.then(third))
    torch.testing.assert_close(left.apply(x), right.apply(x), **TOLERANCE)


def test_then_refuses_a_reduction_of_another_length():
    with pytest.raises(ValueError, match="must take 2 tokens, it takes 5"):
        Reduction(torch.tensor([[0, 2]]), length=3).then(Reduction.identity(1, 5))


@given(st.integers(1, 3), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_join_is_each_segment_by_itself(batch, lengths, data):
    cases = [data.draw(reductions(length=length, batch=batch)) for length in lengths]
    parts = [part for part, _ in cases]
    inputs = [features(generator, part) for part, generator in cases]
    weights = [sizes(generator, part) for part, generator in cases]
    whole = join(parts)
    assert (whole.length, whole.count) == (sum(lengths), sum(part.count for part in parts))
    assert whole.fresh == sum(part.fresh for part in parts)
    expected = torch.cat([part.apply(x) for part, x in zip(parts, inputs, strict=True)], dim=1)
    torch.testing.assert_close(whole.apply(torch.cat(inputs, dim=1)), expected, **TOLERANCE)
    added = torch.cat([part.add_up(size) for part, size in zip(parts, weights, strict=True)], dim=1)
    assert torch.equal(whole.add_up(torch.cat(weights, dim=1)), added)
    ends, shift = [], 0
    for part in parts:
        end = part.assignment()
        ends.append(torch.where(end >= 0, end + shift, -1))
        shift += part.count
    assert torch.equal(whole.assignment(), torch.cat(ends, dim=1))


def test_joined_selections_stay_a_plain_selection():
    whole = join([Reduction(torch.tensor([[1, 0]]), length=3), Reduction.identity(1, 2)])
    x = torch.randn(1, 5, 2)
    assert whole.source is None
    assert torch.equal(whole.apply(x), x[:, [1, 0, 3, 4]])


@given(reductions())
def test_gradients_reach_kept_and_folded_features_and_no_others(case):
    reduction, generator = case
    x = features(generator, reduction).requires_grad_()
    probe = torch.randn(len(x), reduction.count, 3, generator=generator, dtype=torch.float64)
    (reduction.apply(x) * probe).sum().backward()
    torch.testing.assert_close(x.grad, dense(reduction).transpose(1, 2) @ probe, **TOLERANCE)
    gone = members(reduction) < 0
    assert not x.grad[gone].any()


@given(st.booleans(), st.booleans(), st.integers(0, 1000))
def test_gradients_reach_the_weights(mean, new, seed):
    generator = torch.Generator().manual_seed(seed)
    reduction = random_reduction(generator, 2, 6, kept=2, folded=3, fresh=int(new), mean=mean)
    x = features(generator, reduction)

    def output(kept, folded):
        made = Reduction(
            reduction.keep,
            reduction.source,
            reduction.target,
            length=6,
            keep_weight=kept,
            weight=folded,
            mean=mean,
            fresh=int(new),
        )
        return made.apply(x)

    weights = reduction.keep_weight.double().requires_grad_(), reduction.weight.double().requires_grad_()
    assert torch.autograd.gradcheck(output, weights)


@given(reductions())
def test_each_sample_is_reduced_by_itself(case):
    reduction, generator = case
    x = features(generator, reduction)
    whole = reduction.apply(x)
    for b in range(len(x)):

        def row(value, b=b):
            return None if value is None else value[b : b + 1]

        single = Reduction(
            row(reduction.keep),
            row(reduction.source),
            row(reduction.target),
            length=reduction.length,
            keep_weight=row(reduction.keep_weight),
            weight=row(reduction.weight),
            mean=reduction.mean,
            fresh=reduction.fresh,
        )
        torch.testing.assert_close(single.apply(x[b : b + 1])[0], whole[b])


def test_no_folds_are_the_same_as_none():
    empty = torch.empty(1, 0, dtype=torch.long)
    reduction = Reduction(torch.tensor([[2, 0]]), empty, empty, length=3, weight=torch.empty(1, 0))
    assert reduction.source is None
    assert reduction.target is None
    x = torch.randn(1, 3, 4)
    assert torch.equal(reduction.apply(x), x[:, [2, 0]])


def test_a_mean_over_weights_of_zero_is_finite():
    reduction = Reduction(
        torch.tensor([[0, 1]]),
        torch.tensor([[2]]),
        torch.tensor([[1]]),
        length=3,
        keep_weight=torch.tensor([[1.0, 0.0]]),
        weight=torch.tensor([[0.0]]),
    )
    x = torch.randn(1, 3, 4)
    assert torch.equal(reduction.apply(x), torch.stack([x[:, 0], torch.zeros(1, 4)], dim=1))


def test_a_drop_spelled_out_equals_a_drop_left_out():
    keep, gone = torch.tensor([[0, 3]]), torch.tensor([[1, 2]])
    spelled = Reduction(keep, gone, torch.full_like(gone, -1), length=4)
    plain = Reduction(keep, length=4)
    x, size = torch.randn(1, 4, 2), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(spelled.apply(x), plain.apply(x))
    assert torch.equal(spelled.add_up(size), plain.add_up(size))
    assert torch.equal(spelled.assignment(), plain.assignment())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_features_is_kept(dtype):
    reduction = random_reduction(torch.Generator().manual_seed(0), 2, 8, kept=3, folded=4)
    x = torch.randn(2, 8, 5).to(dtype)
    y = reduction.apply(x)
    assert y.dtype == dtype
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(y.double(), dense(reduction) @ x.double(), rtol=tolerance, atol=tolerance)
    assert reduction.restore(y, x).dtype == dtype


def test_a_float64_mean_is_exact_to_float64():
    reduction = Reduction(torch.tensor([[0]]), torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), length=3)
    x = torch.tensor([[[1.0], [1.0], [1.0]]], dtype=torch.float64)
    torch.testing.assert_close(reduction.apply(x), x[:, :1], rtol=1e-14, atol=0)


def test_whole_numbers_as_kept_sizes_do_not_round_the_fold_weights():
    weights = {"keep_weight": torch.tensor([[1]]), "weight": torch.tensor([[0.5]])}
    reduction = Reduction(torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[0]]), length=2, **weights)
    x = torch.tensor([[[0.0], [3.0]]])
    torch.testing.assert_close(reduction.apply(x), torch.tensor([[[1.0]]]))  # (1 * 0 + 0.5 * 3) / 1.5


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**20))
def test_spread_copies_along_the_assignment(batch, before, after, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(batch, after, 2, generator=generator)
    x = torch.randn(batch, before, 2, generator=generator)
    ends = torch.randint(-1, after, (batch, before), generator=generator)
    full, bare = spread(y, ends, x), spread(y, ends)
    for b in range(batch):
        for token, k in enumerate(ends[b].tolist()):
            assert torch.equal(full[b, token], y[b, k] if k >= 0 else x[b, token])
            assert torch.equal(bare[b, token], y[b, k] if k >= 0 else torch.zeros(2))


@given(st.integers(1, 3), st.lists(st.integers(1, 6), min_size=4, max_size=4), st.integers(0, 2**20))
def test_follow_composes_and_is_associative(batch, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (
        torch.randint(-1, after, (batch, before), generator=generator) for before, after in itertools.pairwise(lengths)
    )
    for row in range(batch):
        expected = [-1 if k < 0 else int(b[row, k]) for k in a[row].tolist()]
        assert compose_assignments(a, b)[row].tolist() == expected
    assert torch.equal(
        compose_assignments(compose_assignments(a, b), c), compose_assignments(a, compose_assignments(b, c))
    )
    everywhere = torch.arange(lengths[0]).expand(batch, -1)
    assert torch.equal(compose_assignments(everywhere, a), a)
