"""Budgets as values: counts, scaling, JSON, and the rules that look at the tokens. Axes: B batch, N tokens, C width."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce import Reducer
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import BaseReducer, Budget, Rule, Site

FLOAT = {"allow_nan": False, "allow_infinity": False}
shares = st.floats(0.01, 1.0, **FLOAT)
counts = st.integers(0, 30)
removals = st.one_of(st.floats(0.0, 1.0, **FLOAT), counts)
keeps = st.one_of(shares, st.integers(1, 30))
ramps = st.one_of(counts, st.tuples(counts, st.floats(-1, 1, **FLOAT)), st.lists(counts, min_size=1, max_size=3))
budgets = st.one_of(
    keeps.map(lambda value: Budget(keep=value)),
    st.lists(keeps, min_size=1, max_size=3).map(lambda value: Budget(keep=value)),
    removals.map(lambda value: Budget(remove=value)),
    st.lists(removals, min_size=1, max_size=3).map(lambda value: Budget(remove=value)),
    ramps.map(lambda value: Budget(ramp=value)),
    counts.map(lambda value: Budget(total=value)),
)


def sites(total=3):
    return [Site("encoder", index, index, total, 12) for index in range(total)]


@given(budgets, st.integers(0, 40))
def test_a_count_leaves_one_token_and_is_an_int(budget, removable):
    for site in sites():
        count = budget.at(site, removable)
        assert type(count) is int
        assert 0 <= count <= max(removable - 1, 0)


@given(budgets, st.integers(0, 40))
def test_json_gives_the_same_budget_back(budget, removable):
    again = Budget.from_json(json.loads(json.dumps(budget.to_json())))
    form = next(name for name in ("keep", "remove", "ramp", "total") if getattr(budget, name) is not None)
    option = Budget.of(form, json.loads(json.dumps(budget.option())))
    for site in sites():
        assert again.at(site, removable) == option.at(site, removable) == budget.at(site, removable)


@given(budgets, st.integers(0, 40))
def test_scaled_by_nothing_removes_nothing_and_by_one_is_itself(budget, removable):
    nothing = budget.scaled(0.0, 3)
    assert [nothing.at(site, removable) for site in sites()] == [0, 0, 0]
    assert budget.scaled(1, 3) is budget


@given(budgets, st.integers(2, 40), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_factor_never_removes_less_in_all(budget, removable, one, two):
    low, high = sorted((one, two))
    fewer, more = (budget.scaled(factor, 3) for factor in (low, high))
    assert sum(fewer.at(site, removable) for site in sites()) <= sum(more.at(site, removable) for site in sites())


@given(budgets, st.floats(0, 4))
def test_a_scaled_budget_survives_as_an_option(budget, factor):
    scaled = budget.scaled(factor, 3)
    form = next(name for name in ("keep", "remove", "ramp", "total") if getattr(scaled, name) is not None)
    again = Budget.of(form, json.loads(json.dumps(scaled.option())))
    assert [again.at(site, 20) for site in sites()] == [scaled.at(site, 20) for site in sites()]


def test_a_number_that_stays_and_a_share_that_stays():
    (site,) = sites(1)
    assert Budget(keep=64).at(site, 576) == 512
    assert Budget(keep=64).at(site, 50) == 0  # fewer than that are there
    assert Budget(keep=1).at(site, 10) == 9
    assert Budget(keep=1.0).at(site, 10) == 0
    assert Budget(keep=64).scaled(0.5, 1).at(site, 576) == 256
    assert Budget(total=10).at(Site("encoder", 0, 0, 4, 12), 100) in (2, 3)
    assert sum(Budget(total=10).at(site, 100) for site in sites(4)) == 10


def test_a_list_longer_than_the_sites_is_refused():
    for budget in (Budget(keep=[0.5, 0.5]), Budget(remove=[1, 1]), Budget(ramp=[1, 1])):
        budget.check(2)
        with pytest.raises(OptionError, match="2 entries for 1 sites"):
            budget.check(1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "one of keep, remove, ramp, total, rule, got none"),
        ({"keep": 0.5, "remove": 1}, "got keep and remove"),
        ({"keep": 0.5, "factor": -1}, "factor of a budget must be a non-negative number"),
        ({"total": -1}, "total must be a non-negative integer"),
        ({"rule": 0.5}, r"rule must be a tokenreduce.methods.Rule"),
    ],
)
def test_refused(given, says):
    with pytest.raises(OptionError, match=says):
        Budget(**given)


def test_unknown_entries_of_json_are_named():
    with pytest.raises(OptionError, match="got \\['much'\\]"):
        Budget.from_json({"much": 1})


def batch(seed, samples=3, length=7, width=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, length, width, generator=generator)
    score = torch.rand(samples, length, generator=generator)
    real = torch.rand(samples, length, generator=generator) < 0.8
    real[:, 0] = True
    return x, score, real


def by_hand(rule, x, score):
    """How many tokens one sample without padding keeps."""
    if rule.kind == "threshold":
        needed = int((score >= rule.value).sum())
    else:
        weight = score.double() if rule.kind == "cumulative" else torch.linalg.svdvals(x.double()).square()
        ordered, total, needed = sorted(weight.tolist(), reverse=True), 0.0, 0
        while total < rule.value * sum(ordered) * (1 - 1e-5):
            total, needed = total + ordered[needed], needed + 1
    return min(max(needed, rule.least), rule.cap, len(score))


rules = st.builds(
    lambda kind, value, least, more: Rule(kind, value, least + more, least),
    st.sampled_from(["energy", "threshold", "cumulative"]),
    st.floats(0.05, 0.98),
    st.integers(1, 3),
    st.integers(0, 6),
)


@given(rules, st.integers(0, 1000))
def test_rules_are_the_sheet_written_out_and_do_not_depend_on_the_batch(rule, seed):
    x, score, real = batch(seed)
    got = rule.counts(score, x, real)
    for sample in range(len(x)):
        kept = real[sample]
        assert int(got[sample]) == by_hand(rule, x[sample, kept], score[sample, kept])
        alone = rule.counts(score[sample : sample + 1, kept], x[sample : sample + 1, kept])
        assert int(alone[0]) == int(got[sample])


@given(rules, st.integers(0, 1000))
def test_a_rule_keeps_from_least_to_cap(rule, seed):
    x, score, real = batch(seed)
    got = rule.counts(score, x, real)
    assert (got <= rule.cap).all()
    assert (got >= torch.minimum(real.sum(dim=1), torch.tensor(rule.least))).all()


def test_a_rule_with_nothing_to_tell_tokens_apart_keeps_the_least():
    nothing = torch.zeros(2, 5)
    assert Rule("cumulative", 0.9, 4, 2).counts(nothing, nothing[..., None]).tolist() == [2, 2]
    assert Rule("energy", 0.9, 4, 2).counts(nothing, nothing[..., None]).tolist() == [2, 2]


def test_the_cap_of_a_rule_is_known_on_the_host():
    (site,) = sites(1)
    budget = Budget.energy(0.95, cap=64)
    assert budget.at(site, 576) == 512
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
    for wrong in ({"share": 0.0, "cap": 4}, {"share": 0.5, "cap": 0}, {"share": math.nan, "cap": 4}):
        with pytest.raises(OptionError):
            Budget.energy(**wrong)


class Longest(Reducer):
    """Keeps tokens with long features."""

    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)


def test_a_rule_is_refused_by_a_reducer_that_takes_as_many_from_each_sample():
    with pytest.raises(OptionError, match=r"keep of Longest is a rule, .* give a share or a number"):
        Longest(keep=Budget.cumulative(0.9, cap=4)).check_sites(1)


def test_a_budget_may_be_given_as_itself():
    assert Longest(keep=Budget(keep=0.5)).options() == {"keep": 0.5, "remove": None}
    assert Longest(keep={"keep": 5, "factor": 0.5}).budget == Budget(keep=5, factor=0.5)


def test_how_options_are_written():
    with pytest.raises(UnfitReducerError, match="write its options as annotated fields"):

        class Old(Reducer):
            def __init__(self, much=1):
                super().__init__()

    with pytest.raises(UnfitReducerError, match="option 'much' of Bare needs a default, such as much: int = 0"):

        class Bare(Reducer):
            much: int

    with pytest.raises(UnfitReducerError, match="use a tuple, or None"):

        class Changing(Reducer):
            many: list = []

    with pytest.raises(UnfitReducerError, match="keep options and weights apart"):

        class Learns(torch.nn.Module, Reducer):
            pass


def test_reduce_needs_one_budget():
    class Two(BaseReducer):
        one: float = 0.5
        other: float = 0.5

        def budgets(self):
            return {"one": Budget(keep=self.one), "other": Budget(keep=self.other)}

    with pytest.raises(UnfitReducerError, match=r"needs one budget .* budgets\(\) gives 2"):
        _ = Two().budget


def test_a_subclass_changes_the_default_of_an_option():
    class Half(Longest):
        keep = 0.5

    class Quarter(Half):
        keep = 0.25

    assert Half().keep == Half().options()["keep"] == 0.5
    assert Quarter().options() == {"keep": 0.25, "remove": None}
    assert Quarter(keep=3).budget == Budget(keep=3)
