"""Recipes of methods: what they are trained with by default, and what flags and arguments change of it."""

from __future__ import annotations

import argparse
import dataclasses
import json

import pytest
import torch
from torch.nn import functional as F

import tokenreduce
from tokenreduce import Recipe, Task
from tokenreduce.cli import finetune as command
from tokenreduce.errors import OptionError
from tokenreduce.methods import BaseReducer
from tokenreduce.tasks import Batch
from tokenreduce.train import published_recipe

SHORT = {"samples": 24, "batch": 4, "save_every": 2, "validate_every": 2, "validation_samples": 8, "lr": 1e-3}


class Taught(tokenreduce.Reducer):
    """Drops the last tokens; tells what it was scaled by."""

    recipe = {"patience": 3, "reduction_warmup": 1.0, "reduction_shape": "linear"}
    factors = []

    def scaled(self, factor, sites):
        self.factors.append(factor)
        return super().scaled(factor, sites)

    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(-torch.arange(tokens.count).float().expand(len(tokens.x), -1), remove=remove)


class Wrong(Taught):
    """Has a recipe with a setting that there is not."""

    recipe = {"patienc": 3}


def test_a_method_says_its_recipe():
    assert published_recipe("evit") == published_recipe(tokenreduce.chain("tome")) == Recipe()
    smarttrim = published_recipe("smarttrim")
    shape = {"reduction_warmup": 0.5, "reduction_shape": "linear"}
    assert smarttrim == Recipe(same_weights=True, full=1.0, last=True, lr=5e-5, reducer_lr=20.0, **shape)
    stacks = {"cross": "smarttrim", "vision": {"reducer": "smarttrim", "keep": 0.7}, "text": "none"}
    assert published_recipe(stacks) == smarttrim
    assert published_recipe(Taught()).patience == 3
    with pytest.raises(OptionError, match="different recipes"):
        published_recipe({"cross": "smarttrim", "vision": Taught()})
    with pytest.raises(OptionError, match=r"Wrong has 'patienc'.*patience"):
        published_recipe(Wrong())
    assert BaseReducer.recipe == {}


def test_flags_are_over_the_recipe_of_the_method():
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    given = ["finetune", "--reducer", "smarttrim", "--no-last", "--full-weight", "0", "--reduction-shape", "cosine"]
    expected = Recipe(same_weights=True, reduction_warmup=0.5, lr=5e-5, reducer_lr=20.0)
    assert command.recipe_of(parser.parse_args(given), "smarttrim") == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"full": 1.0}, "same_weights=True"),
        ({"full": 1.0, "same_weights": True, "distillation": False}, "distillation=True"),
        ({"full": -1.0}, "full must be"),
        ({"reduction_shape": "steps"}, "'cosine', 'linear'"),
        ({"last": 1}, "true or false"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(OptionError, match=message):
        Recipe(**changes)


def test_the_full_pass_is_learned_from(tiny_vit, images):
    model, labels = tiny_vit().train(), torch.tensor([1, 4])
    inputs = (images(),)
    with tokenreduce.attach(model, "evit") as handle:
        distillation = tokenreduce.distill(handle, full=0.5)
        lesson = distillation(inputs, lambda logits: F.cross_entropy(logits, labels))
        assert sorted(lesson.terms) == ["full", "logits", "task"]
        with handle.paused():
            whole = model(*inputs)
        torch.testing.assert_close(lesson.terms["full"], 0.5 * F.cross_entropy(whole, labels))
        grads = torch.autograd.grad(lesson.terms["full"], list(model.parameters()), retain_graph=True)
        assert all(grad.abs().max() > 0 for grad in grads[-4:])
        divergence = F.kl_div(lesson.output.log_softmax(-1), whole.softmax(-1).detach(), reduction="batchmean")
        torch.testing.assert_close(lesson.terms["logits"], divergence)
        apart = [
            one for one in torch.autograd.grad(lesson.terms["logits"], [whole], allow_unused=True) if one is not None
        ]
        assert not apart  # the teacher does not learn from its pupil
        plain = tokenreduce.distill(handle).teach(inputs)
        assert plain.output is None
        with pytest.raises(OptionError, match="leave teacher out"):
            tokenreduce.distill(handle, tiny_vit(), full=1.0)


@pytest.fixture
def task(tiny_vit):
    """A small ViT that is to tell bright pictures from dark ones."""

    def draw(seed, count):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (count,), generator=generator)
        return Batch((torch.randn(count, 3, 32, 32, generator=generator) + labels[:, None, None, None],), labels)

    return Task(
        "bright",
        tiny_vit(),
        lambda samples, batch: [draw(index, batch) for index in range(samples // batch)],
        lambda output, targets: (output.argmax(-1) == targets).float(),
        train=lambda seed, first, count: draw(1000 * (seed + 1) + first, count),
        validation=lambda samples, batch: [draw(500, samples)],
        loss=F.cross_entropy,
    )


def test_smarttrim_is_trained_as_it_says(task, tmp_path):
    """By its own weights, little by little; what is kept is the end, and loads with its trimmers."""
    recipe = dataclasses.replace(published_recipe("smarttrim"), **SHORT)
    lines = []
    found = tokenreduce.finetune(task, "smarttrim", tmp_path, recipe=recipe, watch=lines.append, keep=0.5)
    assert {"task", "logits", "full", "tokens"} <= lines[-1].keys()
    assert found.step == found.steps == 6 and not found.stopped
    assert found.accuracy == lines[-1]["accuracy"] == json.loads((found.folder / "best.json").read_text())["accuracy"]
    saved = json.loads((found.folder / "tokenreduce.json").read_text())
    assert saved["factors"] == {} and saved["config"]["keep"] == 0.5
    with tokenreduce.load(task.model, found.folder) as handle, torch.no_grad():
        task.model(torch.randn(2, 3, 32, 32))
        assert handle.last.tokens["image"] <= 17


def test_last_or_best(task, tmp_path):
    """With a learning rate that ruins the model, the best weights are those of early on, the last ones the last."""
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    steps = {}
    for last in (False, True):
        task.model.load_state_dict(start)
        recipe = Recipe(**{**SHORT, "lr": 3.0, "samples": 48}, patience=2, last=last)
        found = tokenreduce.finetune(task, "tome", tmp_path / str(last), recipe=recipe, r=2)
        steps[last] = found.step, found.steps, found.stopped
    assert steps[True] == (12, 12, False)
    assert steps[False][0] < steps[False][1] and steps[False][2]


def test_the_reduction_rises_in_the_shape_of_the_recipe(task, tmp_path):
    Taught.factors.clear()
    recipe = dataclasses.replace(published_recipe(Taught()), **SHORT)
    tokenreduce.finetune(task, Taught(keep=0.5), tmp_path, recipe=recipe)
    assert Taught.factors[:6] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
