"""Run on two processes by test_processes.py: trains a tiny ViLT with reducers in several ways.

Prints a line ``ok KIND REDUCER`` for each that ends as one process would.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers import ViltConfig, ViltForQuestionAnswering
from transformers.models.vilt.modeling_vilt import ViltLayer

import tokenreduce


def build() -> nn.Module:
    torch.manual_seed(0)
    names = {str(i): i for i in range(5)}
    config = ViltConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        image_size=32, patch_size=8, label2id=names, id2label={i: name for name, i in names.items()},
        hidden_dropout_prob=0.0,
    )  # fmt: skip
    return ViltForQuestionAnswering(config).train()


def batch(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1, 99, (4, 7), generator=generator),
        "pixel_values": torch.randn(4, 3, 32, 32, generator=generator),
        "labels": torch.rand(4, 5, generator=generator),
    }


def steps(
    model: nn.Module, handle: tokenreduce.Attachment, optimizer: torch.optim.Optimizer, seed: int, taught: bool = False
) -> list[float]:
    """Three steps of training on the batches of a seed, by the task alone or with the same weights as teacher."""
    seen = []
    distillation = tokenreduce.distill(handle)
    for step in range(3):
        torch.manual_seed(10 * seed + step)
        optimizer.zero_grad()
        inputs = batch(10 * seed + step)
        if taught:
            loss = distillation(inputs, model=model).loss
        else:
            loss = model(**inputs).loss + sum(handle.last.losses.values())
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    return seen


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def wrap(kind: str, model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model as several processes train it, and an optimizer."""
    if kind == "accelerate":
        from accelerate import Accelerator

        wrapped, optimizer = Accelerator(cpu=True).prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        return wrapped, optimizer
    if kind.endswith("ddp"):
        model = DistributedDataParallel(model)
    elif kind.endswith("fsdp1"):
        policy = ModuleWrapPolicy({ViltLayer}) if kind.startswith("blocks-") else None
        model = FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
    else:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.vilt.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train(kind: str, reducer: str, folder: Path) -> None:
    rank, model = dist.get_rank(), build()
    alone = copy.deepcopy(model)
    handle = tokenreduce.attach(model, reducer)
    other = tokenreduce.attach(alone, reducer)  # the same weights: attach draws from the same state
    trained, optimizer = wrap(kind, model)

    taught = kind.startswith("taught-")
    got = steps(trained, handle, optimizer, 0, taught)  # the same batches and draws on both: their mean is that of one
    expected = steps(alone, other, torch.optim.SGD(alone.parameters(), lr=0.1), 0, taught)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    if not kind.endswith("fsdp1"):  # whose parameters are flat pieces
        for (name, one), two in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(whole(one.detach()), two.detach(), rtol=1e-3, atol=1e-5, msg=name)
    steps(trained, handle, optimizer, 1 + rank, taught)  # and different ones
    if kind in ("ddp", "taught-ddp", "accelerate"):
        for parameter in model.parameters():
            both = [torch.empty_like(parameter) for _ in range(2)]
            dist.all_gather(both, parameter.detach())
            assert torch.equal(*both)
    if not kind.endswith("fsdp1"):
        handle.save(folder)
        dist.barrier()
        (made,) = [one.reducer for one in handle.stacks.values()]
        file = folder / "reducer.safetensors"
        assert file.exists() == isinstance(made, nn.Module)
        if isinstance(made, nn.Module):
            learned = {f"encoder.{name}": whole(value) for name, value in made.state_dict().items()}
            written = load_file(file)
            assert learned.keys() == written.keys()
            assert all(torch.equal(written[name], value) for name, value in learned.items())
    dist.barrier()


def trainer(reducer: str, folder: Path) -> None:
    """transformers' Trainer as it is, on both processes."""
    from transformers import Trainer, TrainingArguments

    model = build()
    handle = tokenreduce.attach(model, reducer)
    data = [{key: value[0] for key, value in batch(seed).items()} for seed in range(8)]
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    made = Trainer(model, arguments, train_dataset=data)
    before = [p.detach().clone() for p in model.parameters()]
    assert made.train().global_step == 2
    assert isinstance(made.model_wrapped, DistributedDataParallel)
    assert handle.last.sites
    assert sum(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)) > 20


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for job in sys.argv[2:]:
        kind, reducer = job.split("/")
        target = Path(sys.argv[1]) / kind / reducer
        trainer(reducer, target) if kind == "trainer" else train(kind, reducer, target)
        if dist.get_rank() == 0:
            print("ok", kind, reducer, flush=True)
    dist.destroy_process_group()
