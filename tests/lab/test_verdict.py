"""How a row stands to the baseline and to its control, in numbers and in words."""

import numpy as np
import pytest

from tokenreduce.errors import OptionError
from tokenreduce.lab.result import BreakEven, Row
from tokenreduce.lab.statistics import compare_paired, holm, interval
from tokenreduce.lab.verdict import break_even_line, compare_rows

COUNT = 400


def right(share, seed=0):
    """Scores with exactly that share of ones; the same seed gets the same samples right first."""
    scores = np.zeros(COUNT)
    scores[np.random.default_rng(seed).permutation(COUNT)[: round(share * COUNT)]] = 1
    return scores.tolist()


def row(name, accuracy, macs=100, role="method", **fields):
    scores = fields.pop("scores", None) or right(accuracy)
    return Row(name, role=role, accuracy=accuracy, scores=scores, macs=macs, **fields)


def chance(accuracy, macs=100, name="chance", **fields):
    return row(name, accuracy, macs, role="control", **fields)


def judged(*rows):
    rows = [row("plain", 0.95, 200, role="baseline"), *rows]
    compare_rows(rows, "plain")
    return {r.name: r for r in rows}


def verdict(own, *controls):
    return judged(*controls, own)[own.name].verdict


def test_the_three_outcomes_at_equal_cost():
    assert verdict(row("a", 0.9), chance(0.8)) == "beats chance: +10.0 points (p < 0.001) at equal multiply-adds"
    assert verdict(row("a", 0.6), chance(0.8)) == (
        "does not beat chance: -20.0 points (p < 0.001) at equal multiply-adds"
    )
    assert verdict(row("a", 0.805), chance(0.8)) == (
        "no better than chance within noise: +0.5 points (p = 0.50) at equal multiply-adds"
    )
    assert verdict(row("a", 0.795), chance(0.8)).startswith("no better than chance within noise: -0.5 points")
    assert verdict(row("a", 0.8), chance(0.8)).startswith("no better than chance within noise: +0.0 points (p = 1.00)")


def test_small_p_has_three_digits():
    assert "+1.8 points (p = 0.016)" in verdict(row("a", 0.8175), chance(0.8))


def test_the_nearest_control_within_5_percent_is_taken_and_the_rest_is_said():
    controls = [chance(0.9, 104, "far"), chance(0.8, 98, "near"), chance(0.7, 50, "cheap")]
    rows = judged(*controls, row("a", 0.9))
    assert rows["a"].versus_control == compare_paired("near", right(0.9), right(0.8))
    assert rows["a"].verdict == "beats near: +10.0 points (p < 0.001) at equal multiply-adds (2 % more)"
    assert verdict(row("a", 0.9), chance(0.8, 105)).endswith("at equal multiply-adds (5 % fewer)")
    assert "at equal" not in verdict(row("a", 0.9), chance(0.8, 106))


def test_a_method_has_to_beat_every_kind_of_control_at_equal_cost():
    controls = [
        chance(0.7, 100, "drop", reducer="random"),
        chance(0.95, 103, "drop more", reducer="random"),
        chance(0.85, 102, "mean", reducer="pooling"),
        chance(0.99, 40, "cheap", reducer="uniform"),
    ]
    rows = judged(*controls, row("a", 0.9))
    assert rows["a"].versus_control == compare_paired("mean", right(0.9), right(0.85))
    assert rows["a"].verdict == (
        "beats mean: +5.0 points (p < 0.001) at equal multiply-adds (2 % fewer), the best of 2 controls"
    )
    assert verdict(row("a", 0.8), *controls).startswith("does not beat mean: -5.0 points")


def test_a_cheaper_control_that_is_as_good_settles_it():
    text = verdict(row("a", 0.8), chance(0.8, 80), chance(0.9, 60, "best"), chance(0.5, 20, "worst"))
    assert text == "does not beat best: -10.0 points (p < 0.001) with 67 % more multiply-adds"
    assert verdict(row("a", 0.8), chance(0.8, 80)).startswith("does not beat chance: +0.0 points (p = 1.00) with 25 %")


def test_winning_with_fewer_multiply_adds_settles_it():
    text = verdict(row("a", 0.9), chance(0.8, 125), chance(0.85, 200, "dear"), chance(0.7, 50, "cheap"))
    assert text == "beats chance: +10.0 points (p < 0.001) with 20 % fewer multiply-adds"


