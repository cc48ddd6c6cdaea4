"""Bipartite soft matching against a slow one in plain Python. Axes: B batch, N tokens, D metric width, r folded."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.methods import Reduction
from tokenreduce.ops import bipartite


def cosine(a, b):
    norm = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / norm if norm else 0.0


def proposals(metric, prefix, real):
    """Each unprotected real even position with its best unprotected real odd one, the most similar pair first."""
    partners = [b for b in range(1, len(metric), 2) if b >= prefix and real[b]]
    found = []
    for a in range(0, len(metric), 2):
        if a >= prefix and real[a]:
            likeness = {b: cosine(metric[a], metric[b]) for b in partners}
            best = max(partners, key=likeness.get, default=None)
            found.append((likeness.get(best, -math.inf), a, best))
    return sorted(found, key=lambda pair: -pair[0])


def slow_match(metric, remove, prefix):
    """(order of the output tokens, {source: destination}) as published, for one sample without padding."""
    ranked = proposals(metric, prefix, [True] * len(metric))
    pairs = {a: b for _, a, b in ranked[:remove]}
    left = [a for _, a, _ in ranked[remove:]]
    if prefix:
        left.sort()
    return [*range(prefix), *left, *(b for b in range(1, len(metric), 2) if b >= prefix)], pairs


def check(metric, remove, prefix, real=None):
    keep, source, target = bipartite(metric, remove, prefix=prefix, real=real)
    assert keep.shape == (len(metric), metric.shape[1] - remove)
    assert source.shape == target.shape == (len(metric), remove)
    for b in range(len(metric)):
        order, pairs = slow_match(metric[b].tolist(), remove, prefix)
        assert keep[b].tolist() == order
        got = {a: keep[b, t].item() for a, t in zip(source[b].tolist(), target[b].tolist(), strict=True)}
        assert got == pairs
        assert source[b].tolist() == list(pairs)  # by falling similarity


@st.composite
def metrics(draw, low=2):
    """(metric (B, N, D), remove up to the published cap, prefix)."""
    batch, length, width = draw(st.integers(1, 3)), draw(st.integers(low, 17)), draw(st.integers(2, 6))
    prefix = draw(st.integers(0, min(4, length - 1)))
    remove = draw(st.integers(0, (length - prefix) // 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return torch.randn(batch, length, width, generator=generator), remove, prefix


@given(metrics())
def test_matching_is_the_published_one(case):
    check(*case)


@pytest.mark.parametrize("prefix", [0, 1, 2, 3])
@pytest.mark.parametrize("length", [16, 17, 36, 37])
def test_at_the_cap(length, prefix):
    check(torch.randn(2, length, 8, generator=torch.Generator().manual_seed(length)), (length - prefix) // 2, prefix)


@pytest.mark.parametrize(("length", "prefix", "left"), [(197, 1, 99), (198, 2, 100), (196, 0, 98)])
def test_most_tokens_that_one_step_can_take(length, prefix, left):
    keep, source, _ = bipartite(torch.randn(1, length, 4), (length - prefix) // 2, prefix=prefix)
    assert keep.shape[1] == left
    assert sorted(keep[0].tolist() + source[0].tolist()) == list(range(length))


def test_the_class_token_is_first_and_never_merged():
    metric = torch.zeros(1, 6, 3)
    metric[..., 0] = 1.0  # all the same: the class token would merge gladly
    keep, source, target = bipartite(metric, 2, prefix=1)
    assert keep[0].tolist() == [0, 1, 3, 5]
    assert sorted(source[0].tolist()) == [2, 4]
    assert set(target[0].tolist()) <= {1, 2, 3}


def test_the_distillation_token_is_second_and_nothing_merges_into_it():
    metric = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0))
    metric[0, 1] = metric[0, 2]  # the best partner of token 2 is the distillation token, which may not be one
    keep, source, target = bipartite(metric, 3, prefix=2)
    assert keep[0].tolist() == [0, 1, 3, 5, 7]
    assert sorted(source[0].tolist()) == [2, 4, 6]
    assert all(t >= 2 for t in target[0].tolist())


def test_without_a_class_token_the_rest_is_in_order_of_falling_similarity():
    angle = torch.tensor([0.0, 0.3, 1.0, 1.1, 2.0, 2.05, 3.0, 3.2])  # partners 0.3, 0.1, 0.05 and 0.2 away
    metric = torch.stack([angle.cos(), angle.sin()], dim=-1)[None]
    keep, source, target = bipartite(metric, 2)
    assert source.tolist() == [[4, 2]]
    assert keep.tolist() == [[6, 0, 1, 3, 5, 7]]
    assert target.tolist() == [[4, 3]]


def test_several_may_fold_into_one():
    angle = torch.tensor([9.0, 0.0, 0.01, 2.0, 0.02, 4.0, 0.03])
    metric = torch.stack([angle.cos(), angle.sin()], dim=-1)[None]
    keep, source, target = bipartite(metric, 3, prefix=1)
    assert keep.tolist() == [[0, 1, 3, 5]]
    assert source.tolist() == [[2, 4, 6]]
    assert target.tolist() == [[1, 1, 1]]


@given(metrics())
def test_only_the_direction_of_the_metric_counts(case):
    metric, remove, prefix = case
    scale = 2.0 ** torch.randint(-8, 9, metric.shape[:2]).unsqueeze(-1)  # powers of two: exact in floating point
    wanted = bipartite(metric, remove, prefix=prefix)
    for got, same in zip(bipartite(metric * scale, remove, prefix=prefix), wanted, strict=True):
        assert torch.equal(got, same)


@given(metrics())
def test_all_real_is_no_padding(case):
    metric, remove, prefix = case
    real = torch.ones(metric.shape[:2], dtype=torch.bool)
    for got, wanted in zip(
        bipartite(metric, remove, prefix=prefix, real=real), bipartite(metric, remove, prefix=prefix), strict=True
    ):
        assert torch.equal(got, wanted)


@st.composite
def padded(draw):
    """(metric, remove, prefix, real): padding anywhere behind the prefix, at least one real token."""
    metric, remove, prefix = draw(metrics(low=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    real = torch.rand(metric.shape[:2], generator=generator) < draw(st.sampled_from([0.2, 0.5, 0.8]))
    real[:, : max(prefix, 1)] = True
    return metric, remove, prefix, real


@given(padded())
def test_padding_goes_first_and_nothing_merges_into_it(case):
    metric, remove, prefix, real = case
    keep, source, target = bipartite(metric, remove, prefix=prefix, real=real)
    for b in range(len(metric)):
        kept, gone, ends = keep[b].tolist(), source[b].tolist(), target[b].tolist()
        assert sorted(kept + gone) == list(range(metric.shape[1]))
        assert kept[:prefix] == list(range(prefix))
        padding = int((~real[b]).sum())
        assert sum(not real[b, a] for a in gone) == min(padding, remove)
        for a, end in zip(gone, ends, strict=True):
            assert (end == -1) == (not real[b, a])
            if end >= 0:
                assert end >= prefix
                assert real[b, kept[end]]


@given(padded())
def test_real_tokens_merge_as_published_among_real_tokens(case):
    metric, remove, prefix, real = case
    keep, source, target = bipartite(metric, remove, prefix=prefix, real=real)
    for b in range(len(metric)):
        budget = max(remove - int((~real[b]).sum()), 0)
        ranked = proposals(metric[b].tolist(), prefix, real[b].tolist())
        got = {a: keep[b, t].item() for a, t in zip(source[b].tolist(), target[b].tolist(), strict=True) if t >= 0}
        assert got == {a: p for _, a, p in ranked[:budget]}
        left = [a for _, a, _ in ranked[budget:]]
        wanted = [*range(prefix), *(sorted(left) if prefix else left)]
        wanted += [p for p in range(1, metric.shape[1], 2) if p >= prefix and real[b, p]]
        assert [k for k in keep[b].tolist() if real[b, k]] == wanted


@given(padded(), st.sampled_from([0.0, 1e4, float("nan"), float("inf")]))
def test_the_content_of_padding_does_not_matter(case, content):
    metric, remove, prefix, real = case
    other = metric.masked_fill(~real.unsqueeze(-1), content)
    wanted = bipartite(metric, remove, prefix=prefix, real=real)
    for got, same in zip(bipartite(other, remove, prefix=prefix, real=real), wanted, strict=True):
        assert torch.equal(got, same)
    x = torch.randn(*metric.shape)
    noise = torch.where(real.unsqueeze(-1), x, x + 100)
    reduction = Reduction(*wanted, length=metric.shape[1])
    alive = reduction.add_up(real.float()) > 0
    assert torch.equal(reduction.apply(x)[alive], reduction.apply(noise)[alive])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("use_real", [False, True])
def test_zero_keys_give_no_nan(dtype, use_real):
    metric = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    metric[:, 2:6] = 0
    real = torch.ones(2, 9, dtype=torch.bool) if use_real else None
    for case in (metric, torch.zeros_like(metric)):
        keep, source, target = bipartite(case, 4, prefix=1, real=real)
        for b in range(2):
            assert sorted(keep[b].tolist() + source[b].tolist()) == list(range(9))
            assert keep[b, 0] == 0
        assert int(target.min()) >= 1
        merged = Reduction(keep, source, target, length=9).apply(case)
        assert merged.isfinite().all()


def test_large_half_precision_keys_do_not_overflow():
    metric = torch.full((1, 6, 8), 60000.0, dtype=torch.float16)
    keep, source, _ = bipartite(metric, 2, prefix=1)
    assert sorted(keep[0].tolist() + source[0].tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("length", "prefix", "remove"), [(9, 1, 5), (9, 0, 5), (8, 2, 4), (1, 0, 1), (1, 1, 1), (9, 1, -1)]
)
def test_more_than_the_number_of_pairs_is_refused(length, prefix, remove):
    with pytest.raises(ValueError, match=rf"of {length} tokens, got {remove}"):
        bipartite(torch.randn(1, length, 3), remove, prefix=prefix)


def test_nothing_to_remove():
    keep, source, _ = bipartite(torch.randn(2, 5, 3), 0, prefix=1)
    assert source.shape == (2, 0)
    assert keep.tolist() == [[0, 2, 4, 1, 3]] * 2


def test_no_gradient_flows_through_the_matching():
    metric = torch.randn(1, 8, 3, requires_grad=True)
    before = metric.detach().clone()
    assert not any(part.requires_grad for part in bipartite(metric, 3, prefix=1))
    assert torch.equal(metric.detach(), before)


@given(metrics())
def test_each_sample_is_matched_by_itself(case):
    metric, remove, prefix = case
    whole = bipartite(metric, remove, prefix=prefix)
    for b in range(len(metric)):
        single = bipartite(metric[b : b + 1], remove, prefix=prefix)
        assert all(torch.equal(one[0], many[b]) for one, many in zip(single, whole, strict=True))
