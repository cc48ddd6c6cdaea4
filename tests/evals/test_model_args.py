"""Arguments of a model of a harness: which are the reducer's, and what they attach."""

import json

import pytest

import tokenreduce
from tokenreduce.errors import OptionError, TokenReduceError, UnknownNameError
from tokenreduce_evals.model_args import attach_reducer, layers_of, split


def test_options_of_the_reducer_are_told_from_the_others():
    given = {"r": 3, "layers": "1+2", "max_length": 9, "keep": 4}
    assert split(given, "tome") == ({"r": 3, "layers": "1+2"}, {"max_length": 9, "keep": 4})
    with pytest.raises(UnknownNameError, match="tome"):
        split({}, "tomme")


def test_a_name_with_options(tiny_vit, images):
    model = tiny_vit()
    with attach_reducer(model, "tome", {"r": 3, "layers": "0+2"}) as handle:
        model(images())
        assert [(site.layer, site.tokens_in - site.tokens_out) for site in handle.last.sites] == [(0, 3), (2, 3)]


def test_a_folder_and_a_plan(tiny_vit, images, tmp_path):
    model = tiny_vit()
    tokenreduce.attach(model, "tome", r=2).save(tmp_path / "saved")
    tokenreduce.attachment(model).detach()
    with attach_reducer(model, str(tmp_path / "saved"), {}) as handle:
        assert handle.config["reducer"] == "tome"
    with pytest.raises(OptionError, match="holds its own options; leave r out"):
        attach_reducer(model, str(tmp_path / "saved"), {"r": 3})
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"vision": {"reducer": "evit", "keep": 0.5, "layers": [1]}}))
    with attach_reducer(model, str(plan), {}) as handle:
        assert [site.layer for site in handle.sites] == [1]


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"vision": {"keep": 1}}', '{"vision": "tomme"}'])
def test_a_plan_that_is_none(tiny_vit, tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    model = tiny_vit()
    with pytest.raises(TokenReduceError):
        attach_reducer(model, str(tmp_path / "plan.json"), {})
    assert tokenreduce.attachment(model) is None


@pytest.mark.parametrize("how", ["name", "plan"])
def test_no_code_is_imported_for_a_name(tiny_vit, tmp_path, how):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"vision": "this:that"}))
    with pytest.raises(OptionError, match="has not been imported"):
        attach_reducer(tiny_vit(), "this:that" if how == "name" else str(plan), {})


@pytest.mark.parametrize(("given", "layers"), [("1+5+8", [1, 5, 8]), (3, [3]), ([1, 2], [1, 2]), ("4", [4])])
def test_layers(given, layers):
    assert layers_of(given) == layers


@pytest.mark.parametrize("given", ["1,2", "a", 1.5, None])
def test_layers_that_are_none(given):
    with pytest.raises(OptionError, match=r"1\+5\+8"):
        layers_of(given)
