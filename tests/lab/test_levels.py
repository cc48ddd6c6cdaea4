"""Rows at a level: as many tokens gone, or as many multiply-adds left, as was asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenreduce
from tokenreduce.core.schedules import constant_or_ramp, spread_counts
from tokenreduce.errors import OptionError
from tokenreduce.lab.levels import parse_ratios
from tokenreduce.lab.plan import plan
from tokenreduce.measure.calibration import solve
from tokenreduce.tasks import Batch

QUICK = {"rounds": 1, "break_even": False, "metric": lambda out, y: (out.argmax(-1) == y).float()}


@pytest.fixture
def vit(tiny_vit):
    return tiny_vit(img_size=64, depth=6)


@pytest.fixture
def data(images):
    return [Batch({"x": images(4, 64, 64)}, torch.tensor([0, 1, 2, 3]))]


def rows_of(result):
    return {row.name: row for row in result.rows}


@pytest.mark.sweep
def test_matched_rows_cost_the_same(vit, data):
    names = ["random", "tome", "evit", "pumer"]
    result = tokenreduce.ablate(vit, data, names, match_macs=0.6, **QUICK)
    rows = rows_of(result)
    for name in names:
        assert rows[name].macs_share == pytest.approx(0.6, abs=0.03), name
        assert rows[name].target_macs == 0.6
    small = next(row for row in result.rows if row.input_size)
    assert small.macs_share == pytest.approx(0.6, abs=0.1)
    assert rows["none"].macs_share == 1
    assert all("at equal multiply-adds" in rows[name].verdict for name in ("tome", "evit", "pumer"))


@pytest.mark.sweep
def test_ratio_is_the_share_of_tokens_that_are_gone_at_the_end(vit, data):
    result = tokenreduce.ablate(vit, data, ["random", "tome", "evit", "pumer"], ratios=[0.25, 0.5], **QUICK)
    assert [row.name for row in result.rows if row.variant == "tome"] == ["tome @ 0.25", "tome @ 0.5"]
    for row in result.rows:
        if row.ratio is not None and row.input_size is None:
            assert row.tokens == pytest.approx(65 * (1 - row.ratio), abs=3), row.name


def test_proportions_of_a_variant_stay(vit, data):
    variants = {
        "falling": {"reducer": "tome", "r": {"r": 8, "inflection": -1.0}},
        "steps": {"reducer": "random", "keep": [1.0, 0.9, 0.8], "layers": [0, 1, 2]},
        "counts": {"reducer": "random", "remove": 4, "layers": [1, 2]},
        "merging": {"reducer": "pumer", "prune": 0},
    }
    rows = rows_of(tokenreduce.ablate(vit, data, variants, match_macs=0.7, **QUICK))
    for name in variants:
        assert rows[name].failed is None, rows[name].failed
        assert rows[name].macs_share == pytest.approx(0.7, abs=0.03), name
    assert rows["falling"].options["r"] == sorted(rows["falling"].options["r"], reverse=True)
    keep = rows["steps"].options["keep"]
    assert keep[0] == 1 and (1 - keep[2]) == pytest.approx(2 * (1 - keep[1]), rel=1e-3)
    assert rows["counts"].options["keep"] is None and rows["counts"].options["remove"] > 0
    assert rows["merging"].options["prune"] == 0


def test_a_level_out_of_reach_is_a_row_that_says_so(vit, data):
    rows = rows_of(tokenreduce.ablate(vit, data, {"tome": {"layers": [5]}}, match_macs=0.3, **QUICK))
    assert "cannot come down" in rows["tome"].failed and "the least it leaves" in rows["tome"].failed
    assert rows["random"].failed is None


def test_a_reducer_that_learns_is_not_judged_on_arbitrary_weights(vit, data):
    rows = rows_of(tokenreduce.ablate(vit, data, ["dynamicvit", "tome"], **QUICK))
    assert "no trained weights" in rows["dynamicvit"].failed and rows["tome"].failed is None


def test_a_users_own_reducer_is_matched_too(vit, data):
    class Nearest(tokenreduce.Reducer):
        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)

    class Fixed(tokenreduce.methods.BaseReducer):
        def reduce_streams(self, streams, site):
            tokens = streams["image"].tokens
            return {"image": tokens.keep_top(tokens.x.norm(dim=-1), remove=tokens.removable // 2)}

    variants = {
        "nearest": {"reducer": Nearest()},
        "class": {"reducer": Nearest, "keep": 0.5},
        "fixed": {"reducer": Fixed()},
    }
    rows = rows_of(tokenreduce.ablate(vit, data, variants, **QUICK))
    assert rows["nearest"].tokens == rows["random"].tokens > rows["class"].tokens == rows["fixed"].tokens
    rows = rows_of(tokenreduce.ablate(vit, data, variants, match_macs=0.6, **QUICK))
    assert rows["nearest"].macs_share == pytest.approx(0.6, abs=0.03)
    assert "scaled(factor, sites)" in rows["fixed"].failed


@given(
    st.integers(0, 500).map(float),
    st.lists(st.integers(0, 40), min_size=1, max_size=24),
)
def test_shared_out_counts_sum_up(total, weights):
    counts = spread_counts(total, weights)
    assert len(counts) == len(weights) and all(count >= 0 for count in counts)
    assert sum(counts) == (int(total) if any(weights) else 0)
    assert all(count == 0 for count, weight in zip(counts, weights, strict=True) if weight == 0)


def test_shared_out_counts_keep_the_shape():
    assert spread_counts(12.0, [1] * 12) == [1] * 12
    assert spread_counts(6.0, [1] * 12) == [0, 1] * 6
    assert spread_counts(192.0, constant_or_ramp((16, -1.0), 12))[0] > 30


@given(st.floats(0.05, 0.95), st.integers(5, 400))
def test_solving_comes_as_close_as_the_steps_allow(target, steps):
    def left(factor):
        return max(1 - int(factor * 0.3 * steps) / steps, 0)

    assert abs(left(solve(left, target, "tokens")) - target) <= 1 / steps + 0.002


def test_solving_refuses_what_cannot_be():
    with pytest.raises(tokenreduce.errors.UnfitReducerError, match=r"0\.400 is the least"):
        solve(lambda factor: 1 - 0.6 * min(factor, 1), 0.2, "tokens")
    with pytest.raises(tokenreduce.errors.UnfitReducerError, match="changes no tokens"):
        solve(lambda factor: 0.8, 0.5, "tokens")


def test_levels_as_text():
    assert parse_ratios("0.1:0.6:0.1") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert parse_ratios("0.2,0.4") == [0.2, 0.4] and parse_ratios("0.55") == [0.55]
    for wrong in ("a", "0.1:0.2", "0.5:0.1:0.1", "0.1:0.5:0"):
        with pytest.raises(OptionError, match=r"0\.1:0\.6:0\.1"):
            parse_ratios(wrong)


def test_the_controls_and_the_baseline_are_always_included():
    registry = tokenreduce.registry.default_registry()
    rows = plan(registry, ["tome"], {"random": {"keep": 0.4}})
    assert [(row.name, row.role) for row in rows] == [("none", "baseline"), ("random", "control"), ("tome", "method")]
    assert rows[1].options == {"keep": 0.4}
    renamed = plan(registry, {"drop": {"reducer": "random", "keep": 0.9}})
    assert [(row.name, row.role) for row in renamed] == [("none", "baseline"), ("drop", "control")]
    levels = plan(registry, ["tome"], match_macs=[0.4, 0.6])
    assert [row.name for row in levels] == [
        "none", "random @ 40 % MACs", "random @ 60 % MACs", "tome @ 40 % MACs", "tome @ 60 % MACs",
    ]  # fmt: skip


def test_an_ablation_of_a_language_model_has_its_controls_too():
    registry = tokenreduce.registry.default_registry()
    rows = plan(registry, ["tome"], {"pooling": {"keep": 64}}, stacks=["handover", "language"])
    controls = {row.name: row.options for row in rows if row.role == "control"}
    assert controls == {"pooling": {"keep": 64}, "random": {}, "uniform": {}}
    assert [row.role for row in plan(registry, ["uniform", "tome"], stacks=["vision"])] == [
        "baseline", "control", "control", "method",
    ]  # fmt: skip
