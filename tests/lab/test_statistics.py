"""Intervals, paired tests and corrections, against scipy, known values and laws."""

import math
import statistics
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenreduce.errors import OptionError, PluginError
from tokenreduce.lab.statistics import (
    compare_paired,
    compare_unpaired,
    deviation_over_seeds,
    holm,
    interval,
    mean_over_seeds,
)

BINARY = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)
UNIT = st.lists(st.floats(0, 1), min_size=1, max_size=12)
PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)
BINARY_PAIRS = st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1])), min_size=1, max_size=40)
PS = st.lists(st.floats(0, 1), max_size=12)
few = settings(max_examples=25, deadline=None)


def noise(count, seed=0, shift=0.0):
    return np.clip(np.random.default_rng(seed).uniform(0, 1, count) + shift, 0, 1).tolist()


# intervals


@pytest.mark.parametrize(("right", "count"), [(0, 10), (1, 1), (7, 10), (978, 1000), (1000, 1000)])
def test_wilson_is_the_textbook_formula(right, count):
    z, share = 1.959963984540054, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    assert interval([1.0] * right + [0.0] * (count - right)) == pytest.approx((middle - margin, middle + margin))


@given(BINARY)
@example([0.0])
@example([1.0])
def test_interval_of_right_and_wrong_lies_between_0_and_1(scores):
    low, high = interval(scores)
    assert 0 <= low <= statistics.fmean(scores) <= high <= 1
    assert low < high


@few
@given(UNIT)
@example([0.5])
@example([1 / 3] * 7)
@example([0.1, 0.1 + 1e-16])
def test_interval_of_any_scores_contains_the_mean(scores):
    low, high = interval(scores)
    assert -1e-12 <= low <= np.mean(scores) <= high <= 1 + 1e-12


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    scores = noise(400)
    margin = 1.96 * statistics.stdev(scores) / 20
    expected = (statistics.fmean(scores) - margin, statistics.fmean(scores) + margin)
    assert interval(scores) == pytest.approx(expected, abs=2e-3)
    assert interval(scores) == interval(scores)


