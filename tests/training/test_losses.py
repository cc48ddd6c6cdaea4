"""Terms of the loss that a reducer adds, and the passes that keep or do not keep them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import tokenreduce
from tokenreduce.errors import UnsupportedCallError
from tokenreduce.methods import BaseReducer

from ..helpers import enable_checkpointing, gradients


class Adds(BaseReducer):
    """Adds whatever it is told to."""

    value: Any = None

    def reduce_streams(self, streams, site):
        streams.add_loss("given", self.value)
        streams.add_loss(f"site {site.index}", streams["image"].tokens.x.mean())
        streams.add_loss("given", torch.tensor(1.0))
        return {}


def test_summed_over_sites_by_name(tiny_vit, images):
    model = tiny_vit().train()
    value = torch.tensor([2.0], requires_grad=True)
    with tokenreduce.attach(model, Adds(value=value), layers=[0, 2]) as handle:
        assert handle.last is None
        model(images())
        losses = handle.last.losses
    assert {name: tuple(loss.shape) for name, loss in losses.items()} == {"given": (), "site 0": (), "site 1": ()}
    assert losses["given"] == 6
    losses["given"].backward()
    assert value.grad == 2
    assert losses["site 1"].requires_grad


def test_none_in_evaluation_and_none_from_other_reducers(tiny_vit, images):
    model = tiny_vit()
    with tokenreduce.attach(model, Adds(value=torch.tensor(1.0))) as handle:
        model.train()
        model(images())
        assert handle.last.losses
        model.eval()
        model(images())
        assert handle.last.losses == {}
    model.train()
    with tokenreduce.attach(model, "tome", r=1) as handle:
        model(images())
        assert handle.last.losses == {}


@pytest.mark.parametrize("value", [torch.ones(2), 1.0, None])
def test_one_number_each(value, tiny_vit, images):
    model = tiny_vit().train()
    with tokenreduce.attach(model, Adds(value=value)), pytest.raises(UnsupportedCallError, match="'given' must be one"):
        model(images())


def loss_and_gradients(model, run, handle, total):
    torch.manual_seed(1)
    loss = run(model).float().square().mean() + total(handle)
    return loss.detach(), gradients(model, loss)


@pytest.mark.parametrize("name", ["dynamicvit", "scorer", "early_scorer"])
@pytest.mark.parametrize("how", ["blocks", "model"])
def test_gradient_checkpointing_changes_nothing(name, how, case, request, total):
    model, run = case
    reducer = name if name == "dynamicvit" else request.getfixturevalue(name)()
    handle = tokenreduce.attach(model.train(), reducer, layers=[1, 2])
    expected_loss, expected = loss_and_gradients(model, run, handle, total)
    assert all(name in expected for name, _ in model.named_parameters() if "tokenreduce" in name)
    if how == "model":
        loss, got = loss_and_gradients(model, lambda m: checkpoint(run, m, use_reentrant=False), handle, total)
    else:
        enable_checkpointing(model)
        loss, got = loss_and_gradients(model, run, handle, total)
    torch.testing.assert_close(loss, expected_loss)
    assert got.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=1e-6, msg=key)


def test_a_block_that_is_run_again_adds_its_loss_once(tiny_vit, images, early_scorer):
    model = tiny_vit().train()
    model.set_grad_checkpointing()
    handle = tokenreduce.attach(model, early_scorer(), layers=[1, 2])
    output = model(images())
    before = handle.last.losses["share"].detach().clone()
    (output.sum() + handle.last.losses["share"]).backward()
    assert torch.equal(handle.last.losses["share"], before)


@pytest.mark.parametrize("name", ["dynamicvit", "scorer"])
def test_autocast(name, case, request, total):
    model, run = case
    reducer = name if name == "dynamicvit" else request.getfixturevalue(name)()
    handle = tokenreduce.attach(model.train(), reducer, layers=[1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model)
        loss = output.float().square().mean() + total(handle)
    loss.backward()
    assert total(handle).isfinite()
    for key, parameter in model.named_parameters():
        if "tokenreduce" in key:
            assert parameter.grad.isfinite().all() and parameter.grad.dtype == torch.float32, key


def test_a_stack_of_each_name_is_summed(tiny_meter, early_scorer):
    model, inputs = tiny_meter()
    reducers = {"cross": early_scorer(), "vision": early_scorer()}
    with tokenreduce.attach(model.train(), reducers) as handle:
        model(**inputs)
        each = [one.last.losses["share"] for one in handle.stacks.values()]
        torch.testing.assert_close(handle.last.losses["share"], each[0] + each[1])
