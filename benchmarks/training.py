"""Time of a training step with fewer tokens against one with all: ``python benchmarks/training.py``.

Pairs in one process, in alternating order: a step (forward, backward, AdamW) of the embedded ViLT by the task's loss
alone, and with the unreduced model as teacher. Prints medians and the ratio to the plain step of the same round.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import nn

import tokenreduce
from tokenreduce_digits.task import loss, train, vilt_digits


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--reducers", default="none,pumer")
    args = parser.parse_args()
    task = vilt_digits()
    inputs = train(0, 0, args.batch)
    works = {}
    for name in args.reducers.split(","):
        for taught in (False, True):
            works[f"{name}{' taught' if taught else ''}"] = step(copy.deepcopy(task.model), name, inputs, taught, task)
    works = {"unattached": plain(copy.deepcopy(task.model), inputs), **works}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(args.rounds + 1):
        names = list(works) if turn % 2 else list(works)[::-1]
        for name in names:
            begun = time.perf_counter()
            works[name]()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    base = seconds["none"] if "none" in seconds else seconds["unattached"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {args.batch}, {args.rounds} rounds")
    for name, spent in seconds.items():
        ratios = [one / own for one, own in zip(base, spent, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        print(
            f"{name:<24}{1000 * statistics.median(spent):8.0f} ms   "
            f"speed-up {statistics.median(ratios):.2f} ± {(quartiles[2] - quartiles[0]) / 2:.2f}"
        )


def step(model: nn.Module, name: str, batch: tokenreduce.tasks.Batch, taught: bool, task: tokenreduce.Task):
    """A step with a reducer attached."""
    options = {k: v for k, v in task.settings.get(name, {}).items() if k != "reducer"}
    handle = tokenreduce.attach(model.train(), name, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    distillation = tokenreduce.distill(handle, copy.deepcopy(task.model))

    def work() -> None:
        if taught:
            distillation(batch.inputs, lambda output: loss(output, batch.targets)).loss.backward()
        else:
            loss(model(**batch.inputs), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def plain(model: nn.Module, batch: tokenreduce.tasks.Batch):
    """A step of the model as its library runs it."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5)

    def work() -> None:
        loss(model(**batch.inputs), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


if __name__ == "__main__":
    main()
