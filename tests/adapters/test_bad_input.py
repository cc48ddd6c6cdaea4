"""Mistakes of the caller: each is refused with what to type instead, and leaves the model untouched."""

from __future__ import annotations

import pytest
import torch

import tokenreduce
from tokenreduce.errors import (
    LayerError,
    OptionError,
    PluginError,
    UnfitReducerError,
    UnknownNameError,
    UnknownOptionError,
    UnsupportedModelError,
)

# what is passed, which errors it is, and words of the message
CASES = {
    "unknown reducer": ({"reducer": "tomme"}, (UnknownNameError, KeyError), ["tomme", "'tome'"]),
    "unknown reducer, nothing near": ({"reducer": "zzzzzz"}, (UnknownNameError,), ["Valid", "pumer", "tome"]),
    "name of an adapter": ({"reducer": "timm-vit"}, (UnknownNameError,), ["Valid"]),
    "upper case": ({"reducer": "ToMe"}, (UnknownNameError,), ["tome"]),
    "empty name": ({"reducer": ""}, (UnknownNameError,), ["Valid"]),
    "unknown option": (
        {"reducer": "tome", "ratio": 3},
        (UnknownOptionError, TypeError, ValueError),
        ["ratio", "proportional_attention"],
    ),
    "unknown option, near": ({"reducer": "pumer", "prun": 0.1}, (UnknownOptionError,), ["'prune'"]),
    "option of another reducer": ({"reducer": "evit", "r": 3}, (UnknownOptionError,), ["keep", "fuse"]),
    "option of a reducer without any": ({"reducer": "none", "keep": 0.5}, (UnknownOptionError,), ["keep"]),
    "ratio too high": ({"reducer": "pumer", "merge": 1.5}, (OptionError, ValueError), ["merge", "1.5", "[0, 1]"]),
    "ratio too low": ({"reducer": "pumer", "text_merge": -0.1}, (OptionError,), ["text_merge", "-0.1"]),
    "prune everything": ({"reducer": "pumer", "prune": 1}, (OptionError,), ["prune", "[0, 1)"]),
    "keep nothing": ({"reducer": "evit", "keep": 0.0}, (OptionError,), ["keep", "(0, 1]"]),
    "keep more than all": ({"reducer": "random", "keep": 1.01}, (OptionError,), ["keep", "1.01"]),
    "not a number": ({"reducer": "evit", "keep": float("nan")}, (OptionError,), ["keep", "nan"]),
    "infinite": ({"reducer": "pumer", "merge": float("inf")}, (OptionError,), ["merge", "inf"]),
    "ratio as text": ({"reducer": "evit", "keep": "0.5"}, (OptionError,), ["keep", "'0.5'"]),
    "ratio as bool": ({"reducer": "evit", "keep": True}, (OptionError,), ["keep", "True"]),
    "count negative": ({"reducer": "tome", "r": -1}, (OptionError,), ["-1"]),
    "count fractional": ({"reducer": "tome", "r": 2.5}, (OptionError,), ["2.5"]),
    "count as text": ({"reducer": "tome", "r": "8"}, (OptionError,), ["'8'"]),
    "inflection": ({"reducer": "tome", "r": (8, 2.0)}, (OptionError,), ["inflection", "-1..1"]),
    "pair as mapping": ({"reducer": "tome", "r": {"r": 8}}, (OptionError,), ["inflection"]),
    "list too long": ({"reducer": "tome", "r": [1] * 5}, (OptionError,), ["5", "4"]),
    "list too long for layers": (
        {"reducer": "random", "keep": [0.5] * 3, "layers": [0, 1]},
        (OptionError,),
        ["3", "2"],
    ),
    "list with a bad one": ({"reducer": "evit", "keep": [0.5, 2.0]}, (OptionError,), ["keep", "2.0"]),
    "both": ({"reducer": "random", "keep": 0.5, "remove": 2}, (OptionError,), ["keep", "remove"]),
    "seed": ({"reducer": "random", "seed": 0.5}, (OptionError,), ["seed", "0.5"]),
    "saliency": ({"reducer": "evit", "saliency": "norm"}, (OptionError,), ["'norm'", "'key-norm'"]),
    "flag": ({"reducer": "evit", "fuse": "yes"}, (OptionError,), ["fuse", "'yes'"]),
    "layer too high": ({"reducer": "tome", "layers": [4]}, (LayerError, IndexError), ["4", "0..3"]),
    "layer negative": ({"reducer": "tome", "layers": [-1]}, (LayerError, IndexError), ["-1", "0..3"]),
    "one layer outside": ({"reducer": "tome", "layers": [0, 12]}, (LayerError, IndexError), ["12", "0..3"]),
    "no layers": ({"reducer": "tome", "layers": []}, (OptionError, ValueError), ["empty", "0..3"]),
    "layers as a number": ({"reducer": "tome", "layers": 2}, (OptionError,), ["list", "2"]),
    "layers as text": ({"reducer": "tome", "layers": "012"}, (OptionError,), ["list", "'012'"]),
    "layers of floats": ({"reducer": "tome", "layers": [1.0]}, (OptionError,), ["1.0"]),
    "layers of flags": ({"reducer": "tome", "layers": [True]}, (OptionError,), ["True"]),
    "a number": ({"reducer": 3}, (OptionError,), ["name", "int"]),
    "nothing": ({"reducer": None}, (OptionError,), ["name", "NoneType"]),
    "a list": ({"reducer": ["tome"]}, (OptionError,), ["name", "list"]),
    "a module": ({"reducer": torch.nn.Linear(1, 1)}, (OptionError,), ["name", "Linear"]),
    "no stacks": ({"reducer": {}}, (OptionError,), ["stack"]),
    "unknown stack": ({"reducer": {"visoin": "tome"}}, (UnsupportedModelError,), ["visoin", "Valid"]),
    "stack without reducer": ({"reducer": {"vision": {"r": 3}}}, (OptionError,), ["reducer"]),
    "options beside stacks": ({"reducer": {"vision": "tome"}, "r": 3}, (OptionError,), ["r", "inside"]),
    "layers beside stacks": ({"reducer": {"vision": "tome"}, "layers": [0]}, (OptionError,), ["layers", "inside"]),
    "unknown adapter": ({"reducer": "tome", "adapter": "tim-vit"}, (UnknownNameError,), ["'timm-vit'"]),
    "path without module": (
        {"reducer": "no_such_module_at_all:X"},
        (PluginError, ImportError),
        ["no_such_module_at_all"],
    ),
    "path without attribute": ({"reducer": "torch.nn:NoSuch"}, (PluginError,), ["NoSuch"]),
    "path of something else": ({"reducer": "torch.nn:Linear"}, (OptionError,), ["Reducer"]),
}


