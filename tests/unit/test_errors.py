"""The error tree, and messages that say what to type next."""

import builtins
import pickle
import re

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce import errors
from tokenreduce.errors import TokenReduceError, nearest

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, TokenReduceError) and value is not TokenReduceError
]
DRAWN = dict(re.findall(r"[├└]── (\w+) \((\w+)\)", errors.__doc__))


def test_the_drawn_tree_is_the_tree():
    assert set(DRAWN) == {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_error_is_a_tokenreduce_error_and_the_documented_builtin(kind):
    assert issubclass(kind, TokenReduceError)
    assert issubclass(kind, getattr(builtins, DRAWN[kind.__name__]))
    assert getattr(errors, kind.__name__) is kind
    assert kind.__name__ in errors.__all__
    assert kind.__doc__


@pytest.mark.parametrize("kind", [TokenReduceError, *CLASSES], ids=lambda kind: kind.__name__)
def test_messages_are_printed_as_they_are(kind):
    message = "no reducer is called 'x'.\nValid: a, b."
    assert str(kind(message)) == message
    assert str(kind()) == ""
    copy = pickle.loads(pickle.dumps(kind(message)))
    assert type(copy) is kind
    assert str(copy) == message
    with pytest.raises(TokenReduceError):
        raise kind(message)


def test_unknown_option_is_an_option_error_and_a_type_error():
    assert issubclass(errors.UnknownOptionError, errors.OptionError)
    assert issubclass(errors.UnknownOptionError, (ValueError, TypeError))


def test_nearest():
    assert nearest("pummer", ["pumer", "tome"]) == " Did you mean 'pumer'? Valid: pumer, tome."
    assert nearest("zzz", ["pumer", "tome"]) == " Valid: pumer, tome."
    assert nearest("x", []) == " Valid: (none)."
    assert " or " in nearest("layer", ["layer1", "layer2"])


@pytest.mark.parametrize(
    ("call", "kind", "builtin", "says"),
    [
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "pummer"), "UnknownNameError", KeyError, "Did you mean 'pumer'"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "tome", rr=3), "UnknownOptionError", TypeError, "no option 'rr'"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "tome", r=-3), "OptionError", ValueError, "-3"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "tome"), "UnsupportedModelError", TypeError, "Linear"),
        (lambda: tokenreduce.attach(3, "tome"), "UnsupportedModelError", TypeError, "got int"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), 3), "OptionError", ValueError, "got int"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), {}), "OptionError", ValueError, "at least one stack"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "none", adapter="tim"), "UnknownNameError", KeyError, "adapter"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "no_such:Thing"), "PluginError", ImportError, "no_such:Thing"),
        (lambda: tokenreduce.attach(nn.Linear(1, 1), "torch.nn:Linear"), "OptionError", ValueError, "Reducer"),
        (lambda: tokenreduce.registry.AdapterSpec("Bad Name", "a:b", ""), "PluginError", ImportError, "Bad Name"),
        (lambda: tokenreduce.registry.AdapterSpec("good", "a.b", ""), "PluginError", ImportError, "module:attribute"),
    ],
)
def test_mistakes_are_explained(call, kind, builtin, says):
    with pytest.raises(TokenReduceError) as caught:
        call()
    assert type(caught.value).__name__ == kind
    assert isinstance(caught.value, builtin)
    message = str(caught.value)
    assert says in message
    assert message != repr(caught.value.args[0])  # the sentence itself


def test_an_undeclared_signal_is_named():
    from tokenreduce.methods import Signals

    signals = Signals({"keys": lambda: torch.zeros(1, 1, 1)}, frozenset({"keys", "text_attention"}))
    assert signals.keys is signals.keys  # computed once
    with pytest.raises(errors.UnsupportedCallError, match="class_attention"):
        _ = signals.class_attention
    with pytest.raises(errors.UnsupportedCallError, match="this stream has no text_attention; it has keys"):
        _ = signals.text_attention


def test_the_module_has_no_other_names_for_missing_ones():
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        _ = tokenreduce.atach
