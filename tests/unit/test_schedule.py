"""How many tokens go where: the published numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.core.schedules import constant_or_ramp, per_site, spaced_layers
from tokenreduce.errors import OptionError
from tokenreduce.methods import check_ratio


def test_falling_ramp_over_12_blocks():
    ramp = constant_or_ramp((16, -1), 12)
    assert ramp == [32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0]
    assert sum(ramp) == 187


def test_falling_ramp_over_24_blocks():
    ramp = constant_or_ramp((8, -1), 24)
    assert ramp == [16, 15, 14, 13, 13, 12, 11, 11, 10, 9, 9, 8, 7, 6, 6, 5, 4, 4, 3, 2, 2, 1, 0, 0]


def test_rising_ramp_ends_where_the_falling_one_starts():
    ramp = constant_or_ramp((16, 1), 12)
    assert ramp[0] == 0
    assert ramp[-1] == 32
    assert ramp == sorted(ramp)


@pytest.mark.parametrize(
    ("r", "counts"),
    [
        (13, [184, 171, 158, 145, 132, 119, 106, 93, 80, 67, 54, 41]),
        (16, [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]),  # the last step is capped
    ],
)
def test_published_token_counts_of_a_vit_with_197_tokens(r, counts):
    tokens, seen = 197, []
    for remove in constant_or_ramp(r, 12):
        tokens -= min(remove, (tokens - 1) // 2)
        seen.append(tokens)
    assert seen == counts


@given(st.integers(0, 50), st.floats(-1, 1), st.integers(1, 30))
def test_ramps_are_whole_counts_around_r(r, inflection, sites):
    ramp = constant_or_ramp((r, inflection), sites)
    assert len(ramp) == sites
    assert all(isinstance(v, int) and 0 <= v <= 2 * r for v in ramp)
    assert ramp in (sorted(ramp), sorted(ramp, reverse=True))
    assert sum(ramp) <= sites * r or sites == 1
    assert constant_or_ramp({"r": r, "inflection": inflection}, sites) == ramp


@given(st.integers(0, 50), st.integers(1, 30))
def test_a_count_is_the_same_everywhere(r, sites):
    assert constant_or_ramp(r, sites) == constant_or_ramp((r, 0), sites) == [r] * sites


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 8))
def test_a_list_is_filled_with_zeros(values, more):
    assert constant_or_ramp(values, len(values) + more) == values + [0] * more


@pytest.mark.parametrize(
    "r",
    [
        -1,
        1.5,
        True,
        None,
        "8",
        (8,),
        (8, 1.5),
        (8, -1.01),
        (8, float("nan")),
        (-8, 0),
        (8.5, 0),
        [1, -1],
        [1.5],
        [1] * 5,
        {"r": 8},
        {"r": 8, "inflection": 2},
        {"r": 8, "inflection": 0, "x": 1},
    ],
)
def test_refused_schedules(r):
    with pytest.raises(OptionError, match=r"^r "):
        constant_or_ramp(r, 4)


def test_the_callers_list_is_not_handed_out():
    values = [3, 2]
    assert constant_or_ramp(values, 2) is not values
    assert per_site(values, 2, "keep", 1.0) is not values


def test_per_site():
    assert per_site(0.5, 3, "keep", 1.0) == [0.5, 0.5, 0.5]
    assert per_site([0.5], 3, "keep", 1.0) == [0.5, 1.0, 1.0]
    assert per_site((0.5, 0.6), 2, "keep", 1.0) == [0.5, 0.6]
    with pytest.raises(OptionError, match="keep has 3 entries for 2 sites"):
        per_site([0.5] * 3, 2, "keep", 1.0)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_ratios(value):
    assert check_ratio("keep", value) == value


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), True, None, "0.5", [0.5]])
def test_refused_ratios(value):
    with pytest.raises(OptionError, match=r"keep must be a number in \[0, 1\], got"):
        check_ratio("keep", value)


def test_open_ratios():
    assert check_ratio("keep", 1e-9, open_low=True) == 1e-9
    with pytest.raises(OptionError, match=r"keep must be a number in \(0, 1\], got 0"):
        check_ratio("keep", 0, open_low=True)


def test_layers_published_for_12_blocks():
    assert spaced_layers((3, 6, 9), 12) == [3, 6, 9]
    assert spaced_layers((2, 5, 8), 12, last=True) == [2, 5, 8]
    assert spaced_layers((3, 6, 9), 24) == [6, 12, 18]
    assert spaced_layers((2, 5, 8), 24, last=True) == [5, 11, 17]


@given(st.integers(1, 64), st.booleans())
def test_carried_over_layers_lie_in_the_stack(depth, last):
    layers = spaced_layers((2, 5, 8) if last else (3, 6, 9), depth, last=last)
    assert layers
    assert layers == sorted(set(layers))
    assert layers[0] >= 0
    assert layers[-1] < depth