@pytest.fixture(params=["vit", "vilt"])
def model(request, tiny_vit, tiny_vilt):
    return tiny_vit() if request.param == "vit" else tiny_vilt()


@pytest.mark.parametrize("case", CASES)
def test_refused_and_untouched(case, model, snapshot):
    arguments, errors, words = CASES[case]
    untouched, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(tokenreduce.TokenReduceError) as caught:
        tokenreduce.attach(model, **arguments)
    for error in errors:
        assert isinstance(caught.value, error)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert snapshot(model) == untouched
    assert torch.equal(torch.get_rng_state(), state)
    assert tokenreduce.attachment(model) is None


@pytest.mark.parametrize("option", [{"r": 3}, {"keep": 0.5}, {"nope": 1}])
def test_options_with_a_reducer_given_ready(option, model, snapshot):
    from tokenreduce_methods.tome.method import ToMe

    untouched = snapshot(model)
    with pytest.raises(UnknownOptionError, match="ToMe"):
        tokenreduce.attach(model, ToMe(r=2), **option)
    assert snapshot(model) == untouched


def test_the_class_instead_of_an_object(model):
    from tokenreduce_methods.tome.method import ToMe

    with pytest.raises(OptionError):
        tokenreduce.attach(model, ToMe)


@pytest.mark.parametrize(
    "other",
    [torch.nn.Linear(2, 2), torch.nn.Sequential(), torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)],
    ids=lambda module: type(module).__name__,
)
def test_a_model_that_no_adapter_takes(other, snapshot):
    untouched = snapshot(other)
    with pytest.raises(UnsupportedModelError) as caught:
        tokenreduce.attach(other, "tome")
    assert isinstance(caught.value, TypeError)
    for word in (type(other).__name__, "hf-vilt", "timm-vit", "Supported"):
        assert word in str(caught.value)
    assert snapshot(other) == untouched


