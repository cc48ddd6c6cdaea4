"""Time of a training step with fewer tokens against one with all.

    python benchmarks/training.py [--batch 32] [--reducers none,pumer] [--rounds 9] [--json FILE] [--markdown FILE]

A step (forward, backward, AdamW) of the embedded ViLT by the task's loss alone, and with the unreduced model as
teacher. ``unattached`` is the model as its library runs it. Every round runs every candidate once, in alternating order, in one
process; rounds that other processes disturbed are dropped (``rounds.py``).
"""

from __future__ import annotations

import argparse
import copy

import rounds as shared
import torch
from torch import nn

import tokenreduce
from tokenreduce_digits.task import loss, train, vilt_digits


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--reducers", default="none,pumer")
    shared.add_options(parser)
    given = parser.parse_args()
    task = vilt_digits()
    inputs = train(0, 0, given.batch)
    works = {"unattached": plain(copy.deepcopy(task.model), inputs)}
    for name in given.reducers.split(","):
        for taught in (False, True):
            works[f"{name}{' taught' if taught else ''}"] = step(copy.deepcopy(task.model), name, inputs, taught, task)
    made = shared.run(works, given.rounds, foreign=given.foreign, longest=given.longest)
    base = "none" if "none" in works else "unattached"
    rows = []
    for name in works:
        speedup, spread = made.speedup(base, name)
        rows.append({"step": name, "seconds": made.median(name), "speedup": speedup, "spread": spread})
        print(f"{name:<24}{1e3 * made.median(name):8.0f} ms   x{speedup:.2f} ± {spread:.2f} of {base}")
    about = shared.described("float32", "cpu", made)
    print(about)
    shared.write(given.json, rows, batch=given.batch, dropped=made.dropped, quiet=made.quiet)
    if given.markdown:
        cells = [
            [str(row["step"]), f"{1e3 * row['seconds']:.0f}", f"{row['speedup']:.2f} ± {row['spread']:.2f}"]
            for row in rows
        ]
        table = shared.markdown(["step", "ms", f"over {base}"], cells)
        given.markdown.write_text(f"{about} Batch {given.batch}.\n\n{table}")


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