@pytest.mark.parametrize("control", [chance(0.8, 50), chance(0.9, 150), chance(0.895, 150)])
def test_a_trade_of_accuracy_for_cost_is_not_comparable(control):
    rows = judged(control, row("a", 0.9))
    assert rows["a"].verdict == ("not comparable: no control within 5 % of its multiply-adds; use --match-macs")
    assert rows["a"].versus_control is None


def test_a_smaller_input_has_a_sentence_of_its_own():
    small = chance(0.95, 102, "small", input_size=(96, 96))
    rows = judged(chance(0.8), small, row("a", 0.9))
    assert rows["a"].versus_control.against == "chance"
    assert rows["a"].verdict == (
        "beats chance: +10.0 points (p < 0.001) at equal multiply-adds. "
        "Does not beat small: -5.0 points (p < 0.001) at equal multiply-adds (2 % fewer)"
    )
    assert verdict(row("a", 0.9), small).startswith("does not beat small")
    assert judged(small, row("a", 0.9))["a"].versus_control.against == "small"
    far = chance(0.8, 10, "small", input_size=(96, 96))
    assert verdict(row("a", 0.9), chance(0.8), far).endswith(
        ". Not comparable with a smaller input: no control within 5 % of its multiply-adds; use --match-macs"
    )


def test_without_a_control_nothing_is_claimed():
    assert verdict(row("a", 0.9)) == "not comparable: there is no control among the rows"
    failed = Row("chance", role="control", failed="out of memory")
    fewer = Row("chance", role="control", scores=[1.0, 0.0], macs=100)
    for control in (failed, fewer, chance(0.8, None)):
        assert verdict(row("a", 0.9), control) == "not comparable: no control has a result on the same samples"
    assert verdict(row("a", 0.9, None), chance(0.8)) == "not comparable: its multiply-adds are not known"


def test_everything_is_compared_with_the_baseline_and_adjusted_together():
    rows = judged(chance(0.94), row("a", 0.95), row("b", 0.9), Row("c", failed="no"))
    names = ["chance", "a", "b"]
    raw = [compare_paired("plain", rows[name].scores, rows["plain"].scores) for name in names]
    for name, found, p in zip(names, raw, holm([found.p for found in raw]), strict=True):
        assert rows[name].versus_baseline.p_adjusted == p
        assert rows[name].versus_baseline.p == found.p
        assert rows[name].versus_baseline.difference == found.difference
        assert rows[name].interval == interval(rows[name].scores)
    assert rows["b"].versus_baseline.p_adjusted > rows["b"].versus_baseline.p
    assert rows["plain"].versus_baseline is None and rows["plain"].interval is not None
    assert rows["plain"].verdict == rows["chance"].verdict == ""
    assert (rows["c"].interval, rows["c"].versus_baseline, rows["c"].verdict) == (None, None, "")


def test_a_failed_baseline_leaves_the_controls():
    rows = [Row("plain", role="baseline", failed="no"), chance(0.8), row("a", 0.9)]
    compare_rows(rows, "plain")
    assert rows[2].versus_baseline is None
    assert rows[2].verdict.startswith("beats chance")


def test_scores_that_are_means_over_seeds():
    soft = [score * 2 / 3 for score in right(0.9)]
    rows = judged(chance(0.6, scores=soft), row("a", 0.9))
    assert rows["a"].versus_control.test == "sign-flip permutation"
    assert rows["a"].verdict == "beats chance: +30.0 points (p < 0.001) at equal multiply-adds"


def test_judging_twice_changes_nothing():
    rows = list(judged(chance(0.8), row("a", 0.9)).values())
    before = repr(rows)
    compare_rows(rows, "plain")
    assert repr(rows) == before


def test_unknown_baseline():
    with pytest.raises(OptionError, match=r"'plain'.*chance"):
        compare_rows([chance(0.8)], "plain")


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (None, ""),
        (BreakEven(8, []), ""),
        (
            BreakEven(8, [(17, 0.8, 0.01), (65, 0.957, 0.01), (101, 1.1, 0.01)], 101),
            "pays from 101 image tokens on (batch 8; 0.96x at 65)",
        ),
        (BreakEven(8, [(65, 1.2, 0.01)], 65), "pays from 65 image tokens on, the fewest that were tried (batch 8)"),
        (
            BreakEven(4, [(65, 0.9, 0.01), (401, 0.97, 0.01)]),
            "does not pay up to 401 image tokens (batch 4; 0.97x there)",
        ),
    ],
)
def test_break_even(found, line):
    assert break_even_line(Row("a", break_even=found)) == line
