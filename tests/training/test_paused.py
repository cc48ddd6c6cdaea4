"""Passes without reduction on a model that stays attached."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

import tokenreduce

from ..helpers import enable_checkpointing


@pytest.fixture(params=["pumer", "tome", "dynamicvit"])
def attached(request, case):
    """A model, how to run it, its plain logits, and a handle."""
    model, run = case
    with torch.no_grad():
        plain = run(model)
    return model, run, plain, tokenreduce.attach(model, request.param)


@torch.no_grad()
def test_the_model_computes_what_it_did(attached, assert_close):
    model, run, plain, handle = attached
    reduced = run(model)
    rows = handle.last.sites
    assert not torch.allclose(reduced, plain, rtol=1e-3, atol=1e-3)
    with handle.paused():
        assert_close(run(model), plain)
        with handle.paused():
            assert_close(run(model), plain)
        assert_close(run(model), plain)
    assert torch.equal(run(model), reduced)
    assert handle.last.sites == rows
    with pytest.raises(ZeroDivisionError), handle.paused():
        raise ZeroDivisionError
    assert torch.equal(run(model), reduced)
    handle.detach()
    with handle.paused():
        assert_close(run(model), plain)


def test_report_trace_and_losses_stay_those_of_the_student(case):
    model, run = case
    with tokenreduce.attach(model.train(), "dynamicvit", trace=True) as handle:
        with handle.paused():
            run(model)
        assert handle.last is None
        run(model)
        losses, rows = handle.last.losses, handle.last.sites
        with handle.paused(), torch.no_grad():
            run(model)
        assert handle.last.losses == losses and handle.last.sites == rows
        losses["ratio"].backward()


def test_a_pass_is_paused_or_not_as_a_whole(case):
    """Blocks that are run again for their gradient do what they did the first time."""
    model, run = case
    enable_checkpointing(model.train())
    handle = tokenreduce.attach(model, "tome", r=2)
    student = run(model)
    with handle.paused():
        teacher = run(model)
        student.sum().backward()
    model.zero_grad()
    teacher.sum().backward()
    name = next(n for n, _ in model.named_parameters() if "1.norm1.weight" in n or "1.layernorm_before.weight" in n)
    got = model.get_parameter(name).grad.clone()
    handle.detach()
    model.zero_grad()
    run(model).sum().backward()
    torch.testing.assert_close(got, model.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_copy_is_not_paused(attached):
    model, run, _, handle = attached
    reduced = run(model)
    with handle.paused():
        twin = copy.deepcopy(model)
        assert torch.equal(run(twin), reduced)


def test_threads_that_pause_one_after_the_other_leave_nothing_behind(tiny_vit, images, assert_close):
    model, x = tiny_vit(), images()
    with torch.no_grad():
        plain = model(x)
    handle = tokenreduce.attach(model, "tome", r=2)
    with torch.no_grad():
        reduced = model(x)

    def work():
        for _ in range(200):
            with handle.paused():
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        assert torch.equal(model(x), reduced)  # not one pause too many
        with handle.paused():
            assert_close(model(x), plain)  # nor one too few


@torch.no_grad()
def test_several_stacks(tiny_meter, assert_close):
    model, inputs = tiny_meter()
    plain = model(**inputs).logits
    with tokenreduce.attach(model, {"cross": "pumer", "vision": "tome"}) as handle, handle.paused():
        assert_close(model(**inputs).logits, plain)
