"""Fine-tuning from outside: interrupted or not it is the same, the best is kept, ablations take it."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import tokenreduce
from tokenreduce import Recipe, Task
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.tasks import Batch
from tokenreduce.train import linear_decay, load_weights, save_weights

SHORT = Recipe(samples=24, batch=4, save_every=2, validate_every=2, validation_samples=8, lr=1e-3)


@pytest.fixture
def task(tiny_vit):
    """A small ViT that is to tell bright pictures from dark ones."""

    def data(samples, batch):
        return [draw(index, batch) for index in range(samples // batch)]

    def draw(seed, count):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (count,), generator=generator)
        return Batch((torch.randn(count, 3, 32, 32, generator=generator) + labels[:, None, None, None],), labels)

    return Task(
        "bright",
        tiny_vit(),
        data,
        lambda output, targets: (output.argmax(-1) == targets).float(),
        {"tome": {"r": 2}},
        train=lambda seed, first, count: draw(1000 * (seed + 1) + first, count),
        validation=lambda samples, batch: [draw(500, samples)],
        loss=F.cross_entropy,
    )


def finetune(task, out, model, recipe=SHORT, reducer="tome", **more):
    """On a copy of the model, so that every run begins with the same weights."""
    task = dataclasses.replace(task, model=model)
    lines = []
    found = tokenreduce.finetune(task, reducer, out, recipe=recipe, watch=lines.append, **more)
    return found, lines


def fresh(task):
    other = type(task.model)(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=7)
    other.load_state_dict(task.model.state_dict())
    return other


@pytest.mark.parametrize("reducer", ["random", "dynamicvit"])
def test_interrupted_or_not_it_is_the_same(reducer, task, tmp_path):
    whole, _ = finetune(task, tmp_path / "whole", fresh(task), reducer=reducer)

    class Stop(Exception):
        pass

    def stop(line):
        if line["step"] == 4:
            raise Stop

    for _ in range(2):  # stopped after the log was written and before the checkpoint, twice
        with pytest.raises(Stop):
            tokenreduce.finetune(
                dataclasses.replace(task, model=fresh(task)), reducer, tmp_path / "parts", recipe=SHORT, watch=stop
            )
    parts, lines = finetune(task, tmp_path / "parts", fresh(task), reducer=reducer)
    assert lines[0]["step"] == 4  # begun after step 2, the last checkpoint
    assert dataclasses.replace(parts, folder=whole.folder) == whole
    for name in ("model.safetensors", *(["reducer.safetensors"] if reducer == "dynamicvit" else [])):
        one, other = (load_file(tmp_path / run / "best" / name) for run in ("whole", "parts"))
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    log = [json.loads(text) for text in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 2, 4, 6]
    again, lines = finetune(task, tmp_path / "parts", fresh(task), reducer=reducer)
    assert again == parts and not lines


def test_it_learns_and_leaves_no_attachment(task, tmp_path):
    model = fresh(task)
    found, lines = finetune(
        task, tmp_path, model, Recipe(samples=320, batch=16, validation_samples=64, validate_every=5)
    )
    assert found.accuracy > found.start
    assert tokenreduce.attachment(model) is None
    assert lines[0]["unreduced"] == found.unreduced and {"task", "logits"} <= lines[-1].keys()


def test_early_stopping_and_reduction_warmup(task, tmp_path):
    recipe = dataclasses.replace(SHORT, lr=1e-9, patience=2, samples=400)
    found, _ = finetune(task, tmp_path / "early", fresh(task), recipe)
    assert found.stopped and found.steps == 6 and found.step == 2
    found, _ = finetune(task, tmp_path / "warmup", fresh(task), dataclasses.replace(SHORT, reduction_warmup=1.0))
    saved = json.loads((found.folder / "tokenreduce.json").read_text())
    assert saved["config"]["r"] and saved["factors"] == {}  # kept as it was judged: with all of the reduction


@pytest.mark.parametrize(
    "changes",
    [{"distillation": False}, {"same_weights": True}, {"hidden": 1.0}, {"bf16": True}, {"max_grad_norm": 0.1}],
)
def test_ways_to_train(changes, task, tmp_path):
    found, lines = finetune(task, tmp_path, fresh(task), dataclasses.replace(SHORT, **changes))
    assert found.steps == 6
    assert ("logits" in lines[-1]) == changes.get("distillation", True)
    assert ("hidden" in lines[-1]) == ("hidden" in changes)


def test_a_folder_holds_one_run(task, tmp_path):
    finetune(task, tmp_path, fresh(task))
    with pytest.raises(OptionError, match=r"recipe\.lr is 0\.001 there and 0\.01 here"):
        finetune(task, tmp_path, fresh(task), dataclasses.replace(SHORT, lr=1e-2))
    with pytest.raises(OptionError, match="attach"):
        finetune(task, tmp_path, fresh(task), r=3)
    (tmp_path / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(OptionError, match="start over"):
        finetune(task, tmp_path, fresh(task))


def test_bad_input(task, tmp_path, monkeypatch):
    for wrong in ({"lr": 0.0}, {"samples": 3}, {"batch": 0}, {"seed": 1.5}, {"warmup": 2.0}, {"bf16": 1}):
        with pytest.raises(OptionError):
            dataclasses.replace(SHORT, **wrong)
    with pytest.raises(OptionError, match="train, loss"):
        finetune(dataclasses.replace(task, train=None, loss=None), tmp_path, fresh(task))
    with pytest.raises(OptionError, match="lower lr"):
        finetune(task, tmp_path, fresh(task), dataclasses.replace(SHORT, lr=1e30))
    unscored = dataclasses.replace(task, metric=lambda output, targets: output.mean(-1) * float("nan"))
    with pytest.raises(OptionError, match="no number in any evaluation"):
        finetune(unscored, tmp_path / "unscored", fresh(task))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="one process"):
        finetune(task, tmp_path, fresh(task))


def test_linear_decay():
    steps = [linear_decay(step, 100, 0.1) for step in range(100)]
    assert max(steps) == steps[9] == 1.0 and steps[0] == pytest.approx(0.1) and steps[-1] == pytest.approx(1 / 90)
    assert [linear_decay(step, 4, 0) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_weights_of_tied_and_other_models(tmp_path):
    class Tied(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
            self.two.weight = self.one.weight

    made, other = Tied(), Tied()
    save_weights(made, tmp_path)
    load_weights(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(UnfitReducerError, match="expected"):
        load_weights(Tied(5), tmp_path)
    with pytest.raises(UnfitReducerError, match="missing"):
        load_weights(nn.Sequential(nn.Linear(4, 4)), tmp_path)
    with pytest.raises(OptionError, match="finetune"):
        load_weights(other, tmp_path / "nowhere")


def test_tuned_rows_beside_plain_ones(task, tmp_path):
    """Weights of the row alone; a learnable reducer gets its own; compared with what is tuned like it."""
    recipe = Recipe(samples=160, batch=16, validation_samples=64, validate_every=5, lr=1e-3)
    for reducer in ("tome", "random", "dynamicvit"):
        finetune(task, tmp_path / reducer, fresh(task), recipe, reducer)
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    tuned = {f"{name} tuned": {"weights": str(tmp_path / name / "best")} for name in ("tome", "random", "dynamicvit")}
    result = tokenreduce.ablate(
        task.model, task.data(64, 16), {"tome": {"r": 2}, **tuned}, metric=task.metric, rounds=1, break_even=False
    )
    assert result.ok, [row.failed for row in result.rows]
    plain, row = result.row("tome"), result.row("tome tuned")
    assert row.options["r"] == plain.options["r"] and row.accuracy > plain.accuracy and row.macs == plain.macs
    assert row.weights and not plain.weights and "fine-tuned" in row.notes[-1]
    assert result.row("dynamicvit tuned").accuracy > 0.5
    assert "random tuned" in result.row("tome tuned").verdict or "not comparable" in row.verdict
    assert (
        tokenreduce.Result.from_json(json.loads(json.dumps(result.to_json()))).row("tome tuned").weights == row.weights
    )
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())
    with pytest.raises(OptionError, match="fine-tuned with 'tome'"):
        tokenreduce.ablate(
            task.model, task.data(16, 16), {"x": {**tuned["tome tuned"], "reducer": "evit"}}, metric=task.metric
        )


def test_a_row_with_trained_weights_of_the_reducer_alone(task, tmp_path):
    """What ``handle.save`` writes: the reducer has learnt, the model stays what it is."""
    recipe = Recipe(samples=64, batch=16, validation_samples=32, validate_every=2, lr=1e-2)
    finetune(task, tmp_path / "run", fresh(task), recipe, "dynamicvit")
    with tokenreduce.load(task.model, tmp_path / "run" / "best") as handle:
        handle.save(tmp_path / "alone")
        with torch.no_grad():
            model, batches = task.model.eval(), task.data(32, 16)
            expected = torch.cat([task.metric(model(*batch.inputs), batch.targets) for batch in batches])
    rows = {"own": {"weights": str(tmp_path / "alone")}, "both": {"weights": str(tmp_path / "run" / "best")}}
    result = tokenreduce.ablate(task.model, task.data(32, 16), rows, metric=task.metric, time=False)
    assert result.ok, [row.failed for row in result.rows]
    assert result.row("own").accuracy == pytest.approx(float(expected.mean()))
    assert "for the reducer; the model has its own" in result.row("own").notes[-1]
    assert "fine-tuned weights of" in result.row("both").notes[-1]
    (tmp_path / "alone" / "reducer.safetensors").unlink()
    with pytest.raises(OptionError, match=r"reducer\.safetensors"):
        tokenreduce.ablate(task.model, task.data(32, 16), {"own": rows["own"]}, metric=task.metric)


@pytest.mark.sweep
def test_command_killed_and_continued(python, tmp_path):
    """kill -9 in the middle; the same line goes on from the last checkpoint, and its folder is a row."""
    command = ["-m", "tokenreduce", "finetune", "--reducer", "evit", "--samples", "64", "--batch", "8",
               "--save-every", "2", "--validate-every", "4", "--validation-samples", "20", "--out", "run"]  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.time() + 120
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.time() < end:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "before training" not in done.stdout and "step 8/8" in done.stdout
    assert "compare it with others: tokenreduce ablate --tuned run/best" in done.stdout
    flags = ["--samples", "20", "--rounds", "1", "--no-break-even", "--store", "cells", "--json", "out.json"]
    ablate = ["-m", "tokenreduce", "ablate", "--tuned", "run/best", "--reducers", "evit", *flags]
    shown = python(*ablate, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    rows = [row["name"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]]
    assert "evit tuned" in rows
    other = python(*command, "--lr", "0.1", cwd=tmp_path)
    assert other.returncode == 2 and "recipe.lr" in other.stderr
