"""Methods inside a language model against what the published code put out for the same tensors."""

import importlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

DATA = Path(__file__).parents[1] / "data" / "lvlm"


@pytest.mark.parametrize("name", ["fastv", "dart", "sparsevlm_v1"])
def test_published_outputs(name):
    module = importlib.import_module(f"..references.{name}", __name__)
    module.check(json.loads((DATA / f"{name}.json").read_text()), load_file(DATA / f"{name}.safetensors"))
