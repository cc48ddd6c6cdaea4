"""What an installed wheel has to hold, run by pytest in an environment of its own: see test_fresh.py."""

import importlib.metadata
import subprocess
import sys

import tokenreduce
from tokenreduce.testing import AdapterConformance, ReducerConformance


class TestToMe(ReducerConformance):
    reducer = "tome"
    settings = ({"r": 3},)
    backbones = ("image, a class token is read", "text and image in one sequence")


class TestPuMer(ReducerConformance):
    reducer = "pumer"
    settings = ({"prune": 0.3, "merge": 0.3},)
    backbones = ("text and image in one sequence",)


class TestTimm(AdapterConformance):
    adapter = "timm-vit"
    examples = ("VisionTransformer, class token",)


class TestVilt(AdapterConformance):
    adapter = "hf-vilt"
    examples = ("ViltForQuestionAnswering",)


def test_nothing_is_broken():
    registry = tokenreduce.registry.default_registry()
    assert registry.broken == [] and {"tome", "pumer", "none"} <= registry.reducers.keys()
    done = subprocess.run([sys.executable, "-m", "tokenreduce", "list"], capture_output=True, text=True, check=True)
    assert "pumer" in done.stdout
    assert importlib.metadata.version("tokenreduce") == tokenreduce.__version__
