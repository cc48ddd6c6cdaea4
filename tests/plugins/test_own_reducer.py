"""Reducers as a user writes them, through attach."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import UnsupportedCallError
from tokenreduce.methods import Reduction
from tokenreduce.ops import others

from ..helpers import KeyNorm


class Spelled(KeyNorm):
    """The same, each dropped token written as a fold into nothing."""

    def reduce(self, tokens, signals, remove):
        keep = super().reduce(tokens, signals, remove).keep
        gone = others(keep, tokens.count)
        return Reduction(keep, gone, torch.full_like(gone, -1), length=tokens.count, partial=True)


class FuseThenForget(KeyNorm):
    """The same, the dropped tokens first fused into a new one, which is dropped then."""

    def reduce(self, tokens, signals, remove):
        keep = super().reduce(tokens, signals, remove).keep
        gone = others(keep, tokens.count)
        fused = torch.cat([keep, torch.full_like(keep[:, :1], -1)], dim=1)
        first = Reduction(fused, gone, torch.full_like(gone, keep.shape[1]), length=tokens.count, fresh=1)
        last = torch.arange(keep.shape[1]).expand(len(keep), -1)
        return first.then(Reduction(last, length=first.count))


class Greedy(KeyNorm):
    needs = ()


class Wrong(KeyNorm):
    def reduce_streams(self, streams, site):
        return {"picture": streams["image"].tokens.identity()}


class Short(KeyNorm):
    def reduce_streams(self, streams, site):
        return {"image": Reduction.identity(len(streams["image"].tokens.x), 3)}


@torch.no_grad()
def test_the_ten_line_reducer(oracle, tiny_vit, images, flow):
    model, x = tiny_vit(img_size=48).double(), images(2, 48, 48).double()
    with tokenreduce.attach(model, KeyNorm(keep=0.5), layers=[0], trace=True) as handle:
        assert model(x).isfinite().all()
        assert flow(handle) == [37, 19]
        for sample, image in enumerate(x):
            keys, _ = oracle.first_signals(model, image)
            wanted = sorted(oracle.falling(keys[1:].norm(dim=-1))[:18])
            assert handle.last.trace[sample] == [[0], *([place + 1] for place in wanted)]


@torch.no_grad()
@pytest.mark.parametrize("kind", [Spelled, FuseThenForget])
def test_other_ways_to_drop_are_the_same_drop(tiny_vit, images, kind):
    model, x = tiny_vit(img_size=48), images(2, 48, 48)

    def output(reducer):
        with tokenreduce.attach(model, reducer, layers=[0, 2], trace=True) as handle:
            return model(x), handle.last.trace.source

    (wanted, source), (got, same) = output(KeyNorm(keep=0.5)), output(kind(keep=0.5))
    assert torch.equal(source, same)
    torch.testing.assert_close(got, wanted)


def test_mistakes_of_a_reducer_are_explained(tiny_vit, images):
    model, x = tiny_vit(), images()
    for kind, says in (
        (Greedy, "the reducer read signals.keys but its 'needs' has"),
        (Wrong, r"by stream name \(image\), got 'picture'"),
        (Short, "the reduction of 'image' is for 3 tokens, the stream has 17"),
    ):
        with tokenreduce.attach(model, kind(keep=0.5)), pytest.raises(UnsupportedCallError, match=says):
            model(x)
