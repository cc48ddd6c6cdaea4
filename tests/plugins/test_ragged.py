"""Rules as budgets: each sample keeps a number of its own. Axes: B batch, N tokens, C width."""

import copy
from functools import cached_property
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce.core.counts import batch_length
from tokenreduce.errors import OptionError, UnsupportedCallError
from tokenreduce.measure.macs import sample_macs
from tokenreduce.methods import (
    BoundWrapper,
    Budget,
    Reducer,
    Reduction,
    Rule,
    Site,
    Tokens,
    WrapperReducer,
    make,
)
from tokenreduce.ops import top, top_of_each

ENERGY = Budget.energy(0.8, cap=12)
SITE = Site("encoder", 0, 0, 1, 4)


@pytest.fixture
def vit(tiny_vit):
    """A ViT of 4 blocks with 17 tokens, and four pictures that differ much."""
    torch.manual_seed(0)
    model = tiny_vit(img_size=32, depth=4).eval()
    strength = torch.tensor([0.02, 0.3, 1.0, 8.0]).view(-1, 1, 1, 1)
    return model, torch.randn(4, 3, 32, 32) * strength


def attach(model, reducer="evit", **options):
    return tokenreduce.attach(model, reducer, layers=[0, 2], **options)


def test_budget_is_reachable_from_the_top():
    assert tokenreduce.Budget is Budget
    assert tokenreduce.Budget.energy(0.95, cap=64, bucket=16).rule == Rule("energy", 0.95, 64, bucket=16)


@pytest.mark.parametrize("bucket", [0, -1, 1.5, True])
def test_a_bucket_is_a_positive_integer(bucket):
    with pytest.raises(OptionError, match="bucket must be a positive integer"):
        Budget.energy(0.9, cap=8, bucket=bucket)


@torch.no_grad()
def test_tokens_and_macs_are_means_over_the_samples(vit):
    model, x = vit
    with attach(model, keep=ENERGY, saliency="key-norm", fuse=False) as handle:
        model(x)
        last = handle.last
        counts, macs = last.counts["image"], last.stacks["vision"].macs_of_samples
        assert len(set(counts.tolist())) > 1
        assert last.tokens == {"image": float(counts.double().mean())}
        assert last.spread["image"] == pytest.approx(float(counts.double().std(correction=0)))
        assert last.macs[1] == round(float(macs.double().mean()))
        assert last.macs_spread == pytest.approx(float(macs.double().std(correction=0)))
        assert "±" in str(handle)
        text, sites = str(handle), last.sites
        alone, measured = [], sample_macs(handle, (x,), 4)
        for one in x:
            model(one[None])
            alone.append(handle.last.macs[1])
            assert handle.last.macs_spread == 0
            assert type(handle.last.tokens["image"]) is int
        assert alone == macs.tolist()
        assert measured == [tokenreduce.count_macs(model, (one[None],)) for one in x]
        assert all(row.tokens_out <= 13 for row in sites), text


@torch.no_grad()
def test_where_all_keep_the_same_it_is_as_with_a_number(vit):
    """Bit for bit, without a mask."""
    model, x = vit
    bound = {"saliency": "key-norm"}
    with attach(model, keep=5, **bound) as handle:
        expected, sites = model(x), [(row.tokens_in, row.tokens_out) for row in handle.last.sites]
    with attach(model, keep=Budget.threshold(-1.0, cap=5), **bound) as handle:
        assert torch.equal(model(x), expected)
        assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == sites
        assert handle.last.stacks["vision"].macs_of_samples == handle.last.macs[1]


