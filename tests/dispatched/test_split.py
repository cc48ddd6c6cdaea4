"""Weights that are split over processes in ways that a reduced block cannot follow: refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import tokenreduce
from tokenreduce.attachments.sharding import tensor_parallel
from tokenreduce.errors import UnsupportedModelError

from .models import case


@pytest.fixture
def mesh(tmp_path):
    """This process as a mesh of one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_a_tensor_parallel_module(mesh, snapshot):
    model = case("vit").model
    parallelize_module(model.blocks[1].attn, mesh, {"qkv": ColwiseParallel()})
    untouched = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=r"tensor-parallel plan \(blocks.1.attn.qkv.weight is a DTensor"):
        tokenreduce.attach(model, "tome", r=2)
    assert snapshot(model) == untouched


def test_a_tensor_parallel_plan_of_transformers():
    model = case("clip").model
    model._tp_size = 2  # as from_pretrained(tp_plan="auto") notes it on two processes
    with pytest.raises(UnsupportedModelError, match=r"tensor-parallel plan \(tp_size=2.*device_map"):
        tokenreduce.attach(model, "tome", r=2)


def test_whole_blocks_that_fsdp_shards_are_no_such_plan(mesh):
    from torch.distributed.fsdp import fully_shard

    model = case("vit").model
    tokenreduce.attach(model, "tome", r=3)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    assert tensor_parallel(fully_shard(model, mesh=mesh)) is None


def test_zero_of_stage_three():
    model = case("vit").model
    for number, weight in enumerate(model.parameters()):
        weight.ds_id = number  # as deepspeed.zero.Init marks what it splits
        weight.data = torch.empty(0)
    with pytest.raises(UnsupportedModelError, match=r"ZeRO stage 3 of DeepSpeed \(cls_token is split"):
        tokenreduce.attach(model, "tome", r=2)
