"""A third-party plugin that fails at attach is named and harms no other."""

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.backbones import Adapter
from tokenreduce.errors import OptionError, PluginError, UnsupportedModelError
from tokenreduce.methods import BoundReducer
from tokenreduce.registry import AdapterSpec, Entry, ReducerSpec


class Failing(Adapter):
    def accepts(self, model):
        raise ZeroDivisionError("the plugin's mistake")


class Refusing(Adapter):
    def accepts(self, model):
        return True

    def stacks(self, model):
        raise KeyError("blocks")


class AtOnce(Reducer):
    where: str = "init"

    def __post_init__(self):
        super().__post_init__()
        self.fail("init")

    def fail(self, where):
        if self.where == where:
            raise RuntimeError(f"fails in {where}")

    def bind(self, backbone):
        self.fail("bind")
        return super().bind(backbone)

    def layers(self, backbone):
        self.fail("layers")
        return [1]

    def reduce(self, tokens, signals, remove):
        return tokens.identity()


class Learning(Reducer):
    def bind(self, backbone):
        return Weights(self, backbone.width)

    def reduce(self, tokens, signals, remove):
        return tokens.identity()


class Weights(BoundReducer, nn.Module):
    def __init__(self, reducer, width):
        super().__init__(reducer)
        raise RuntimeError("fails in build")


@pytest.fixture
def offer(fresh_registry):
    """Put a class, or another target, in front of the registered ones, as of the distribution 'third-party 1.0'."""

    def put(kind, target):
        target = target if isinstance(target, str) else f"{__name__}:{target.__name__}"
        spec = (AdapterSpec if kind == "adapter" else ReducerSpec)("odd", target, "a third party's")
        table = fresh_registry.tables[kind]
        fresh_registry.tables[kind] = {"odd": Entry(spec, "third-party", "third-party", "1.0"), **table}

    return put


@pytest.mark.parametrize(("adapter", "says"), [(Failing, "ZeroDivisionError"), (None, "cannot load")])
def test_a_broken_adapter_does_not_block_the_others(offer, tiny_vit, images, adapter, says):
    offer("adapter", adapter or "no_such_module:Odd")
    model = tiny_vit()
    with pytest.warns(RuntimeWarning, match=f"{says}.*third-party 1.0"):
        handle = tokenreduce.attach(model, "tome", r=2)
    assert handle.config["adapter"] != "odd"
    handle.detach()
    with pytest.raises(UnsupportedModelError, match=r"no adapter takes .* Broken: .*third-party 1.0"):
        tokenreduce.attach(nn.Linear(2, 2), "tome")
    with pytest.raises(PluginError, match=f"{says}.*third-party 1.0"):
        tokenreduce.attach(model, "tome", adapter="odd")
    tokenreduce.attach(model, "tome", adapter=handle.config["adapter"]).detach()


def test_an_adapter_that_accepts_a_model_and_then_fails(offer, tiny_vit):
    offer("adapter", Refusing)
    tokenreduce.attach(tiny_vit(), "tome").detach()  # another one takes it too
    with pytest.raises(PluginError, match=r"adapter 'odd' failed with KeyError: 'blocks'.* third-party 1.0"):
        tokenreduce.attach(nn.Linear(2, 2), "tome")


@pytest.mark.parametrize("where", ["init", "bind", "layers", "build"])
def test_a_broken_reducer_is_named(offer, tiny_vit, snapshot, where):
    offer("reducer", Learning if where == "build" else AtOnce)
    model = tiny_vit()
    before = snapshot(model)
    options = {} if where == "build" else {"where": where}
    with pytest.raises(PluginError, match=f"reducer 'odd' failed with RuntimeError: fails in {where}.*third-party 1.0"):
        tokenreduce.attach(model, "odd", **options)
    assert snapshot(model) == before
    with pytest.raises(OptionError):
        tokenreduce.attach(model, "tome", r=-1)  # meant as it is: not the plugin's fault


def test_a_broken_part_of_a_chain_is_named(offer, tiny_vit):
    offer("reducer", AtOnce)
    for where in ("init", "bind", "layers"):
        with pytest.raises(PluginError, match=f"fails in {where}.*third-party 1.0"):
            tokenreduce.attach(tiny_vit(), tokenreduce.chain("tome", {"reducer": "odd", "where": where}))


def test_an_object_belongs_to_no_plugin(tiny_vit):
    class Mine(AtOnce):
        pass

    with pytest.raises(RuntimeError, match="fails in bind") as caught:
        tokenreduce.attach(tiny_vit(), Mine(where="bind"))
    assert not isinstance(caught.value, PluginError)
    assert torch.is_grad_enabled()
