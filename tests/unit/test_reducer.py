"""The base class of every method: its options and what they take away."""

import inspect
import json

import pytest
import torch

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import Backbone, Reduction, Signals, Site, Stream, Streams, Tokens
from tokenreduce.registry import default_registry

REDUCERS = sorted(default_registry().reducers)


def site(index=0, total=1, layer=0, depth=12):
    return Site("encoder", layer, index, total, depth)


class First(Reducer):
    """Keeps the tokens in front."""

    def reduce(self, tokens, signals, remove):
        place = torch.arange(tokens.count).expand(len(tokens.x), -1)
        return tokens.keep_top(-place.float(), remove=remove)


@pytest.mark.parametrize(
    ("options", "removable", "removed"),
    [
        ({}, 196, 58),  # keep=0.7 is the default: 196 - ceil(137.2)
        ({"keep": 0.7}, 10, 3),
        ({"keep": 0.51}, 10, 4),  # ceil(5.1) stay
        ({"keep": 1.0}, 10, 0),
        ({"keep": 1}, 10, 9),  # a number
        ({"keep": 0.01}, 10, 9),
        ({"remove": 3}, 10, 3),
        ({"remove": 99}, 10, 9),  # one stays
        ({"remove": 0}, 10, 0),
        ({"remove": 0.25}, 10, 2),  # round(2.5), half to even
        ({"remove": 0.35}, 10, 4),  # round(3.5)
        ({"remove": 1.0}, 10, 9),
        ({"remove": 0.5}, 0, 0),
        ({"keep": 0.5}, 0, 0),
    ],
)
def test_budgets(options, removable, removed):
    count = First(**options).budget.at(site(), removable)
    assert count == removed
    assert type(count) is int


def test_a_list_gives_each_site_its_own():
    keep = First(keep=[0.5, 0.9])
    assert [keep.budget.at(site(i, 3), 10) for i in range(3)] == [5, 1, 0]
    remove = First(remove=[4, 0.2])
    assert [remove.budget.at(site(i, 3), 10) for i in range(3)] == [4, 2, 0]
    assert keep.usual_layers(6) == remove.usual_layers(6) == [0, 1, 2, 3, 4, 5]
    assert First(keep=0.5).usual_layers(12) == [3, 6, 9]
    keep.check_sites(2)
    with pytest.raises(OptionError, match="keep has 2 entries for 1 sites"):
        keep.check_sites(1)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.5, "remove": 2},
        {"keep": 0},
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": "0.5"},
        {"keep": True},
        {"keep": [0.5, 0]},
        {"keep": [0.5, None]},
        {"remove": -1},
        {"remove": -0.5},
        {"remove": 1.5},
        {"remove": "3"},
        {"remove": True},
        {"remove": [1, -1]},
        {"remove": [1, None]},
        {"remove": float("nan")},
    ],
)
def test_refused_budgets(options):
    with pytest.raises(OptionError):
        First(**options)


@pytest.mark.parametrize("remove", [{"r": 3, "inflection": 0}, [(3, 0)], [[3]], [{"r": 3, "inflection": 0}]])
def test_a_budget_is_refused_when_given_or_works_when_used(remove):
    try:
        reducer = First(remove=remove)
    except OptionError:
        return
    assert 0 <= reducer.budget.at(site(), 10) < 10


def test_reduce_gets_the_image_stream_only():
    x = torch.randn(2, 5, 3)
    streams = Streams(
        {name: Stream(Tokens(x, prefix=1), Signals({}, frozenset()), False) for name in ("text", "image")},
        main="image",
    )
    chosen = First(remove=2).reduce_streams(streams, site())
    assert set(chosen) == {"image"}
    assert isinstance(chosen["image"], Reduction)
    assert chosen["image"].keep.tolist() == [[0, 1, 2]] * 2
    assert First(keep=1.0).reduce_streams(streams, site()) == {}
    with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="one sequence"):
        streams.whole()


