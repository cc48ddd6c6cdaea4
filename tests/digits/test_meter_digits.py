"""The task with METER: the model has learnt it, an ablation gets it, training can be repeated."""

import torch

import tokenreduce
from tokenreduce_digits import scenes
from tokenreduce_digits.evaluation import accuracy_by_kind
from tokenreduce_digits.meter_model import load
from tokenreduce_digits.meter_task import meter_digits
from tokenreduce_digits.train_meter import SHOWN, digits_first, gather


def test_the_model_has_learnt_the_task():
    score = accuracy_by_kind(load(), samples=300)
    assert score["all"] >= 0.8, score
    assert min(score[kind] for kind in scenes.KINDS) >= 0.7, score


@torch.no_grad()
def test_the_task_gives_what_an_ablation_needs():
    task = meter_digits()
    first, last = task.data(30, 20)
    assert (len(first), len(last)) == (20, 10)
    assert task.model.config.num_top_layer == 6 and not task.model.training
    score = task.metric(task.model(**first.inputs), first.targets)
    assert score.shape == (20,) and set(score.tolist()) <= {0.0, 1.0}
    for name, options in task.settings.items():
        with tokenreduce.attach(task.model, **{"reducer": name, **options}) as handle:
            task.model(**first.inputs)
            assert handle.last.stacks[next(iter(handle.stacks))].tokens["image"] < 60


def test_the_first_part_of_training_shows_every_digit():
    batch = [scenes.SceneFactory("train", 0)(i) for i in range(20)]
    shown, (digit, _) = digits_first(batch), scenes.patch_labels(batch)
    assert shown.shape == (20, SHOWN)
    assert all(len(set(row.tolist())) == SHOWN for row in shown)
    assert torch.equal((digit.gather(1, shown) < 10).sum(1), (digit < 10).sum(1))
    x = torch.arange(145.0)[None, :, None].expand(20, -1, 2)
    assert torch.equal(gather(x, shown)[:, 1:, 0], shown + 1.0)
    assert not gather(x, shown)[:, 0].any()


def test_training_runs_and_continues(python, tmp_path):
    command = ["-m", "tokenreduce_digits.train_meter", "--out", tmp_path, "--batch", 4]
    command += ["--save-every", 1, "--final-samples", 8]
    first = python(*command, "--scenes", 8)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "meter.safetensors").exists() and "held-out after step 2" in first.stdout
    second = python(*command, "--scenes", 12)
    assert second.returncode == 0, second.stderr
    assert "continuing at step 2 of 3" in second.stdout
    load(tmp_path / "meter.safetensors")
