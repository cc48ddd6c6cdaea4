"""``tokenreduce export`` as a user types it."""

import pytest
import torch

from tokenreduce.cli.export import ENDINGS
from tokenreduce.export import FORMATS, load
from tokenreduce.registry import default_registry


def test_the_endings_are_those_of_the_formats():
    assert tuple(FORMATS) == ENDINGS


@pytest.mark.sweep
def test_an_embedded_model(python, tmp_path):
    out = tmp_path / "clip.onnx"
    command = ["-m", "tokenreduce", "export", "clip-digits", "--reducer", "tome", "--set", "r=8", "--layers", "0,1"]
    done = python(*command, "--out", out, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees with torch") == 3 and "batch of 3" in done.stdout and "145 → 137" in done.stdout
    task = default_registry().load("task", "clip-digits")()
    inputs = task.data(4, 4)[0].inputs
    got = load(out)({name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)})
    assert all(len(value) == 4 for value in got.values())


@pytest.mark.sweep
@pytest.mark.parametrize("model", ["meter-digits", "vilt-scenes"])
def test_text_and_image(python, tmp_path, model):
    """Tokens on METER's empty background nearly tie; that must not be reported as a mismatch."""
    out = tmp_path / "model.onnx"
    done = python("-m", "tokenreduce", "export", model, "--reducer", "pumer", "--out", out, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees with torch") == 3 and out.exists()
