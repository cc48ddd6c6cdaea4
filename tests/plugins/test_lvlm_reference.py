"""Methods for language models with images against what published functions put out for the same tensors."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import check_reference  # noqa: E402
import spectral_oracle as oracle  # noqa: E402

DATA = HERE.parent / "data" / "lvlm"


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.json")))
def test_published_outputs(name, capsys):
    assert check_reference.main([str(DATA), "--only", name]) == 0, capsys.readouterr().out
    assert f"{name}: equal" in capsys.readouterr().out


def test_other_sizes_and_ratios(tmp_path, capsys):
    """Files in the same format, made by a slow implementation in numpy."""
    oracle.write_maps(tmp_path, "fopru", 7, keep=1, count=1)
    oracle.write_maps(tmp_path, "fopru_row_axis", 12, keep=144, count=12, batch=1)
    oracle.write_maps(tmp_path, "fopru_12", 12, keep=37, count=5, heads=1)
    oracle.write_logits(tmp_path, "fopru_logits", 5, keep=24, count=4)
    oracle.write_logits(tmp_path, "fopru_logits-b", 14, keep=50, count=9, heads=5)
    oracle.write_spectra(tmp_path, "spectral_own_definition", 30, 50)
    oracle.write_spectra(tmp_path, "spectral_own_definition2", 81, 17, share=0.7, shares=(0.5, 0.999), batch=1)
    oracle.write_spectra(tmp_path, "spectral_one", 3, 9, share=1.0, shares=(0.6,))
    code, out = check_reference.main([str(tmp_path)]), capsys.readouterr().out
    assert code == 0, out
    assert "8 of 8 cases equal" in out


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("fopru", "out_rank_idx", "rank, row 0"),
        ("fopru_logits", "out_row_idx", "row, row 0"),
        ("spectral_own_definition", "leverage_centred", "leverage centred: differs by"),
        ("spectral_own_definition", "energy_rank_raw", "energy rank raw, row 0"),
        ("sparsevlm_v1", "out_relation", "score: differs by"),
        ("sparsevlm_v1", "cluster_out", "clusters: differs by"),
    ],
)
def test_a_difference_is_told(name, tensor, says, tmp_path, capsys):
    shutil.copy(DATA / f"{name}.json", tmp_path)
    tensors = load_file(DATA / f"{name}.safetensors")
    tensors[tensor] = tensors[tensor].clone()
    tensors[tensor][0, 0] += 1
    save_file(tensors, tmp_path / f"{name}.safetensors")
    assert check_reference.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{name}: differs" in out
    assert says in out


def test_what_no_check_looks_at_is_told(tmp_path, capsys):
    for name in ("fopru", "fopru_logits"):
        shutil.copy(DATA / f"{name}.json", tmp_path)
    tensors = load_file(DATA / "fopru.safetensors")
    save_file({**tensors, "out_more": tensors["out_row_idx"].clone()}, tmp_path / "fopru.safetensors")
    (tmp_path / "fopru_logits.safetensors").write_bytes(b"nothing")
    shutil.copy(DATA / "fopru.json", tmp_path / "unknown.json")
    shutil.copy(DATA / "fopru.safetensors", tmp_path / "unknown.safetensors")
    assert check_reference.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "nothing compares out_more" in out
    assert "could not be run: SafetensorError" in out
    assert "no check for this stem" in out
    assert "0 of 3 cases equal" in out


def test_as_a_command(tmp_path):
    for path in DATA.glob("fopru.*"):
        shutil.copy(path, tmp_path)
    run = [sys.executable, str(HERE / "check_reference.py"), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["fopru: equal", "1 of 1 cases equal"]
