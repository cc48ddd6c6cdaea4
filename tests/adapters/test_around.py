"""Tools that wrap a whole model: accelerate, DistributedDataParallel, FSDP; before attach and after."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import distributed, nn

import tokenreduce
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.transformers.tiny import VISION, pixels


@pytest.fixture
def process(tmp_path):
    """This process as a group of one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def tower():
    return transformers.ViTModel(transformers.ViTConfig(**VISION)).eval()


def prepared(model):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    return accelerator, accelerator.prepare(model)


def test_accelerate_takes_its_wrapper_off_an_attached_model():
    pytest.importorskip("accelerate")
    model = tower()
    with torch.no_grad():
        handle = tokenreduce.attach(model, "tome", r=4)
        expected = model(pixel_values=pixels()).last_hidden_state
        accelerator, wrapped = prepared(model)
        assert wrapped(pixel_values=pixels()).last_hidden_state.shape == expected.shape
        assert tokenreduce.attachment(wrapped) is handle
        with pytest.raises(UnsupportedCallError, match="replaced after attach"):
            handle.detach()
        model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        assert torch.equal(model(pixel_values=pixels()).last_hidden_state, expected)
        assert torch.equal(model(pixels()).last_hidden_state, expected)
        assert tokenreduce.attachment(model) is handle
        assert tokenreduce.attachment(copy.deepcopy(model)) is not None
        handle.detach()
        assert model(pixel_values=pixels()).last_hidden_state.shape == expected.shape


def test_a_model_that_accelerate_has_unwrapped_is_taken(snapshot):
    pytest.importorskip("accelerate")
    model = tower()
    with torch.no_grad():
        with tokenreduce.attach(model, "tome", r=4):
            expected = model(pixel_values=pixels()).last_hidden_state
        accelerator, wrapped = prepared(model)
        model = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        untouched = snapshot(model)
        with tokenreduce.attach(model, "tome", r=4):
            assert torch.equal(model(pixel_values=pixels()).last_hidden_state, expected)
        assert snapshot(model) == untouched
        _, wrapped = prepared(tower())  # now it computes in half precision, which must not be lost
        with pytest.raises(UnsupportedModelError, match="replaced on the instance"):
            tokenreduce.attach(wrapped, "tome", r=4)


def test_a_learnable_reducer_is_attached_before_a_model_is_distributed(process, tiny_vit, images):
    model = tiny_vit()
    ddp = nn.parallel.DistributedDataParallel(model)
    for wrapped in (ddp, nn.Sequential(ddp)):
        with pytest.raises(UnsupportedModelError, match=r"DistributedDataParallel already.*plain model first"):
            tokenreduce.attach(wrapped, "dynamicvit", layers=[1, 2])
    with tokenreduce.attach(ddp, "tome", r=2) as handle:  # nothing to average
        ddp(images())
        assert handle.last.tokens == {"image": 9}
    tokenreduce.attach(model, "dynamicvit", layers=[1, 2])
    ddp = nn.parallel.DistributedDataParallel(model)
    assert len(ddp._module_parameters) == len(list(ddp.parameters()))


@pytest.mark.filterwarnings("ignore")  # torch's about FSDP1 itself, and about one process
@pytest.mark.parametrize("reducer", ["none", "tome"])
def test_fsdp_around_every_block(reducer, process, tiny_vit, images, assert_close):
    from timm.models.vision_transformer import Block
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    options = {"r": 3} if reducer == "tome" else {}
    model = tiny_vit()
    tokenreduce.attach(model, reducer, **options)
    with torch.no_grad():
        expected = model(images())
        sharded = FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy({Block}),
            use_orig_params=True,
            device_id=torch.device("cpu"),
        )
        assert all(isinstance(block, FullyShardedDataParallel) for block in model.blocks)
        assert_close(sharded(images()), expected)
