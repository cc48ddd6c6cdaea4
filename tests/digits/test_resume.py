"""A training script that was killed and started again ends with the weights of one that was not."""

from __future__ import annotations

import dataclasses
import importlib
import json

import pytest
import torch
from safetensors.torch import load_file

from tokenreduce_digits.training import train

from ..helpers import Killed


def run(name, out, *flags, dies_at=None):
    """Six steps of two scenes, in this process; ``dies_at`` is the scene at which it is killed."""
    script = importlib.import_module(f"tokenreduce_digits.train_{name}")
    line = ["--out", str(out), "--scenes", "12", "--batch", "2", "--save-every", "3", "--final-samples", "4", *flags]
    args = script.parser().parse_args(line)
    torch.manual_seed(args.seed)
    recipe = script.recipe(args)
    scene = recipe.scene

    def dying(number):
        if number == dies_at:
            raise Killed
        return scene(number)

    train(args, dataclasses.replace(recipe, scene=dying))
    return load_file(out / recipe.file), torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("name", ["vilt", "clip", "meter"])
def test_interrupted_or_not_it_is_the_same(name, tmp_path, capsys):
    whole, checkpoint = run(name, tmp_path / "whole")
    with pytest.raises(Killed):
        run(name, tmp_path / "parts", dies_at=9)  # in the fifth step: the fourth is lost
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["progress"].startswith('{"step": 3')
    capsys.readouterr()
    parts, resumed = run(name, tmp_path / "parts")
    assert "continuing at step 3 of 6" in capsys.readouterr().out
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    for part in ("model", "heads"):
        one, other = checkpoint["modules"][part], resumed["modules"][part]
        assert one and one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert {value.dtype for value in whole.values()} == {torch.half}
    assert not any("heads" in key for key in whole)
    means = [json.loads(state["progress"])["means"] for state in (checkpoint, resumed)]
    assert all(means[0][term] == means[1][term] for term in means[0] if term != "seconds")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["vilt", "clip", "meter"])
def test_on_a_gpu(name, tmp_path):
    weights, checkpoint = run(name, tmp_path, "--device", "cuda")
    assert all(value.isfinite().all() for value in weights.values())
    assert {value.device.type for value in checkpoint["modules"]["heads"].values()} == {"cuda"}
    run(name, tmp_path, "--device", "cpu")  # what it saved goes on elsewhere


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device", "nonsense"], "expected a device"),
        (["--batch", "0"], "batch must be an integer of 1 or more"),
        (["--lr", "1e30"], "lower lr"),
    ],
)
def test_bad_options_are_explained(flags, said, tmp_path, monkeypatch, capsys):
    from tokenreduce_digits import train_vilt, training

    line = ["train_vilt", "--out", str(tmp_path), "--scenes", "12", "--batch", "2", "--final-samples", "4", *flags]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as ended:
        training.run(train_vilt.parser(), train_vilt.recipe)
    assert ended.value.code == 2 and said in capsys.readouterr().err
