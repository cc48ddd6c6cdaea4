"""The kit finds what is wrong: reducers and adapters with one fault each, and the check that names it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.backbones import Adapter
from tokenreduce.errors import PluginError
from tokenreduce.methods import Reduction
from tokenreduce.registry import AdapterSpec, ReducerSpec
from tokenreduce.testing import AdapterConformance, ReducerConformance, assert_close, models, site, snapshot, stream
from tokenreduce_models.timm.vit import TimmStack, TimmViT

CLASS = "image, a class token is read"


class Good(Reducer):
    """Keeps tokens with long keys."""

    needs = {"keys"}

    def score(self, tokens, signals):
        return signals.keys.norm(dim=-1)

    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(self.score(tokens, signals), remove=remove)


class NeedsTooMuch(Good):
    needs = {"keys", "class_attention"}


class WritesIntoTokens(Good):
    def score(self, tokens, signals):
        return signals.keys.mul_(2).norm(dim=-1)


class LooksAtOthers(Good):
    def score(self, tokens, signals):
        return signals.keys.norm(dim=-1) * (signals.keys - signals.keys.mean(dim=0)).norm(dim=-1)


class DrawsFromTorch(Good):
    def score(self, tokens, signals):
        return signals.keys.norm(dim=-1) * torch.rand(tokens.count)


class Remembers(Good):
    seen = 0

    def score(self, tokens, signals):
        type(self).seen += 1
        return signals.keys.norm(dim=-1) * (-1) ** type(self).seen


class ForgetsThePrefix(Good):
    def reduce(self, tokens, signals, remove):
        order = self.score(tokens, signals).argsort(dim=1, descending=True)
        return Reduction(order[:, : tokens.count - remove], length=tokens.count)


class ForgetsPadding(Good):
    def reduce(self, tokens, signals, remove):
        score = self.score(tokens, signals)
        score[:, : tokens.prefix] = torch.inf
        keep = score.topk(tokens.count - remove, dim=1).indices.sort(dim=1).values
        return Reduction(keep, length=tokens.count)


class CountsByContent(Good):
    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(self.score(tokens, signals), remove=min(remove, int(signals.keys.sum().abs()) % 3))


class RemovesNothing(Good):
    def reduce(self, tokens, signals, remove):
        return tokens.identity()


class KeepsTwice(Good):
    def reduce(self, tokens, signals, remove):
        keep = super().reduce(tokens, signals, remove).keep
        return Reduction(torch.cat([keep[:, :-1], keep[:, -2:-1]], dim=1), length=tokens.count)


class FoldsWithoutWeights(Good):
    """0 / 0 where all keys are zero."""

    def reduce(self, tokens, signals, remove):
        kept = super().reduce(tokens, signals, remove)
        weight = signals.keys.norm(dim=-1)
        weight = weight / weight.sum(dim=1, keepdim=True)
        return Reduction(kept.keep, length=tokens.count, keep_weight=weight.gather(1, kept.keep), mean=False)


class CutsTheGradient(Good):
    def reduce(self, tokens, signals, remove):
        kept = super().reduce(tokens, signals, remove)
        zero = torch.zeros(kept.keep.shape)
        return Reduction(kept.keep, length=tokens.count, keep_weight=zero, mean=False)


class CannotScale(Good):
    def scaled(self, factor, sites):
        return replace(self, keep=0.5)


class Ragged(Good):
    """In each sample as many as have a key above a length, at most what the budget leaves."""

    ragged = True

    def limit(self, long):
        return 1.5

    def reduce(self, tokens, signals, remove):
        long = self.score(tokens, signals).masked_fill(~self.real(tokens), 0)
        counts = (long > self.limit(long)).sum(dim=1).clamp(max=tokens.own_counts())
        return tokens.keep_top(long, counts=counts, cap=self.most(tokens, remove))

    def most(self, tokens, remove):
        return tokens.removable - remove

    def real(self, tokens):
        return torch.ones(tokens.x.shape[:2], dtype=torch.bool) if tokens.real is None else tokens.real


class RaggedByTheBatch(Ragged):
    def limit(self, long):
        return long.mean()


class RaggedBeyondTheCap(Ragged):
    def most(self, tokens, remove):
        return tokens.removable


class FoldsIntoFilling(Ragged):
    def reduce(self, tokens, signals, remove):
        made = super().reduce(tokens, signals, remove)
        if made.valid is None:
            return made
        gone = made.assignment()[:, -1:] < 0
        source = torch.full((len(gone), 1), tokens.count - 1)
        target = torch.where(gone, made.count - 1, -1)
        return Reduction(made.keep, source, target, length=tokens.count, partial=True, valid=made.valid)


def suite(reducer):
    return type("Suite", (ReducerConformance,), {"reducer": reducer})()


STREAMS = [
    (NeedsTooMuch, "test_needs_are_what_is_read", "never read.*class_attention"),
    (WritesIntoTokens, "test_what_is_given_is_left_as_it_is", "keys of stream 'image' was written to"),
    (LooksAtOthers, "test_a_sample_does_not_depend_on_its_batch", "by themselves"),
    (DrawsFromTorch, "test_the_same_again", "private one"),
    (ForgetsThePrefix, "test_protected_tokens_stay_in_front", "are protected"),
    (ForgetsPadding, "test_padding_goes_before_any_real_token", "went while padding stayed"),
    (CountsByContent, "test_the_number_of_tokens_follows_from_shapes", "numbers of tokens|the budget says"),
    (RemovesNothing, "test_something_goes", "nothing went in any layer"),
    (KeepsTwice, "test_every_token_goes_to_one_place", "kept or folded twice"),
    (FoldsWithoutWeights, "test_half_precision_with_nothing_to_tell_tokens_apart", "not finite"),
    (CutsTheGradient, "test_gradients_reach_what_stays", "gets no gradient"),
    (CannotScale, "test_nothing_goes_at_a_budget_of_zero", "should leave every token"),
]
RAGGED = [
    (RaggedByTheBatch, "test_a_sample_does_not_depend_on_its_batch", "by themselves|other numbers of tokens"),
    (RaggedBeyondTheCap, "test_the_number_of_tokens_follows_from_shapes", "the cap is"),
    (FoldsIntoFilling, "test_every_token_goes_to_one_place", "a fold into what is no token"),
]


@pytest.mark.parametrize(("reducer", "check", "says"), STREAMS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_is_found_without_a_model(reducer, check, says):
    more = {"dtype": torch.bfloat16} if "half" in check else {}
    getattr(suite(Good), check)({}, **more)
    with pytest.raises(AssertionError, match=says):
        getattr(suite(reducer), check)({}, **more)


@pytest.mark.parametrize(("reducer", "check", "says"), RAGGED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_with_counts_by_sample_is_found(reducer, check, says):
    getattr(suite(Ragged), check)({})
    with pytest.raises(AssertionError, match=says):
        getattr(suite(reducer), check)({})


@pytest.mark.parametrize(
    ("reducer", "check"),
    [
        (RemovesNothing, "test_tokens_go_where_the_report_says"),
        (Remembers, "test_the_same_whatever_the_seed"),
        (CannotScale, "test_a_budget_of_zero_changes_nothing"),
        (LooksAtOthers, "test_samples_are_reduced_one_by_one"),
        (ForgetsThePrefix, "test_trace_and_sizes_agree"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_found_on_a_model(reducer, check):
    good, bad = suite(Good), suite(reducer)
    getattr(good, check)(good.on({}, CLASS))
    with pytest.raises(AssertionError):
        getattr(bad, check)(bad.on({}, CLASS))


class Greedy(Adapter):
    def accepts(self, model):
        return True


class Markings(TimmViT):
    def stacks(self, model):
        model.seen = True
        return super().stacks(model)


class Promising(TimmViT):
    class Stack(TimmStack):
        def provides(self, index):
            return frozenset({"keys", "text_attention"})

    def stacks(self, model):
        return {"vision": self.Stack(super().stacks(model)["vision"].model)}


@pytest.mark.parametrize(
    ("adapter", "check"),
    [
        (Greedy, "test_there_are_examples"),
        (Markings, "test_detach_leaves_nothing"),
        (Promising, "test_signals_are_what_is_promised"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_of_an_adapter_is_found(adapter, check, fresh_registry):
    for kind, fails in ((TimmViT, False), (adapter, True)):
        tests = type("Suite", (AdapterConformance,), {"adapter": kind})()
        with tokenreduce.registry.use_registry(tests._registry()):
            given = [] if "there" in check else [TimmViT().examples()["VisionTransformer, class token"]()]
            if not fails:
                getattr(tests, check)(*given)
                continue
            with pytest.raises((AssertionError, tokenreduce.TokenReduceError)):
                getattr(tests, check)(*given)


def test_a_fresh_registry_is_gone_afterwards(fresh_registry, tiny_vit):
    fresh_registry.add(ReducerSpec("mine", f"{__name__}:Good", "keep tokens with long keys", needs=("keys",)))
    with pytest.raises(PluginError, match=r"'mine' is offered by added by hand 0.* already"):
        fresh_registry.add(ReducerSpec("mine", f"{__name__}:Good", "again"))
    with pytest.raises(PluginError, match="add takes one of ReducerSpec"):
        fresh_registry.add("mine")
    with tokenreduce.attach(tiny_vit(), "mine") as handle:
        assert handle.config["reducer"] == "mine"
    with tokenreduce.registry.use_registry(fresh_registry.copy()) as inner:
        inner.add(AdapterSpec("theirs", f"{__name__}:Greedy", "takes all"))
    assert "theirs" not in fresh_registry.adapters
    assert tokenreduce.registry.default_registry() is fresh_registry


def test_the_real_registry_never_saw_it():
    assert "mine" not in tokenreduce.registry.default_registry().reducers


def test_parts_of_the_kit(tiny_vit):
    made = stream(torch.randn(2, 5, 4), prefix=1, keys=torch.arange(10.0).view(2, 5, 1))
    assert Good(keep=0.5).reduce(made.tokens, made.signals, 2).keep.tolist() == [[0, 3, 4], [0, 3, 4]]
    assert Good(keep=0.5).budget.at(site(), made.tokens.removable) == 2
    assert {name.partition(": ")[0] for name in models()} == set(tokenreduce.registry.default_registry().adapters)
    with pytest.raises(AssertionError, match=r"logits: differs by 1 at a scale of 2; allowed is 2e-05 of it"):
        assert_close(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]), what="logits")
    with pytest.raises(AssertionError, match="expected shape"):
        assert_close(torch.zeros(2), torch.zeros(3))
    with pytest.raises(AssertionError):
        assert_close(torch.tensor([torch.nan]), torch.tensor([1.0]))
    model = tiny_vit()
    before = snapshot(model)
    assert snapshot(model) == before
    model.blocks[0].extra = nn.Identity()
    assert snapshot(model) != before


def test_missing_names_are_reported():
    with pytest.raises(pytest.fail.Exception, match="reducer = "):
        ReducerConformance().made({})
    with pytest.raises(ValueError, match="no backbone is called 'nope'; kinds: "):
        suite(Good).on({}, "nope")
