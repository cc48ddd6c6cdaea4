"""``apply`` and ``counts``: a reducer without a model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError, UnknownOptionError, UnsupportedCallError
from tokenreduce.methods import SIGNALS, Backbone
from tokenreduce.registry import default_registry

SCORED = ("fopru", "svd-prune", "divprune", "cdpruner", "vispruner", "scope", "uniform", "pooling", "random", "tome")
"""Methods with different ways to choose."""


def signals(batch, count, seed=0):
    """Signals of a vision tower that any of these methods may read."""
    generator = torch.Generator().manual_seed(seed)
    rows = ("class_attention", "received_attention", "paid_attention", "received_logits", "paid_logits")
    made = {name: torch.rand(batch, count, generator=generator) for name in rows}
    return made | {name: torch.randn(batch, count, 8, generator=generator) for name in ("keys", "encoder_features")}


@given(name=st.sampled_from(SCORED), count=st.integers(2, 40), keep=st.one_of(st.integers(1, 50), st.floats(0.05, 1.0)))
def test_counts_are_those_of_apply(name, count, keep):
    options = {"r": count // 3} if name == "tome" else {"keep": keep}
    done = tokenreduce.apply(name, torch.randn(2, count, 6), **signals(2, count), **options)
    assert tokenreduce.counts(name, count, **options) == [done.x.shape[1]]
    assert done.reduction.count == done.x.shape[1]


def test_each_sample_is_reduced_by_itself():
    x, given_ = torch.randn(3, 30, 6), signals(3, 30)
    together = tokenreduce.apply("vispruner", x, keep=7, **given_).x
    for row in range(3):
        alone = tokenreduce.apply(
            "vispruner", x[row : row + 1], keep=7, **{k: v[row : row + 1] for k, v in given_.items()}
        )
        assert torch.equal(alone.x[0], together[row])


def test_the_reduction_applies_to_what_belongs_to_the_tokens():
    x = torch.randn(2, 20, 4)
    done = tokenreduce.apply({"reducer": "divprune", "keep": 5}, x)
    assert torch.equal(done.reduction.apply(x), done.x)
    assert torch.equal(x.gather(1, done.reduction.keep[..., None].expand(-1, -1, 4)), done.x)


def test_protected_tokens_padding_and_sizes():
    x, real = torch.randn(2, 12, 4), torch.ones(2, 12, dtype=torch.bool)
    real[1, 8:] = False
    done = tokenreduce.apply("tome", x, prefix=1, real=real, keys=torch.randn(2, 12, 4), r=3)
    assert torch.equal(done.x[:, 0], x[:, 0])
    assert done.size.sum(dim=1).tolist() == [12, 8]
    assert done.real.shape == (2, 9)


def test_a_reducer_that_keeps_all_gives_the_same_tensor():
    x = torch.randn(2, 6, 4)
    done = tokenreduce.apply("none", x)
    assert done.x is x and done.size is None and done.real is None


def test_samples_may_keep_different_numbers():
    x = torch.randn(2, 30, 8)
    x[0] = x[0, :1]  # one direction holds all of its energy
    done = tokenreduce.apply("divprune", x, keep=tokenreduce.Budget.energy(0.9, cap=20))
    assert done.reduction.counts().tolist()[0] == 1 and done.real.sum(dim=1).tolist()[0] == 1


def test_a_bound_reducer_is_taken_as_it_is():
    reducer = default_registry().load("reducer", "visionzip")(keep=6)
    active = reducer.bind(Backbone("handover", 1, ("image",), frozenset({"class_attention", "keys"}), False, "a model"))
    given_ = {name: signals(1, 25)[name] for name in ("class_attention", "keys")}
    assert tokenreduce.apply(active, torch.randn(1, 25, 4), **given_).x.shape == (1, 6, 4)
    assert tokenreduce.counts(active, 25) == [6]


def test_published_counts_over_several_layers():
    assert tokenreduce.counts("tome", 197, r=16, depth=12, prefix=1)[-3:] == [37, 21, 11]
    assert tokenreduce.counts("evit", 197, keep=0.7, depth=12, prefix=1) == [140, 100, 72]
    assert tokenreduce.counts("evit", 197, keep=0.7, depth=12, prefix=1, layers=[5]) == [140]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: tokenreduce.apply("divprune", x[0]), UnsupportedCallError, r"x must be tokens \(B, N, C\)"),
        (lambda x: tokenreduce.apply("divprune", x.long()), UnsupportedCallError, "floating point"),
        (lambda x: tokenreduce.apply("divprune", x, prefix=99), UnsupportedCallError, "prefix must be 0 to 9"),
        (lambda x: tokenreduce.apply("tome", x, keys=x[:, :3]), UnsupportedCallError, "keys must be a tensor"),
        (lambda x: tokenreduce.apply("tome", x, keys=x, real=x[0] > 0), UnsupportedCallError, "real must be"),
        (lambda x: tokenreduce.apply("pooling", x, grids=[(3, 3)]), UnsupportedCallError, "one grid per sample"),
        (lambda x: tokenreduce.apply("divprune", x, kep=3), UnknownOptionError, "Did you mean 'keep'"),
        (lambda x: tokenreduce.apply("tome", x), UnfitReducerError, "pass keys by name"),
        (lambda x: tokenreduce.apply("dynamicvit", x), UnfitReducerError, "has weights"),
        (lambda x: tokenreduce.apply({"keep": 3}, x), OptionError, "a mapping names the reducer"),
        (lambda x: tokenreduce.counts("e-adaprune", 9), UnfitReducerError, "keep=64"),
        (lambda x: tokenreduce.counts("divprune", 0), OptionError, "positive integer"),
        (lambda x: tokenreduce.counts("divprune", 9, prefix=10), OptionError, "prefix must be 0 to 9"),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.randn(2, 9, 4))


def test_no_option_of_a_reducer_has_the_name_of_a_signal():
    for name in default_registry().reducers:
        options = default_registry().load("reducer", name).option_defaults()
        assert not set(options) & {*SIGNALS, "prefix", "size", "real", "grids", "places", "stack"}, name
