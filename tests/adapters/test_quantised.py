"""Blocks whose weights are not plain float tensors: taken and run, or refused in words."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce.errors import UnsupportedModelError


class Int8Linear(nn.Module):
    """As a quantised layer of another library: integer weights in a form of its own, float32 alone."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        self.packed = (torch.round(linear.weight / scale).to(torch.int8), scale, linear.bias)

    def forward(self, x):
        weight, scale, bias = self.packed
        if x.dtype != torch.float32:
            raise RuntimeError(f"float32 alone, got {x.dtype}")
        return nn.functional.linear(x, weight.float() * scale, bias)


def quantise(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Int8Linear(child))


@pytest.mark.parametrize("when", ["before", "after"])
def test_layers_in_a_form_of_their_own(when, tiny_vit, images, assert_close):
    model = tiny_vit()
    with torch.no_grad():
        if when == "after":
            handle = tokenreduce.attach(model, "none")
            quantise(model.blocks)
        else:
            quantise(model.blocks)
            handle = tokenreduce.attach(model, "none")
        got = model(images())
        handle.detach()
        assert_close(got, model(images()))
        with tokenreduce.attach(model, "tome", r=3) as handle:
            assert model(images()).isfinite().all()
            assert handle.last.tokens == {"image": 5}


def test_dynamic_quantisation_of_torch(tiny_vit, images, assert_close):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(tiny_vit(), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)
        with tokenreduce.attach(model, "tome", r=3):
            assert model(images()).isfinite().all()


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_int8_weights_of_torchao(tiny_vit, images, assert_close):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = tiny_vit()
    quantize_(model, Int8WeightOnlyConfig())
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)


def test_weights_that_are_loaded_when_they_run(tiny_vit, images, assert_close):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_vit()
    expected = model(images()).detach()
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with torch.no_grad():
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)
        with tokenreduce.attach(model, "tome", r=3):
            assert model(images()).isfinite().all()


def test_a_block_that_cannot_be_run_is_refused_in_words(tiny_vit, snapshot):
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("no such kernel")

    model = tiny_vit()
    model.blocks[1].mlp = Broken()
    untouched = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=r"Block 1 .* cannot be run on tokens alone \(KeyError"):
        tokenreduce.attach(model, "none")
    assert snapshot(model) == untouched


def test_a_copy_is_made_without_weights(tiny_vit):
    """A weight that cannot be copied is no obstacle, as none is read."""

    class Sealed(nn.Parameter):
        def __deepcopy__(self, memo):
            raise RuntimeError("not to be copied")

    model = tiny_vit()
    for block in model.blocks:
        block.attn.qkv.weight = Sealed(block.attn.qkv.weight.data)
    tokenreduce.attach(model, "tome", r=1)


@pytest.mark.parametrize("reducer", ["none", "tome", "evit", "pumer", "dynamicvit", "random"])
def test_under_another_default_device(reducer, tiny_vit, images):
    model, x = tiny_vit(), images()
    with torch.no_grad():
        with tokenreduce.attach(model, reducer):
            expected = model(x)
        with torch.device("meta"), tokenreduce.attach(model, reducer) as handle:
            got = model(x)
            assert handle.last.macs
    assert got.device.type == "cpu"
    if reducer != "dynamicvit":  # its weights are drawn anew
        assert torch.equal(got, expected)
