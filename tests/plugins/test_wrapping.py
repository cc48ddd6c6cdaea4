"""A reducer that wraps another, as docs/compose.md writes one."""

import json
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import BoundWrapper, WrapperReducer, make

from ..helpers import KeyNorm


class Late(WrapperReducer):
    """Another reducer, in the second half of the layers alone."""

    inner: Any = "tome"

    @cached_property
    def inside(self):
        return (make(self.inner),)

    def bind(self, backbone):
        return BoundLate(self, [one.bind(backbone) for one in self.inside])

    def layers(self, backbone):
        return [layer for layer in self.inside[0].layers(backbone) if layer >= backbone.depth // 2]

    def within(self, layers):
        return replace(self, inner=self.inside[0].within(layers))

    def check_sites(self, sites):
        self.inside[0].check_sites(sites)


class BoundLate(BoundWrapper):
    def reduce_streams(self, streams, site):
        return self.inside[0].reduce_streams(streams, site)


class Half(tokenreduce.Reducer):
    """Delegates ``reduce`` alone, for half the tokens."""

    inner: Any = "random"

    @property
    def needs(self):
        return make(self.inner).needs

    def reduce(self, tokens, signals, remove):
        return make(self.inner).reduce(tokens, signals, remove // 2)


INNER = ["tome", "pumer", {"reducer": "evit", "keep": 0.6}, "chain"]


@torch.no_grad()
@pytest.mark.parametrize("inner", INNER, ids=str)
def test_it_acts_like_the_inner_reducer_in_its_layers(tiny_vit, images, tiny_meter, inner):
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
    assert inner.items() <= config["parts"][1]["inner"].items()
    assert config["parts"][1]["layers"] == [2, 3]


@torch.no_grad()
def test_reduce_alone_may_be_delegated(tiny_vit, images, flow):
    model = tiny_vit(img_size=48)
    with tokenreduce.attach(model, Half(inner=KeyNorm()), layers=[1]) as handle:
        model(images(2, 48, 48))
        assert flow(handle) == [37, 32]


def test_what_cannot_be_wrapped_is_refused(tiny_vit):
    with pytest.raises(UnfitReducerError, match="DynamicViT has weights to learn and cannot act inside Late"):
        tokenreduce.attach(tiny_vit(), Late(inner="dynamicvit"))
    with pytest.raises(OptionError, match=r"layers=\[1\] has no meaning here"):
        tokenreduce.attach(tiny_vit(), Late(inner={"reducer": "tome", "layers": [1]}))