def test_equal_scores_are_not_certain():
    low, high = interval([0.5])
    assert low < 0.2 and high > 0.8
    low, high = interval([0.5] * 1000)
    assert 0.49 < low < 0.5 < high < 0.51
    just_off = [1 - 1e-9] * 20  # not 0 or 1, and yet the same as all right
    assert interval(just_off) == pytest.approx(interval([1.0] * 20), abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_wilson_holds_the_truth_in_about_95_percent(share):
    drawn = np.random.default_rng(7).binomial(100, share, size=2000)
    bounds = {k: interval([1.0] * k + [0.0] * (100 - k)) for k in set(drawn.tolist())}
    held = np.mean([bounds[k][0] <= share <= bounds[k][1] for k in drawn.tolist()])
    assert 0.92 < held < 0.985


@pytest.mark.parametrize("scores", [[], [0.1, math.nan], [math.inf], [[0.1, 0.2]]])
def test_no_interval_of_what_is_not_scores(scores):
    with pytest.raises(OptionError, match="metric"):
        interval(scores)


def test_unpaired_is_newcombe_method_10():
    """56/70 against 48/80, from the paper's table II: 0.0524 to 0.3339."""
    own, other = [1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32
    assert compare_unpaired(0.8, interval(own), 0.6, interval(other)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


# paired tests


def test_mcnemar_by_hand():
    """8 wins and 1 loss among 20: p = 2 (1 + 9) / 2^9."""
    found = compare_paired("x", [1] * 8 + [0] + [1] * 11, [0] * 8 + [1] + [1] * 11)
    assert found.p == pytest.approx(20 / 512)
    assert (found.against, found.test, found.difference) == ("x", "exact McNemar", pytest.approx(0.35))
    assert 0 < found.low < 0.35 < found.high <= 1
    assert found.p_adjusted is None


def test_sign_flips_by_hand():
    """Four positive differences: of 16 sums only the one at each end is as large."""
    found = compare_paired("x", [0.5, 0.6, 0.7, 0.9], [0.4, 0.4, 0.4, 0.4])
    assert found.p == pytest.approx(2 / 16)
    assert found.test == "sign-flip permutation"


def test_sign_flips_are_near_the_t_test():
    own, other = noise(200, 1, 0.03), noise(200, 2)
    found = compare_paired("x", own, other)
    assert found.p == pytest.approx(scipy.stats.ttest_rel(own, other).pvalue, abs=0.03)
    assert found == compare_paired("x", own, other)


def test_false_alarms_are_rare():
    generator = np.random.default_rng(3)
    ps = [compare_paired("x", *generator.uniform(0, 1, (2, 10)).tolist()).p for _ in range(200)]
    assert np.mean(np.array(ps) < 0.05) < 0.09


@few
@given(PAIRS)
@example([(0.3, 0.3)])
@example([(0.7, 0.3)])
@example([(0.7, 0.3), (0.3, 0.7)])
def test_exchange_turns_the_difference_and_keeps_the_p(pairs):
    check_exchange(pairs)


@given(BINARY_PAIRS)
@few
def test_exchange_of_right_and_wrong(pairs):
    check_exchange(pairs)


def check_exchange(pairs):
    own, other = [p for p, _ in pairs], [q for _, q in pairs]
    one, two = compare_paired("x", own, other), compare_paired("x", other, own)
    assert one.difference == -two.difference
    assert one.p == pytest.approx(two.p)
    assert 0 < one.p <= 1
    for found in (one, two):
        assert -1 - 1e-9 <= found.low <= found.difference <= found.high <= 1 + 1e-9


def test_exchange_with_random_signs():
    own, other = noise(60, 1, 0.05), noise(60, 2)
    assert compare_paired("x", own, other).p == compare_paired("x", other, own).p


@pytest.mark.parametrize("scores", [[0.25], [1.0], [0.0, 1.0, 1.0], [1 / 3] * 50])
def test_against_itself_nothing_is_found(scores):
    found = compare_paired("x", scores, scores)
    assert (found.difference, found.p) == (0, 1)
    assert -1 <= found.low < 0 < found.high <= 1
    assert found.high == pytest.approx(-found.low)


def test_one_sample_decides_nothing():
    assert compare_paired("x", [0.9], [0.1]).p == 1
    assert compare_paired("x", [1.0], [0.0]).p == 1


def test_many_clear_differences_are_found():
    assert compare_paired("x", [1.0] * 50, [0.0] * 50).p < 1e-9
    assert compare_paired("x", [0.9] * 50, [0.1] * 50).p < 0.001


def test_scores_of_other_samples_are_refused():
    with pytest.raises(OptionError, match=r"'random'.*3 and 2"):
        compare_paired("random", [0, 1, 1], [0, 1])


# several rows, several seeds


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holm_by_hand(ps, expected):
    assert holm(ps) == pytest.approx(expected)


@given(PS)
def test_holm_is_monotone_and_never_below_the_raw(ps):
    adjusted = holm(ps)
    assert all(raw <= p <= 1 for raw, p in zip(ps, adjusted, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
    assert all(p <= min(1, len(ps) * raw) for raw, p in zip(ps, adjusted, strict=True))  # never above Bonferroni


@given(PS, st.randoms(use_true_random=False))
def test_holm_does_not_look_at_the_order(ps, shuffler):
    order = list(range(len(ps)))
    shuffler.shuffle(order)
    assert holm([ps[i] for i in order]) == [holm(ps)[i] for i in order]


def test_seeds():
    assert mean_over_seeds([[0, 1, 1], [1, 1, 0]]) == [0.5, 1, 0.5]
    assert mean_over_seeds([[0.25, 1]]) == [0.25, 1]
    assert deviation_over_seeds([[0, 1, 1]]) is None
    assert deviation_over_seeds([[0, 0], [1, 1], [0, 1]]) == pytest.approx(0.5)
    for wrong in ([], [[1, 0], [1]]):
        with pytest.raises(OptionError, match="per seed"):
            mean_over_seeds(wrong)


def test_without_scipy_the_message_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(PluginError, match=r"pip install 'tokenreduce\[lab\]'"):
        interval([0.0, 1.0])
