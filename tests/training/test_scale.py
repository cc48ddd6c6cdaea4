"""How much of the configured removal is in force, and schedules of it."""

from __future__ import annotations

import json

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import BaseReducer, Reduction
from tokenreduce.testing.models import reduced_stack
from tokenreduce.train.warmup import warmup


def removed(handle):
    rows = handle.last.sites
    return sum(row.tokens_in - row.tokens_out for row in rows)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tome", {"r": [4, 0, 2]}),
        ("tome", {"r": (3, -0.5)}),
        ("evit", {"keep": 0.6}),
        ("random", {"remove": 2}),
        ("pumer", {}),
        ("dynamicvit", {"keep": 0.6}),
    ],
)
def test_from_nothing_to_what_was_configured(name, options, case):
    model, run = case
    with tokenreduce.attach(model, name, **options) as handle:
        reducer, config = reduced_stack(handle).reducer.reducer, handle.config
        run(model)
        whole, before = removed(handle), reducer.options()
        seen = []
        for factor in (0, 0.5, 1):
            handle.scale(factor)
            run(model)
            seen.append(removed(handle))
        assert seen[0] == 0 < seen[1] < seen[2] == whole
        assert reduced_stack(handle).reducer.reducer.options() == before
        assert handle.config == config


def test_learned_weights_stay_the_same_objects(case, scorer):
    model, run = case
    model.train()
    handle = tokenreduce.attach(model, scorer(keep=0.5))
    made = reduced_stack(handle).reducer
    weights = [id(p) for p in made.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for factor in (0.0, 0.5, 1.0):
        handle.scale(factor)
        assert made.reducer.keep == 1 - 0.5 * factor
        assert made.training and made.scores is made._modules["scores"]
        (run(model).sum() + handle.last.losses["share"]).backward()
        optimizer.step()
    assert reduced_stack(handle).reducer is made
    assert [id(p) for p in made.parameters()] == weights
    model.eval()
    assert not made.training


@torch.no_grad()
def test_a_stack_of_its_own(tiny_meter):
    model, inputs = tiny_meter()
    with tokenreduce.attach(model, {"cross": "pumer", "vision": {"reducer": "tome", "r": 2}}) as handle:
        handle.scale(0, "vision")
        model(**inputs)
        gone = {stack: sum(r.tokens_in - r.tokens_out for r in handle.last.sites if r.stack == stack)
                for stack in handle.stacks}  # fmt: skip
        assert gone["vision"] == 0 < gone["cross"]
        handle.scale(0)
        model(**inputs)
        assert removed(handle) == 0


@torch.no_grad()
def test_scale_and_guide_hold_together():
    from tokenreduce_models.transformers.clip import Clip

    example = Clip().examples()["CLIPVisionModelWithProjection"]()
    model, inputs = example.model, {"pixel_values": example.inputs["pixel_values"]}
    with tokenreduce.attach(model, "pumer") as handle:
        model(**inputs)
        whole = removed(handle)
        handle.scale(0.5)
        model(**inputs)
        half = removed(handle)
        width = model(**inputs).image_embeds.shape[-1]
        with handle.guide(torch.randn(width)):
            assert reduced_stack(handle).reducer.reducer.saliency == "text"
            model(**inputs)
            assert removed(handle) == half
            handle.scale(1)
            assert reduced_stack(handle).reducer.reducer.saliency == "text"
            model(**inputs)
            assert removed(handle) == whole
        assert reduced_stack(handle).reducer.reducer.saliency == "class"
        model(**inputs)
        assert 0 < half < removed(handle) == whole


class Rigid(BaseReducer):
    def reduce(self, tokens, signals, remove):
        return Reduction.identity(2, 17)


def test_what_cannot_be_scaled(tiny_vit):
    model = tiny_vit()
    with tokenreduce.attach(model, Rigid()) as handle:
        with pytest.raises(UnfitReducerError, match="no option to scale"):
            handle.scale(0.5)
        handle.scale(1)
        for factor in (-1, float("nan"), "1", None, True):
            with pytest.raises(OptionError, match="factor must be a non-negative number"):
                handle.scale(factor)


@pytest.mark.parametrize(
    ("epoch", "keep"), [(0, 1.0), (9, 1.0), (10, 1.0), (35, 0.9561), (60, 0.85), (85, 0.7439), (110, 0.7), (299, 0.7)]
)
def test_published_keep_rates(epoch, keep, tiny_vit):
    factor = warmup(epoch, 10, 100)
    assert round(1 - (1 - 0.7) * factor, 4) == keep
    with tokenreduce.attach(tiny_vit(), "evit", keep=0.7) as handle:
        handle.scale(factor)
        assert round(reduced_stack(handle).reducer.keep, 4) == keep


def test_a_linear_curriculum():
    assert [warmup(step, 2, 4, "linear") for step in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [warmup(step, 3, 0) for step in (2, 3)] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((-1, 0, 1), "step"), ((0, -1, 1), "start"), ((0, 0, float("inf")), "length"), ((0, 0, 1, "sine"), "shape")],
)
def test_schedules_that_do_not_exist(arguments, match):
    with pytest.raises(OptionError, match=match):
        warmup(*arguments)


def test_warmup_steps_and_goes_on(tiny_vit):
    model = tiny_vit()
    handle = tokenreduce.attach(model, "evit", keep=0.7)
    schedule = tokenreduce.Warmup(handle, start=1, length=2, shape="linear", steps_per_epoch=2)
    keeps = [reduced_stack(handle).reducer.keep]
    for _ in range(7):
        assert schedule.step() == schedule.factor == reduced_stack(handle).factor
        keeps.append(reduced_stack(handle).reducer.keep)
    torch.testing.assert_close(keeps, [1.0, 1.0, 1.0, 0.925, 0.85, 0.775, 0.7, 0.7])
    assert keeps[-1] == 0.7
    state = json.loads(json.dumps(schedule.state_dict()))
    handle = tokenreduce.attach(model, "evit", keep=0.7, replace=True)
    other = tokenreduce.Warmup(handle, start=1, length=2, shape="linear", steps_per_epoch=2)
    assert reduced_stack(handle).reducer.keep == 1.0
    other.load_state_dict({**state, "steps": 4})
    assert reduced_stack(handle).reducer.keep == 0.85
    assert other.step() == 0.75
    for wrong in ({}, {"steps": -1}, {"steps": 1.5}):
        with pytest.raises(OptionError, match="state of a Warmup"):
            other.load_state_dict(wrong)
    with pytest.raises(OptionError, match="steps_per_epoch"):
        tokenreduce.Warmup(handle, length=1, steps_per_epoch=0)
    with pytest.raises(OptionError, match="shape"):
        tokenreduce.Warmup(handle, length=1, shape="sine")


def test_a_warmup_of_learned_predictors_trains_them_from_the_first_step(tiny_vit, images):
    model = tiny_vit().train()
    handle = tokenreduce.attach(model, "dynamicvit")
    schedule = tokenreduce.Warmup(handle, length=3)
    for _ in range(4):
        model.zero_grad()
        (model(images()).sum() + handle.last.losses["ratio"]).backward()
        assert all(p.grad is not None for p in model.parameters())  # no process of several waits for one in vain
        schedule.step()