@torch.no_grad()
@pytest.mark.parametrize("bucket", [None, 4, 12, 100])
def test_a_bucket_changes_the_length_and_nothing_else(vit, shapes, bucket):
    model, x = vit
    options = {"saliency": "key-norm", "fuse": False}
    with attach(model, keep=ENERGY, **options) as handle:
        expected, counts = model(x), handle.last.counts["image"]
    seen = shapes(model.blocks)
    with attach(model, keep=Budget.energy(0.8, cap=12, bucket=bucket), **options) as handle:
        torch.testing.assert_close(model(x), expected)
        assert torch.equal(torch.as_tensor(handle.last.counts["image"]).expand(4), counts)
    most = int(counts.max()) - 1
    wanted = most if bucket is None else min(-(-most // bucket) * bucket, 12)
    assert seen[-1] == wanted + 1


def test_the_length_of_a_batch():
    counts = torch.tensor([3, 5, 2])
    assert batch_length(counts, 9) == (counts, 5)
    assert batch_length(counts, 9, 4) == (counts, 8)
    assert batch_length(counts, 9, 8)[1] == 8
    assert batch_length(counts, 9, 9) == (counts, 9)
    assert batch_length(torch.tensor([5, 5]), 9) == (None, 5)
    assert batch_length(torch.tensor([8, 8]), 9, 4) == (None, 8)


def test_with_the_cap_as_bucket_the_host_waits_for_nothing():
    """No tensor is read on the host: fake ones, which hold no numbers, do as well."""
    score = torch.randn(4, 9)
    tokens = Tokens(torch.randn(4, 9, 3), prefix=1)
    counts = torch.tensor([1, 5, 2, 8])
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        reduction = tokens.keep_top(score, counts=counts, cap=6, bucket=6)
        assert reduction.keep.shape == reduction.valid.shape == (4, 7)
        with pytest.raises(Exception, match=r"(?i)data-dependent|item|local_scalar|fake"):
            tokens.keep_top(score, counts=counts, cap=6)


@pytest.mark.parametrize("order", ["original", "score"])
def test_each_sample_keeps_its_own_highest(order):
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(5, 11, generator=generator)
    real = torch.ones(5, 11, dtype=torch.bool)
    real[2, 6:] = False
    counts = torch.tensor([1, 4, 3, 8, 6])
    keep, valid = top_of_each(score, counts, 8, prefix=2, real=real, order=order)
    assert keep.shape == valid.shape == (5, 10)
    for row in range(5):
        own = top(score[row : row + 1], int(counts[row]) + 2, prefix=2, real=real[row : row + 1], order=order)
        assert keep[row][valid[row]].tolist() == own[0].tolist()
        assert not set(keep[row][~valid[row]].tolist()) & set(own[0].tolist())
        assert valid[row].int().diff().max() <= 0  # what fills up comes last


@pytest.mark.parametrize("counts", [torch.tensor([0, 3]), torch.tensor([1, 99])])
def test_at_least_one_token_stays_and_at_most_the_cap(counts):
    tokens = Tokens(torch.randn(2, 9, 3), prefix=2)
    reduction = tokens.keep_top(torch.randn(2, 9), counts=counts, cap=5)
    assert reduction.counts().tolist() == [3, int(counts.clamp(1, 5)[1]) + 2]
    assert (reduction.keep[:, :2] == torch.arange(2)).all()


@pytest.mark.parametrize("given", [{}, {"remove": 1, "counts": torch.tensor([1, 1])}, {"counts": torch.tensor([1])}])
def test_keep_top_says_what_it_takes(given):
    with pytest.raises(UnsupportedCallError, match=r"keep_top takes|must be"):
        Tokens(torch.randn(2, 4, 3)).keep_top(torch.randn(2, 4), **given)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 2.5])
def test_a_scaled_rule_removes_that_many_times_as_much(factor):
    generator = torch.Generator().manual_seed(1)
    score, x = torch.rand(6, 20, generator=generator), torch.randn(6, 20, 5, generator=generator)
    real = torch.rand(6, 20, generator=generator) > 0.3
    budget = Budget.cumulative(0.7, cap=9)
    kept, scaled = budget.counts(SITE, score, x, real), budget.scaled(factor, 1)
    there = real.sum(dim=1)
    wanted = (there - (factor * (there - kept).double()).round().long()).clamp(min=1)
    got = scaled.counts(SITE, score, x, real)
    assert torch.equal(got, wanted)
    assert (got <= scaled.cap(SITE, 20)).all()


@torch.no_grad()
def test_scale(vit):
    model, x = vit
    with tokenreduce.attach(model, "none"):
        dense = model(x)
    with attach(model, keep=ENERGY, saliency="key-norm") as handle:
        expected, macs = model(x), handle.last.macs[1]
        handle.scale(0.0)
        assert torch.equal(model(x), dense)
        handle.scale(0.5)
        model(x)
        assert macs < handle.last.macs[1] < handle.last.macs[0]
        handle.scale(1.0)
        assert torch.equal(model(x), expected)


@torch.no_grad()
def test_config_and_copies(vit, tmp_path):
    model, x = vit
    with attach(model, keep=Budget.energy(0.8, cap=12, bucket=4), saliency="key-norm") as handle:
        expected, config = model(x), handle.config
        assert torch.equal(copy.deepcopy(model)(x), expected)
        handle.save(tmp_path / "attached")
    with tokenreduce.load(model, tmp_path / "attached"):
        assert torch.equal(model(x), expected)
    with tokenreduce.attach(model, **config):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("reducer", "options"),
    [("tome", {"r": ENERGY}), ("pitome", {"keep": ENERGY}), ("tofu", {"r": ENERGY}), ("diffrate", {"prune": ENERGY})],
)
def test_methods_that_merge_refuse_a_rule(vit, reducer, options):
    with pytest.raises(OptionError, match=r"is a rule, .* takes the same number from all"):
        attach(vit[0], reducer, **options)


