"""Gradients, gradient checkpointing, half precision and autocast."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import tokenreduce

from ..helpers import assert_same_gradients, enable_checkpointing, gradients

SOFT = "dynamicvit"  # in training its tokens stay
PADDED = {"lengths": [7, 4, 2], "sizes": [(32, 32), (16, 24), (32, 8)]}


@pytest.fixture(params=["vit", "vit-avg", "vit-dense", "vilt", "vilt-mlm", "vilt-padded"])
def case(request, tiny_vit, tiny_vilt, images, vilt_inputs):
    """A model and a function that runs it to a tensor."""
    kind = request.param
    if kind.startswith("vit"):
        pool = {"vit": "token", "vit-avg": "avg", "vit-dense": ""}[kind]
        return tiny_vit(init_values=0.1, global_pool=pool), lambda model: model(images())
    model = tiny_vilt("ViltForMaskedLM" if kind == "vilt-mlm" else "ViltForQuestionAnswering")
    inputs = vilt_inputs(**(PADDED if kind == "vilt-padded" else {}))
    return model, lambda model: model(**inputs).logits


SOME = {
    "tome": ("tome", {"r": 3}),
    "evit-drop": ("evit", {"keep": 0.6, "fuse": False}),
    "pumer": ("pumer", {}),
    "pumer-joint": ("pumer", {"modality_aware": False}),
    "dynamicvit": ("dynamicvit", {"keep": 0.6}),
}


@pytest.fixture(params=SOME)
def crossing(request):
    """Reducers that treat gradients in different ways."""
    return SOME[request.param]


def backward(model, run, seed=0):
    torch.manual_seed(seed)
    output = run(model)
    loss = (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum()
    return loss.detach(), gradients(model, loss)


def test_gradients_are_those_of_finite_differences(reducer, tiny_vit, images):
    """In float64, on the weights of the first block: selection is constant nearby, so the slope is the gradient."""
    name, options = reducer
    model, x = tiny_vit(global_pool="avg").double(), images().double()
    weight = model.blocks[0].attn.qkv.weight
    with tokenreduce.attach(model, name, **options):
        gradient = torch.autograd.grad(model(x).square().sum(), weight)[0]
        step = 1e-6 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            weight.add_(step)
            high = model(x).square().sum()
            weight.sub_(2 * step)
            low = model(x).square().sum()
    expected = (gradient * step).sum()
    assert abs((high - low) / 2 - expected) <= 1e-5 * abs(expected)


def test_a_few_steps_of_training(reducer, case):
    model, run = case
    name, options = reducer
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with tokenreduce.attach(model, name, **options):
        for seed in range(3):
            loss, _ = backward(model, run, seed)
            assert loss.isfinite()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(("when", "restore"), [("before", None), ("after", True)])
def test_checkpointing_gives_the_same_loss_and_gradients(when, restore, use_reentrant, crossing, case, assert_close):
    model, run = case
    name, options = crossing
    foreign = use_reentrant or options.get("saliency") == "text" or "modality_aware" in options
    if foreign and not hasattr(model, "vilt"):
        name, options = "tome", {"r": [4, 2]}  # timm has one kind of checkpointing, and no text
    model.train()
    if name == SOFT and use_reentrant:
        refuses(model, run, name, options)
        return
    if when == "before":
        enable_checkpointing(model, use_reentrant)
        handle = tokenreduce.attach(model, name, restore=restore, **options)
        got_loss, got = backward(model, run)
        rows = handle.last.sites
        (model.set_grad_checkpointing if hasattr(model, "patch_embed") else toggle(model))(False)
        expected_loss, expected = backward(model, run)
    else:
        handle = tokenreduce.attach(model, name, restore=restore, **options)
        expected_loss, expected = backward(model, run)
        enable_checkpointing(model, use_reentrant)
        got_loss, got = backward(model, run)
        rows = handle.last.sites
    assert name == SOFT or sum(row.tokens_out for row in rows) < sum(row.tokens_in for row in rows)
    assert_close(got_loss, expected_loss)
    assert_same_gradients(got, expected)


def refuses(model, run, name, options):
    """Gates go from block to block beside the tokens, where reentrant checkpointing keeps no history."""
    enable_checkpointing(model, True)
    handle = tokenreduce.attach(model, name, **options)
    with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="use_reentrant': False"):
        run(model)
    handle.detach()


def toggle(model):
    def set_(on):
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = on

    return set_


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_checkpointing_of_a_model_whose_dropped_tokens_are_read(
    padded, use_reentrant, crossing, tiny_vilt, vilt_inputs, assert_close
):
    """With restore=True a dropped token comes back with the value it last had, and with its gradient."""
    name, options = crossing
    model, inputs = tiny_vilt("ViltModel").train(), vilt_inputs(**(PADDED if padded else {}))
    real = torch.ones(3, 24, dtype=torch.bool)
    if padded:
        patches = torch.arange(17) <= torch.tensor([16, 6, 4])[:, None]
        real = torch.cat([inputs["attention_mask"].bool(), patches], dim=1)

    def run(model):
        return model(**inputs).last_hidden_state[real]

    if name == SOFT and use_reentrant:
        refuses(model, run, name, options)
        return
    with tokenreduce.attach(model, name, restore=True, **options):
        expected_loss, expected = backward(model, run)
        enable_checkpointing(model, use_reentrant)
        loss, got = backward(model, run)
    assert_close(loss, expected_loss)
    assert_same_gradients(got, expected)


@pytest.mark.parametrize("kind", ["vit", "vilt"])
def test_checkpointing_really_recomputes_and_does_so_once(kind, tiny_vit, tiny_vilt, images, vilt_inputs):
    model = (tiny_vit() if kind == "vit" else tiny_vilt()).train()
    enable_checkpointing(model, False)
    inner = model.blocks[1].norm2 if kind == "vit" else model.vilt.encoder.layer[1].intermediate
    outer = model.blocks[1] if kind == "vit" else model.vilt.encoder.layer[1]
    calls = []
    inner.register_forward_hook(lambda *_: calls.append("inner"))
    outer.register_forward_hook(lambda *_: calls.append("outer"))
    with tokenreduce.attach(model, "tome", r=2):
        output = model(images()) if kind == "vit" else model(**vilt_inputs()).logits
        assert sorted(calls) == ["inner", "outer"]
        output.sum().backward()
    assert calls.count("inner") == 2
    assert calls.count("outer") == 1


def test_checkpointing_of_the_whole_model_from_outside(case, assert_close):
    model, run = case
    model.train()
    with tokenreduce.attach(model, "random", keep=0.5):
        expected_loss, expected = backward(model, run)
        loss, got = backward(model, lambda m: checkpoint(run, m, use_reentrant=False))
    assert_close(loss, expected_loss)
    for key in expected:
        assert_close(got[key], expected[key])


def test_checkpointing_off_in_evaluation(case):
    model, run = case
    enable_checkpointing(model, False)
    model.eval()
    with tokenreduce.attach(model, "tome", r=2), torch.no_grad():
        checkpointed = run(model)
        (model.set_grad_checkpointing if hasattr(model, "patch_embed") else toggle(model))(False)
        assert torch.equal(run(model), checkpointed)


def test_timm_checkpointing_leaves_no_mark_on_the_model(tiny_vit, images, snapshot):
    model = tiny_vit().train()
    model.set_grad_checkpointing()
    untouched = snapshot(model)
    with tokenreduce.attach(model, "tome", r=2):
        model(images()).sum().backward()
        assert model.grad_checkpointing
    assert snapshot(model) == untouched


def test_checkpointing_every_other_layer(tiny_vilt, vilt_inputs):
    model = tiny_vilt().train()
    if not hasattr(model, "activation_checkpointing_enable"):
        return  # an option of newer transformers
    model.activation_checkpointing_enable(every_n_layers=2)
    calls = []
    for i, layer in enumerate(model.vilt.encoder.layer):
        layer.intermediate.register_forward_hook(lambda *_, i=i: calls.append(i))
    with tokenreduce.attach(model, "tome", r=2):
        model(**vilt_inputs()).logits.sum().backward()
    assert sorted(calls) == [0, 0, 1, 2, 2, 3]


def run_low(model, run):
    """timm does not cast its input; a ViLT casts pixels itself."""
    if hasattr(model, "patch_embed"):
        hook = model.register_forward_pre_hook(lambda module, args: (args[0].to(torch.bfloat16),))
        try:
            return run(model)
        finally:
            hook.remove()
    return run(model)


def test_bfloat16(crossing, case):
    model, run = case
    name, options = crossing
    if not hasattr(model, "vilt") and (options.get("saliency") == "text" or "modality_aware" in options):
        name, options = "random", {"keep": 0.3}
    model.to(torch.bfloat16).train()
    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        output = run_low(model, run)
        output.float().sum().backward()
        trace = handle.last.trace
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    assert trace.size.dtype == torch.float32  # counts stay exact
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_autocast(crossing, case, assert_close):
    model, run = case
    name, options = crossing
    if not hasattr(model, "vilt") and (options.get("saliency") == "text" or "modality_aware" in options):
        name, options = "none", {}
    model.train()
    with tokenreduce.attach(model, name, **options) as handle:
        with torch.autocast("cpu", torch.bfloat16):
            output = run(model)
            low = handle.last.sites
        output.float().sum().backward()
        run(model)
        assert handle.last.sites == low  # as many tokens as in full precision
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_autocast_zero_budget(zero, case, assert_close):
    model, run = case
    name, options = zero
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = run(model)
        with tokenreduce.attach(model, name, **options):
            got = run(model)
    assert got.dtype == expected.dtype
    assert_close(got, expected, 0.05)
