"""Blocks on two devices in turn: what belongs to the tokens follows them, and nothing is mixed."""

from __future__ import annotations

import pytest
import torch

import tokenreduce

from .models import BLOCKS, CASES, FIRST, SWEEP, case
from .placed import Making, device_of, place, plain_of, put

pytest.importorskip("accelerate")


def spread_out(model):
    """The blocks on two devices in turn, all else on the first one."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    blocks = [module for module in model.modules() if type(module).__name__ in BLOCKS]
    inside = {part for block in blocks for part in block.modules()}
    for number, block in enumerate(blocks):
        put(block, f"cuda:{number % 2}")
    first = torch.device("cuda:0")
    for module in model.modules():
        if module in inside:
            continue
        for own in (module._parameters, module._buffers):
            own.update({name: place(side.detach(), first) for name, side in own.items() if side is not None})
        if module._parameters or module._buffers:
            add_hook_to_module(module, AlignDevicesHook(execution_device=first))
    return add_hook_to_module(model, AlignDevicesHook(execution_device=first, io_same_device=True))


@pytest.mark.parametrize(
    ("name", "reducer"), [pytest.param(*one, marks=SWEEP if one not in FIRST else ()) for one in CASES]
)
def test_two_devices(name, reducer):
    given = case(name)
    (method, options), trace = given.reducers[reducer], name != "qwen"
    with tokenreduce.attach(given.model, method, trace=trace, **options) as handle:
        expected = given.run(given.model)
        tokens = [(site.layer, site.tokens_out) for site in handle.last.sites]
    with Making():
        model = spread_out(case(name).model)
        handle = tokenreduce.attach(model, method, trace=trace, **options)
        got = given.run(model)
        assert device_of(got).type == "cpu"
        assert torch.allclose(plain_of(got), expected, rtol=1e-5, atol=1e-6)  # torch's attention takes another path
        assert [(site.layer, site.tokens_out) for site in handle.last.sites] == tokens
        assert all(record.macs for record in handle.last.records)
        assert str(handle)


def test_the_devices_are_kept_apart():
    with Making():
        one, two = place(torch.ones(2), "cuda:0"), place(torch.ones(2), "cuda:1")
        assert (one + 1).device == torch.device("cuda:0")
        assert (one + two.to(one)).tolist() == [2, 2]
        with pytest.raises(RuntimeError, match=r"cuda:0.*cuda:1"):
            one + two
        with pytest.raises(RuntimeError, match=r"cpu.*cuda:1"):
            two + torch.ones(2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two accelerators")
@pytest.mark.parametrize("name", ["vit", "llava"])
def test_two_real_devices(name):
    from accelerate import dispatch_model

    given = case(name)
    method, options = next(iter(given.reducers.values()))
    with tokenreduce.attach(given.model, method, **options):
        expected = given.run(given.model)
    model = case(name).model
    blocks = [n for n, module in model.named_modules() if type(module).__name__ in BLOCKS]
    places = {n: i % 2 for i, n in enumerate(blocks)}
    for n, _ in [*model.named_parameters(), *model.named_buffers()]:
        if not any(n.startswith(f"{block}.") for block in blocks):
            places[n] = 0
    model = dispatch_model(model, places)
    tokenreduce.attach(model, method, **options)
    assert torch.allclose(given.run(model).cpu(), expected, atol=1e-3)