def test_a_chain_refuses_a_method_that_takes_as_many_from_all(vit):
    with pytest.raises(OptionError, match=r"evit keeps different numbers .* and tome takes the same number"):
        attach(vit[0], tokenreduce.chain({"reducer": "evit", "keep": ENERGY}, {"reducer": "tome", "r": 2}))


@torch.no_grad()
def test_a_share_after_a_rule_is_of_each_samples_own_tokens(vit):
    model, x = vit
    parts = [{"reducer": "evit", "keep": ENERGY, "saliency": "key-norm", "layers": [0]}]
    parts += [{"reducer": "random", "keep": 0.6, "layers": [2]}, "none"]
    with tokenreduce.attach(model, tokenreduce.chain(*parts[:2])) as handle:
        model(x)
        whole, counts = model(x), handle.last.counts["image"]
        assert len(set(counts.tolist())) > 1
        torch.testing.assert_close(model(x[:1]), whole[:1])
        assert handle.last.tokens["image"] == int(counts[0])


def test_a_method_that_does_not_say_so_is_told(vit):
    class Silent(Reducer):
        def reduce(self, tokens, signals, remove):
            keep = tokens.identity().keep[:, : tokens.count - remove]
            return Reduction(keep, length=tokens.count, valid=torch.ones_like(keep, dtype=torch.bool))

    model, x = vit
    with attach(model, Silent()), pytest.raises(UnsupportedCallError, match="set ragged = True in the class"):
        model(x)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_each_sample_alone(vit, checkpointed):
    model, x = vit
    model.double()
    x = x.double()
    model.set_grad_checkpointing(checkpointed)
    with attach(model, keep=ENERGY, saliency="key-norm"):
        model(x).square().sum().backward()
        together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        for one in x:
            model(one[None]).square().sum().backward()
    for name, p in model.named_parameters():
        if name in together:
            torch.testing.assert_close(p.grad, together[name], rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_paused(vit):
    model, x = vit
    with tokenreduce.attach(model, "none"):
        dense = model(x)
    with attach(model, keep=ENERGY, saliency="key-norm") as handle, handle.paused():
        assert torch.equal(model(x), dense)


def test_calibration_matches_the_mean(vit):
    """An EViT whose samples differ and a random drop that takes as many from all, at one mean cost."""
    from tokenreduce.measure.calibration import solve_options

    model, x = vit
    dense = tokenreduce.count_macs(model, (x,), samples=4)

    def put(options):
        return tokenreduce.attach(model, **options)

    shares = []
    for options in (
        {"reducer": "evit", "keep": Budget.energy(0.9, cap=15), "saliency": "key-norm", "layers": [0]},
        {"reducer": "random", "keep": 0.8, "layers": [0]},
    ):
        found = solve_options(model, put, (x,), options, 4, ratio=None, share=0.7, dense=dense)
        with put(found) as handle:
            macs = sample_macs(handle, (x,), 4)
        shares.append(sum(macs) / len(macs) / dense)
    assert shares == pytest.approx([0.7, 0.7], abs=0.05)


def test_a_wrapper_refuses_a_rule_for_a_method_that_takes_none(vit):
    with pytest.raises(OptionError, match="r of ToMe is a rule"):
        attach(vit[0], Around(inner={"reducer": "tome", "r": ENERGY}))


@torch.no_grad()
def test_a_wrapper_of_a_method_that_takes_one(vit):
    model, x = vit
    inner = {"reducer": "evit", "saliency": "key-norm", "keep": ENERGY}
    with attach(model, "evit", saliency="key-norm", keep=ENERGY):
        expected = model(x)
    with attach(model, Around(inner=inner)):
        assert torch.equal(model(x), expected)


class Around(WrapperReducer):
    """Does what another reducer does."""

    inner: Any = "tome"

    @cached_property
    def inside(self):
        return (make(self.inner),)

    def bind(self, backbone):
        return BoundAround(self, [one.bind(backbone) for one in self.inside])

    def layers(self, backbone):
        return self.inside[0].layers(backbone)


class BoundAround(BoundWrapper):
    def reduce_streams(self, streams, site):
        return self.inside[0].reduce_streams(streams, site)
