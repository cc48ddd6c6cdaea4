"""A reducer that wraps another, as docs/compose.md writes one."""

import copy
import json

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError


class Late(tokenreduce.Reducer):
    """Another reducer, in the second half of the layers alone."""

    def __init__(self, *, inner="tome"):
        super().__init__()
        self.inner, self.wrapped = inner, tokenreduce.methods.make(inner)
        self.speak_for(self.wrapped)

    def bind(self, backbone):
        other = copy.copy(self)
        other.wrapped = self.wrapped.bind(backbone)
        other.speak_for(other.wrapped)
        return other

    def layers(self, depth):
        return [layer for layer in self.wrapped.layers(depth) if layer >= depth // 2]

    def within(self, layers):
        other = copy.copy(self)
        other.wrapped = self.wrapped.within(layers)
        return other

    def check_sites(self, sites):
        self.wrapped.check_sites(sites)

    def reduce_streams(self, streams, site):
        return self.wrapped.reduce_streams(streams, site)


class Half(tokenreduce.Reducer):
    """Delegates ``reduce`` alone, for half the tokens."""

    def __init__(self, *, inner="random"):
        super().__init__()
        self.inner, self.wrapped = inner, tokenreduce.methods.make(inner)
        self.speak_for(self.wrapped)

    def reduce(self, tokens, signals, remove):
        return self.wrapped.reduce(tokens, signals, remove // 2)


INNER = ["tome", "pumer", {"reducer": "evit", "keep": 0.6}, "chain"]


@torch.no_grad()
@pytest.mark.parametrize("inner", INNER, ids=str)
def test_it_is_the_other_in_its_layers(tiny_vit, images, tiny_meter, inner):
    x, layers = images(2, 48, 48), [2, 3]
    meter, inputs = tiny_meter()
    for model, run in (
        (tiny_vit(img_size=48), lambda model: model(x)),
        (meter, lambda model: model(**inputs).logits),
    ):
        own = tokenreduce.chain("random", {"reducer": "tome", "r": 2}) if inner == "chain" else inner
        with tokenreduce.attach(model, tokenreduce.methods.make(own), layers=layers, trace=True) as handle:
            wanted, source = run(model), handle.last.trace.source
        with tokenreduce.attach(model, Late(inner=own), layers=layers, trace=True) as handle:
            assert torch.equal(run(model), wanted)
            assert torch.equal(handle.last.trace.source, source)
        with tokenreduce.attach(model, Late(inner=own)) as handle:
            run(model)
            assert min(site.layer for site in handle.sites) >= 2


@torch.no_grad()
def test_it_comes_back_from_json_and_goes_into_a_chain(tiny_vit, images):
    model, x = tiny_vit(img_size=48), images(2, 48, 48)
    inner = {"reducer": "tome", "r": 3}
    with tokenreduce.attach(model, tokenreduce.chain("evit", Late(inner=inner))) as handle:
        model(x)
        assert [row.layer for row in handle.last.sites] == [1, 2, 3]
        config = json.loads(json.dumps(handle.config))
    assert config["parts"][1]["inner"] == inner
    assert config["parts"][1]["layers"] == [2, 3]


@torch.no_grad()
def test_reduce_alone_may_be_handed_on(tiny_vit, images, flow):
    class KeyNorm(tokenreduce.Reducer):
        needs = {"keys"}

        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(signals.keys.norm(dim=-1), remove=remove)

    model = tiny_vit(img_size=48)
    with tokenreduce.attach(model, Half(inner=KeyNorm()), layers=[1]) as handle:
        model(images(2, 48, 48))
        assert flow(handle) == [37, 32]


def test_what_cannot_be_wrapped_is_told():
    with pytest.raises(UnfitReducerError, match="has weights to learn and cannot act inside Late"):
        Late(inner="dynamicvit")
    with pytest.raises(OptionError, match=r"layers=\[1\] has no meaning here"):
        Late(inner={"reducer": "tome", "layers": [1]})
