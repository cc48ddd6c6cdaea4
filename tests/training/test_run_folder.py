"""The folder of a fine-tuning from outside: one run at a time, metrics without numbers, recipes out of files."""

import json
import math
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import tokenreduce
from tokenreduce import Recipe, Task
from tokenreduce.errors import OptionError
from tokenreduce.tasks import Batch
from tokenreduce.train.recipe_file import read_recipe

SHORT = Recipe(samples=16, batch=4, save_every=2, validate_every=2, validation_samples=8, lr=1e-3)


@pytest.fixture
def task(tiny_vit, images):
    def draw(seed, count):
        return Batch((images(count, seed=seed),), torch.arange(count) % 2)

    return Task(
        "bright",
        tiny_vit(),
        lambda samples, batch: [draw(0, samples)],
        lambda output, targets: (output.argmax(-1) == targets).float(),
        train=lambda seed, first, count: draw(first, count),
        validation=lambda samples, batch: [draw(500, samples)],
        loss=F.cross_entropy,
    )


def test_a_metric_without_numbers_is_an_error(task, tmp_path):
    values = iter([math.nan] * 4)
    object.__setattr__(task, "metric", lambda output, targets: torch.full((len(targets),), next(values)))
    with pytest.raises(OptionError, match=r"'bright' gave no number in any evaluation"):
        tokenreduce.finetune(task, "tome", tmp_path, recipe=SHORT, r=1)
    assert not (tmp_path / "best").exists()


def test_a_metric_that_begins_without_numbers_is_not(task, tmp_path):
    values = iter([math.nan] * 3 + [0.5])
    object.__setattr__(task, "metric", lambda output, targets: torch.full((len(targets),), next(values)))
    found = tokenreduce.finetune(task, "tome", tmp_path, recipe=SHORT, r=1)
    assert found.accuracy == 0.5 and (tmp_path / "best" / "model.safetensors").exists()


def test_two_runs_in_one_folder(task, tmp_path):
    code = f"""
import time
from tokenreduce.train.run_lock import run_lock
from pathlib import Path
with run_lock(Path({str(tmp_path)!r})):
    print("in", flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    with pytest.raises(OptionError, match=r"another run is at work in .*--out"):
        tokenreduce.finetune(task, "tome", tmp_path, recipe=SHORT, r=1)
    assert not (tmp_path / "run.json").exists()
    other.kill()  # and what it held is free
    other.wait()
    other.stdout.close()
    assert tokenreduce.finetune(task, "tome", tmp_path, recipe=SHORT, r=1).steps == 4


def test_a_folder_that_cannot_be_written(task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"cannot hold the run.*--out"):
        tokenreduce.finetune(task, "tome", tmp_path / "file" / "run", recipe=SHORT, r=1)
    (tmp_path / "run" / "checkpoint.tmp").mkdir(parents=True)  # in the way of the checkpoint
    (tmp_path / "run" / "checkpoint.pt.tmp").mkdir(parents=True)
    with pytest.raises(OptionError, match=r"cannot be written .*it goes on from"):
        tokenreduce.finetune(task, "tome", tmp_path / "run", recipe=SHORT, r=1)
    assert tokenreduce.attachment(task.model) is None


def test_a_recipe_out_of_a_file(task, tmp_path):
    (tmp_path / "r.toml").write_text("samples = 64\nlr = 1\nbf16 = true\n")
    assert read_recipe(tmp_path / "r.toml") == Recipe(samples=64, lr=1.0, bf16=True)
    (tmp_path / "r.JSON").write_text("\ufeff" + json.dumps({"samples": 64}))
    assert read_recipe(tmp_path / "r.JSON") == Recipe(samples=64)
    tokenreduce.finetune(task, "tome", tmp_path / "run", recipe=SHORT, r=1)
    assert read_recipe(tmp_path / "run" / "run.json") == SHORT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("samples = 1.5", "samples must be a whole number, got 1.5"),
        ('lr = "1e-3"', "lr must be a number"),
        ("bf16 = 1", "bf16 must be true or false"),
        ("learning_rate = 1", "no entry 'learning_rate'.*lr"),
        ("lr = 0", "lr must be above 0, got 0"),
        ("lr = -1.0", "lr must be a number of 0 or more"),
        ("lr = nan", "lr must be a number"),
        ("samples = ", "not valid TOML"),
    ],
)
def test_a_recipe_that_is_none_names_file_and_setting(text, words, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(OptionError, match=rf"r\.toml.*{words}"):
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(OptionError, match="cannot read"):
        read_recipe(tmp_path / "gone.toml")


def test_flags_are_over_the_recipe_of_a_file(tmp_path):
    import argparse

    from tokenreduce.cli import finetune

    parser = argparse.ArgumentParser()
    finetune.add_parser(parser.add_subparsers())
    (tmp_path / "r.toml").write_text("samples = 64\nlr = 0.5\n")
    given = ["finetune", "--reducer", "tome", "--recipe", str(tmp_path / "r.toml"), "--lr", "0.1", "--no-distillation"]
    assert finetune.recipe_of(parser.parse_args(given), "evit") == Recipe(samples=64, lr=0.1, distillation=False)