@pytest.mark.parametrize("name", REDUCERS)
def test_options_are_json_and_make_the_same_reducer(name):
    kind = default_registry().load("reducer", name)
    reducer = kind()
    options = json.loads(json.dumps(reducer.options()))
    assert set(options) == set(kind.option_defaults())
    again = kind(**options)
    assert again.options() == reducer.options()
    assert repr(again) == repr(reducer)
    assert repr(reducer).startswith(kind.__name__ + "(")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tome", {"r": (16, -1.0), "proportional_attention": False}),
        ("tome", {"r": [4, 2, 0]}),
        ("evit", {"keep": [0.5, 0.9], "fuse": False, "saliency": "key-norm"}),
        ("evit", {"keep": 0.5, "saliency": "random", "seed": 3}),
        ("random", {"remove": [1, 2], "seed": 9}),
        ("random", {"keep": (0.5, 0.6)}),
        ("pumer", {"prune": 0.2, "merge": 0, "text_merge": 0.5, "saliency": "class", "modality_aware": False}),
    ],
)
def test_options_given_survive_json(name, options):
    kind = default_registry().load("reducer", name)
    reducer = kind(**options)
    again = kind(**json.loads(json.dumps(reducer.options())))
    assert json.dumps(again.options()) == json.dumps(reducer.options())


@pytest.mark.parametrize("name", REDUCERS)
def test_every_option_is_documented(name):
    kind = default_registry().load("reducer", name)
    for option in kind.option_defaults():
        assert f"\n    {option}" in inspect.getdoc(kind), option


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tome", {"r": -1}),
        ("tome", {"r": 1.5}),
        ("tome", {"r": (8, 2)}),
        ("tome", {"proportional_attention": 1}),
        ("evit", {"keep": 0}),
        ("evit", {"keep": 1.1}),
        ("evit", {"fuse": "yes"}),
        ("evit", {"saliency": "cls"}),
        ("evit", {"saliency": "random", "seed": "x"}),
        ("evit", {"saliency": "random", "seed": 1.5}),
        ("random", {"seed": "x"}),
        ("random", {"seed": True}),
        ("random", {"keep": 0.5, "remove": 3}),
        ("pumer", {"prune": 1.0}),
        ("pumer", {"prune": -0.1}),
        ("pumer", {"merge": 1.1}),
        ("pumer", {"text_merge": "0.2"}),
        ("pumer", {"saliency": "attention"}),
        ("pumer", {"modality_aware": 0}),
        ("pumer", {"saliency": "random", "seed": "x"}),
        ("pumer", {"saliency": "random", "seed": None}),
    ],
)
def test_refused_options(name, options):
    with pytest.raises(OptionError):
        default_registry().load("reducer", name)(**options)


def test_a_reducer_without_a_body_says_what_to_write():
    x = torch.randn(1, 4, 2)
    with pytest.raises(UnfitReducerError, match=r"does not define reduce\(tokens, signals, remove\)"):
        Reducer(remove=1).reduce(Tokens(x), Signals({}, frozenset()), 1)


def test_a_reducer_without_a_body_is_refused_when_it_is_bound():
    class Empty(Reducer):
        pass

    backbone = Backbone("encoder", 4, ("image",), frozenset({"keys"}), False, "Model")
    with pytest.raises(UnfitReducerError, match=r"Empty defines neither reduce\(\.\.\.\) nor reduce_streams"):
        Empty().bind(backbone)
    assert First().bind(backbone).options() == First().options()


def test_an_unknown_signal_is_named():
    class Eager(First):
        needs = {"keys", "gradients"}

    backbone = Backbone("encoder", 4, ("image",), frozenset({"keys"}), False, "Model")
    with pytest.raises(UnfitReducerError, match=r"gradients: no such signal; valid: keys, value_norms"):
        Eager().bind(backbone)
