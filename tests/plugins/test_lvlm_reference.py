"""Methods inside a language model against what the published code put out for the same tensors."""

import importlib
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "lvlm"


@pytest.fixture(scope="module")
def main():
    """What ``python tests/plugins/check_reference.py`` runs."""
    before = list(sys.path)
    sys.path.insert(0, str(HERE))
    try:
        yield importlib.import_module("check_reference").main
    finally:
        sys.path[:] = before


@pytest.mark.parametrize("name", ["fastv", "dart", "sparsevlm_v1"])
def test_published_outputs(main, name, capsys):
    assert main([str(DATA), "--only", name]) == 0
    assert capsys.readouterr().out == f"{name}: equal\n1 of 1 cases equal\n"


@pytest.mark.parametrize(
    ("name", "output", "words"),
    [
        ("fastv", "out_position_ids", "positions, row 0: ["),
        ("dart", "out_kept_sorted", "kept, row 0: ["),
        ("sparsevlm_v1", "out_relation", "score: differs by"),
        ("sparsevlm_v1", "cluster_out", "new tokens: differs by"),
    ],
)
def test_other_outputs_are_told(main, name, output, words, tmp_path, capsys):
    tensors = load_file(DATA / f"{name}.safetensors")
    tensors[output] = tensors[output] + 1
    save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / f"{name}.json").write_bytes((DATA / f"{name}.json").read_bytes())
    assert main([str(tmp_path)]) == 1
    assert words in capsys.readouterr().out
