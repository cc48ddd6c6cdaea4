"""Reducers with weights of their own: where these live, who sees them, and what is left alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError, UnsupportedModelError
from tokenreduce.testing.models import reduced_stack
from tokenreduce_models.meter import MeterForQuestionAnswering
from tokenreduce_models.meter.examples import example


def home(model):
    return model.vilt.encoder if hasattr(model, "vilt") else model


def prefix(model):
    return "vilt.encoder.tokenreduce." if hasattr(model, "vilt") else "tokenreduce."


def test_weights_are_a_part_of_the_model_while_attached(kind, case, snapshot):
    model, run = case
    untouched = snapshot(model)
    given = kind()
    handle = tokenreduce.attach(model, given)
    made = home(model).tokenreduce
    assert made is reduced_stack(handle).reducer
    assert made.reducer is given and not hasattr(given, "scores")  # the user's own is left as it was
    names = [name for name in model.state_dict() if name not in untouched[2]]
    assert names == [f"{prefix(model)}scores.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")]
    assert {id(p) for p in made.parameters()} <= {id(p) for p in model.parameters()}
    run(model)
    assert [row.tokens_out < row.tokens_in for row in handle.last.sites if row.stream == "image"] == [True, True]
    handle.detach()
    assert snapshot(model) == untouched
    assert not hasattr(home(model), "tokenreduce")
    handle.install()
    assert home(model).tokenreduce is made


def test_a_stack_that_runs_its_parts_in_turn_is_left_alone(tiny_vit, kind):
    model = tiny_vit()
    with tokenreduce.attach(model, kind()):
        assert len(model.blocks) == 4  # an nn.Sequential, which would run the reducer as a fifth block
        assert "tokenreduce" in dict(model.named_children())


def test_device_dtype_and_mode_are_the_models(kind, case):
    model, _ = case
    model.to(torch.bfloat16).train()
    handle = tokenreduce.attach(model, kind())
    made = home(model).tokenreduce
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert made.training
    model.eval()
    assert not made.training
    model.double()
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    model.to("meta")
    assert {p.device.type for p in reduced_stack(handle).reducer.parameters()} == {"meta"}


def test_new_weights_come_from_torchs_generator_and_disturb_no_draw(scorer, case):
    model, _ = case
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with tokenreduce.attach(model, scorer()) as handle:
        one = copy.deepcopy(reduced_stack(handle).reducer.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    with tokenreduce.attach(model, scorer()) as handle:
        other = reduced_stack(handle).reducer.state_dict()
    assert not torch.equal(one["scores.0.weight"], other["scores.0.weight"])
    with torch.inference_mode():
        handle = tokenreduce.attach(model, scorer())
    assert not any(p.is_inference() for p in home(model).tokenreduce.parameters())


def test_weights_that_are_there_are_kept(scorer, case):
    model, run = case
    handle = tokenreduce.attach(model, scorer())
    made = home(model).tokenreduce
    run(model)
    with torch.no_grad():
        made.scores[0].weight.add_(1)
    trained = copy.deepcopy(made.state_dict())
    handle.detach()
    handle.install()  # the same weights
    assert home(model).tokenreduce is made
    assert all(torch.equal(value, trained[name]) for name, value in made.state_dict().items())
    handle.detach()
    with pytest.raises(OptionError, match="reducer is a name, a Reducer or a mapping of stacks, got"):
        tokenreduce.attach(model, made)  # made for that attachment
    with tokenreduce.attach(model, made.reducer):  # new weights, to which those can be copied
        new = home(model).tokenreduce
        assert new is not made and not torch.equal(new.scores[0].weight, made.scores[0].weight)
        new.load_state_dict(made.state_dict())
        for one, other in zip(new.parameters(), made.parameters(), strict=True):
            assert torch.equal(one, other) and one is not other


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("ran", [False, True])
def test_copies_have_one_reducer_of_their_own(duplicate, ran, case):
    model, run = case
    handle = tokenreduce.attach(model, "dynamicvit", keep=0.5)
    if ran:
        model.train()
        run(model)
        assert handle.last.losses
        model.eval()
    twin = duplicate(model)
    own = tokenreduce.attachment(twin)
    assert home(twin).tokenreduce is reduced_stack(own).reducer is not home(model).tokenreduce
    assert not ran or own.last.losses == {}  # tensors with a history cannot be copied
    with torch.no_grad():
        assert torch.equal(run(twin), run(model))
        for parameter in home(twin).tokenreduce.parameters():
            parameter.normal_()
        assert not torch.equal(run(twin), run(model))
    own.detach()
    assert not hasattr(home(twin), "tokenreduce") and hasattr(home(model), "tokenreduce")


def test_a_replacement_that_fails_leaves_the_old_one(scorer, case):
    model, run = case
    handle = tokenreduce.attach(model, scorer())
    with torch.no_grad():
        expected = run(model)
        made = home(model).tokenreduce
        with pytest.raises(OptionError):
            tokenreduce.attach(model, "dynamicvit", keep=[0.5] * 9, replace=True)
        assert home(model).tokenreduce is made and handle.attached
        assert torch.equal(run(model), expected)
        tokenreduce.attach(model, "tome", r=1, replace=True)
        assert not hasattr(home(model), "tokenreduce") and not handle.attached


def test_a_name_that_is_taken(scorer, case, forwards):
    model, _ = case
    home(model).tokenreduce = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="has something called 'tokenreduce' already"):
        tokenreduce.attach(model, scorer())
    assert forwards(model) == []
    tokenreduce.attach(model, "tome", r=1)  # one without weights needs no name


def test_a_reducer_that_was_wrapped_is_not_taken_away_unseen(scorer, case):
    model, _ = case
    handle = tokenreduce.attach(model, scorer())
    made = home(model).tokenreduce
    home(model).tokenreduce = nn.Sequential(made)
    with pytest.raises(UnsupportedCallError, match=r"tokenreduce of .* was replaced after attach"):
        handle.detach()
    home(model).tokenreduce = made
    handle.detach()


def test_checkpoints_both_ways(scorer, tiny_vilt, vilt_inputs):
    plain, other, twin = tiny_vilt(), tiny_vilt(seed=1), tiny_vilt(seed=2)
    tokenreduce.attach(other, "pumer")
    plain.load_state_dict(other.state_dict())  # a parameter-free reducer leaves no trace in a checkpoint
    other.load_state_dict(plain.state_dict())
    tokenreduce.attach(other, scorer(), replace=True)
    tokenreduce.attach(twin, scorer())
    missing, surplus = plain.load_state_dict(other.state_dict(), strict=False)
    assert missing == [] and {name.split(".scores.")[0] for name in surplus} == {"vilt.encoder.tokenreduce"}
    missing, surplus = twin.load_state_dict(plain.state_dict(), strict=False)
    assert surplus == [] and all(name.startswith("vilt.encoder.tokenreduce.scores.") for name in missing)
    twin.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(**vilt_inputs()).logits, other(**vilt_inputs()).logits)


def test_a_reducer_per_stack():
    made = example(MeterForQuestionAnswering)
    model, inputs = made.model, made.inputs
    with tokenreduce.attach(model, {"cross": "dynamicvit", "vision": "dynamicvit"}) as handle:
        names = [name for name, module in model.named_modules() if name.split(".")[-1] == "tokenreduce"]
        assert len(names) == 2
        one, other = (stack.reducer for stack in handle.stacks.values())
        assert one is not other
        model.eval()
        with torch.no_grad():
            model(**inputs)
        rows = {
            stack: [r for r in handle.last.sites if r.stack == stack and r.stream == "image"] for stack in handle.stacks
        }
        assert all(row[-1].tokens_out < row[0].tokens_in for row in rows.values())
        model.train()
        model(**inputs).logits.sum().backward()
        assert set(handle.last.losses) == {"ratio"}
        assert all(p.grad is not None for p in [*one.parameters(), *other.parameters()])


@torch.no_grad()
def test_the_start_of_a_block_in_two_sequences(tiny_meter):
    """At the start of an image block its own image tokens go; what is left is a memory for the next text block."""
    model, inputs = tiny_meter()

    class First(Reducer):
        position = "before_block"
        seen: Any = None

        def reduce(self, tokens, signals, remove):
            self.seen.append(tokens.x.clone())
            return tokens.keep_top(-torch.arange(tokens.count).expand(len(tokens.x), -1).float(), remove=remove)

    seen, given = [], []
    reducer = First(keep=0.5, seen=seen)
    hook = model.cross_modal_image_layers[1].register_forward_pre_hook(lambda m, args: given.append(args[0].clone()))
    with tokenreduce.attach(model, reducer, layers=[1], trace=True) as handle:
        model(**inputs)
        rows = [row for row in handle.last.sites if row.stream == "image"]
        between = reduced_stack(handle).last.between
        before, after = handle.last.macs
        source = handle.last.trace.stream("image")
    hook.remove()
    assert torch.equal(seen[0], given[-1])  # the block's input, before any of it ran
    (row,) = rows
    assert row.layer == 1 and row.tokens_out == 1 + -(-(row.tokens_in - 1) // 2)
    assert [b["image"] for b in between[2:5]] == [row.tokens_in] * 2 + [row.tokens_out]
    assert (source[:, : row.tokens_out] >= 0).all() and (source[:, row.tokens_out :] == -1).all()
    assert after < before


@torch.no_grad()
@pytest.mark.parametrize("restore", [None, True])
def test_the_start_of_a_block_is_the_middle_of_none(tiny_vit, images, restore):
    """Dropping at the start of block 2 is what a plain model does when it is given fewer tokens there."""
    model, x = tiny_vit(global_pool="token"), images()

    class Norm(Reducer):
        position = "before_block"

        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)

    seen = []
    hook = model.blocks[2].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(x)
    hook.remove()
    tokens = seen[0]
    keep = tokens[:, 1:].norm(dim=-1).topk(8, dim=1).indices.sort(dim=1).values + 1
    keep = torch.cat([torch.zeros_like(keep[:, :1]), keep], dim=1)
    short = tokens.gather(1, keep[..., None].expand(-1, -1, 32))
    for block in model.blocks[2:]:
        short = block(short)
    expected = model.norm(short)
    with tokenreduce.attach(model, Norm(keep=0.5), layers=[2], restore=restore, trace=True) as handle:
        got = model.forward_features(x)
        assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == [(17, 9)]
        weights = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 2)
        assert handle.last.macs[1] == sum(n * weights + 2 * n * n * 32 for n in (17, 17, 9, 9))
        source = handle.last.trace.source
    if restore:
        dropped = source < 0
        assert torch.equal(got[dropped], model.norm(tokens)[dropped])  # the last value they had
        got = got.gather(1, keep[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


class Early(Reducer):
    position = "before_block"
    needs = {"keys"}


class Elsewhere(Reducer):
    position = "end"

    def reduce(self, tokens, signals, remove):
        return tokens.identity()


def test_places_that_do_not_exist(tiny_vit):
    model = tiny_vit()
    Early.reduce = Elsewhere.reduce
    with pytest.raises(UnfitReducerError, match=r"before a block .* needs keys; leave 'needs' empty"):
        tokenreduce.attach(model, Early(keep=0.5))
    with pytest.raises(UnfitReducerError, match="must be 'after_attention' or 'before_block'"):
        tokenreduce.attach(model, Elsewhere(keep=0.5))


@pytest.mark.parametrize("bases", [(nn.Module, Reducer), (Reducer, nn.Module)])
def test_options_and_weights_are_two_classes(bases):
    with pytest.raises(UnfitReducerError, match=r"Wrong is a reducer and an nn\.Module; keep .*methods\.BoundReducer"):
        type("Wrong", bases, {})


def test_repr_is_the_reducers(scorer, tiny_vit):
    told = "Scorer(keep=0.25, weight=1.0, layers_of=[1, 2])"
    assert repr(scorer(keep=0.25)) == told
    with tokenreduce.attach(tiny_vit(), scorer(keep=0.25)) as handle:
        assert str(handle).startswith(f"VisionTransformer with {told}\n")