@pytest.mark.parametrize("thing", [None, "model", 3, torch.zeros(3), torch.nn.Linear])
def test_something_that_is_not_a_model(thing):
    with pytest.raises(UnsupportedModelError, match=r"torch\.nn\.Module"):
        tokenreduce.attach(thing, "tome")


def test_wrapped_models_say_where_to_attach(tiny_vit):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Linear(2, 2)

    with pytest.raises(UnsupportedModelError, match=r"model\.module"):
        tokenreduce.attach(Wrapper(), "tome")


def test_a_part_that_is_too_small(tiny_vit, tiny_vilt):
    for part in (tiny_vit().blocks, tiny_vit().blocks[0], tiny_vilt().vilt.encoder, tiny_vilt().vilt.encoder.layer[0]):
        with pytest.raises(UnsupportedModelError, match=r"Supported|VisionTransformer"):
            tokenreduce.attach(part, "tome")


def test_a_model_without_weights():
    import timm

    with torch.device("meta"):
        model = timm.create_model("test_vit")
    with pytest.raises(UnsupportedModelError, match="load the model"):
        tokenreduce.attach(model, "tome")


def test_a_vilt_without_weights(tiny_vilt):
    model = tiny_vilt().to("meta")
    with pytest.raises(UnsupportedModelError, match="load the model"):
        tokenreduce.attach(model, "tome")


def test_a_vilt_without_layers(tiny_vilt, tiny_vit):
    for model in (tiny_vilt(num_hidden_layers=0), tiny_vit(depth=0)):
        with pytest.raises((UnsupportedModelError, OptionError)):
            tokenreduce.attach(model, "tome", r=1)
        assert tokenreduce.attachment(model) is None


def test_one_block_used_twice(tiny_vit, snapshot):
    model = tiny_vit()
    model.blocks = torch.nn.Sequential(model.blocks[0], model.blocks[1], model.blocks[0])
    untouched = snapshot(model)
    with pytest.raises(UnsupportedModelError, match="several times"):
        tokenreduce.attach(model, "tome", r=1)
    assert snapshot(model) == untouched


def test_blocks_that_are_not_a_sequence(tiny_vit):
    model = tiny_vit()
    model.blocks = torch.nn.ModuleList(model.blocks)
    with pytest.raises(UnsupportedModelError, match="ModuleList"):
        tokenreduce.attach(model, "tome", r=1)


def test_a_users_own_reducer_that_fails_leaves_the_model_untouched(model, snapshot):
    class Failing(tokenreduce.Reducer):
        def bind(self, backbone):
            raise ZeroDivisionError("of its own")

    untouched = snapshot(model)
    with pytest.raises(ZeroDivisionError, match="of its own"):
        tokenreduce.attach(model, Failing())
    assert snapshot(model) == untouched


def test_a_reducer_that_needs_a_signal_no_backbone_has(model, snapshot):
    class Psychic(tokenreduce.Reducer):
        needs = frozenset({"clairvoyance"})

        def reduce(self, tokens, signals, remove):
            return tokens.identity()

    untouched = snapshot(model)
    with pytest.raises(UnfitReducerError, match=r"clairvoyance.*no such signal"):
        tokenreduce.attach(model, Psychic())
    assert snapshot(model) == untouched


@pytest.mark.parametrize("restore", ["full", "no"])
def test_restore_is_true_false_or_none(restore, model, snapshot):
    untouched = snapshot(model)
    with pytest.raises(OptionError, match="restore"):
        tokenreduce.attach(model, "tome", restore=restore)
    assert snapshot(model) == untouched
