"""Samples that keep different numbers of tokens, on every adapter's examples: alone, each gives the same."""

from __future__ import annotations

import pytest
import torch

import tokenreduce
from tokenreduce.backbones import Adapter
from tokenreduce.errors import UnfitReducerError
from tokenreduce.registry import default_registry
from tokenreduce.testing import models
from tokenreduce.testing.models import backbone, batch_of_three, cast, pick_samples, run

FEW, MANY = tokenreduce.Budget.energy(0.8, cap=12), tokenreduce.Budget.energy(0.9997, cap=30)
METHODS = (
    {"reducer": "evit", "saliency": "key-norm", "keep": FEW},
    {"reducer": "evit", "saliency": "key-norm", "keep": MANY},
    {"reducer": "evit", "saliency": "key-norm", "keep": FEW, "fuse": False},
    {"reducer": "ats", "saliency": "key-norm", "keep": 0.8},
)
ENCODERS = [name for name in models() if not name.startswith("hf-lvlm")]
"""A language model counts by image and closes up its rows: tests/language has its samples."""


def different(inputs):
    """Three samples whose pictures differ much, so that they keep different numbers of tokens."""
    inputs = cast(batch_of_three(inputs), torch.float64)
    strength = torch.tensor([0.05, 1.0, 6.0], dtype=torch.float64)
    return {
        name: value * strength.view(-1, *[1] * (value.ndim - 1)) if torch.is_floating_point(value) else value
        for name, value in inputs.items()
    }


def stacks(model, adapter):
    """The names of the stacks of a model."""
    made: Adapter = default_registry().load("adapter", adapter)()
    return list(made.stacks(model))


def check_close(one, every, row, what):
    """Compare an output of a sample with its part of the batch's, where filling comes last."""
    if every.ndim == 0 or not one.is_floating_point():
        return
    expected = every[row : row + 1]
    if every.ndim == 2 and every.shape[0] == every.shape[1] == 3:  # scores of every pair
        expected = expected[:, row : row + 1]
    if expected.ndim == 3:
        expected = expected[:, : one.shape[1]]
    scale = float(expected.abs().max()) + 1e-3
    assert float((one - expected).abs().max()) <= 1e-6 * scale, what


def check_alone(handle, stack, model, inputs, what):
    """That each sample gives alone what it gives in the batch, in outputs, numbers and trace; whether they differed."""
    whole = run(model, inputs)
    record = handle.stacks[stack].last
    for row in range(3):
        for one, every in zip(run(model, pick_samples(inputs, [row])), whole, strict=True):
            check_close(one, every, row, f"{what}, sample {row}")
        alone = handle.stacks[stack].last
        if torch.is_tensor(record.macs_of_samples):
            assert alone.macs[1] == int(record.macs_of_samples[row]), what
        for stream, count in record.counts.items():
            if torch.is_tensor(count):
                assert alone.tokens[stream] == int(count[row]) > 0, what
        assert torch.equal(alone.trace.source[0] < 0, record.trace.source[row] < 0), what
    return any(torch.is_tensor(count) for count in record.counts.values())


@pytest.mark.parametrize("place", [{}, {"restore": True}], ids=["as expected", "restored"])
@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_a_sample_alone_gives_the_same(name, place):
    adapter, example = backbone(name)
    model, inputs = example.model.eval().double(), different(example.inputs)
    for stack in stacks(model, adapter):
        found = []
        for options in METHODS:
            try:
                handle = tokenreduce.attach(model, {stack: options}, adapter=adapter, trace=True, **place)
            except UnfitReducerError:
                continue
            with handle:
                found.append(check_alone(handle, stack, model, inputs, f"{name}, {stack}, {options}"))
        assert any(found) or not found, f"{name}, {stack}: samples always kept the same number"


@torch.no_grad()
def test_what_fills_up_is_not_handed_to_a_reader_of_all_tokens():
    pytest.importorskip("timm")
    _, example = backbone("image, tokens are pooled")
    options = {"keep": FEW, "saliency": "key-norm"}
    with pytest.raises(tokenreduce.errors.OptionError, match="restore=False: samples keep different numbers"):
        tokenreduce.attach(example.model, "evit", restore=False, **options)


@torch.no_grad()
def test_two_stacks_one_after_the_other():
    model, inputs = meter()
    both = {"vision": METHODS[1], "cross": METHODS[1]}
    with tokenreduce.attach(model, both, trace=True) as handle:
        assert check_alone(handle, "cross", model, inputs, "both stacks")


def meter():
    """A METER in float64 and three samples for it."""
    pytest.importorskip("open_clip")
    _, example = backbone("meter: MeterModel")
    return example.model.eval().double(), different(example.inputs)
