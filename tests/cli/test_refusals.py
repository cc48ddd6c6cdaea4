"""What is refused, and when: before a model is read, with the flag, file, field or name to blame."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tokenreduce.cli import main
from tokenreduce.tasks import loading

QUICK = ["--rounds", "1", "--no-break-even", "--seeds", "1", "--batch", "4", "--batch-sizes", "1", "--no-store"]


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """A command in this process: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def unread(monkeypatch):
    """No model may be read."""

    def load(*arguments):
        raise AssertionError("the model was read")

    monkeypatch.setattr(loading, "load_task", load)


@pytest.fixture
def timm_folder(tmp_path):
    """A small classifier and a picture for it; gives the flags that name them."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3, img_size=48, depth=2)
    model.pretrained_cfg["input_size"] = (3, 48, 48)
    arguments = {"model_args": {"img_size": 48, "depth": 2}, "label_names": ["a", "b", "c"]}
    timm.models.save_for_hf(model, tmp_path / "model", model_config=arguments)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    (tmp_path / "d.jsonl").write_text(json.dumps({"image": "p.png", "answer": "a"}) + "\n")
    return ["--model", tmp_path / "model", "--data", tmp_path / "d.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reducers", "tomee"], ["'tomee'", "'tome'"]),
        (["--reducers", "none,pumer tuned,pumer tund"], ["'pumer tund'", "'pumer tuned'"]),
        (["--model", "clip-digits", "--reducers", "pumer tuned"], ["'pumer tuned'"]),
        (["--set", "tome.rr=1"], ["tome", "'rr'"]),
        (["--set", "evit.keep=1.5"], ["evit", "keep"]),
        (["--set", "pumer tuned.q=1"], []),
        (["--reducers", "tome", "--set", "evit.keep=0.5"], ["evit", "not among"]),
        (["--device", "nonsense"], ["--device nonsense"]),
        (["--device", "meta"], ["--device meta"]),
        (["--seed", str(2**80)], ["--seed"]),
        (["--pictures", "-1"], ["--pictures"]),
        (["--batch-sizes", "1,999999999999"], ["--batch-sizes"]),
        (["--ratios", "0:1e9:1e-9"], ["more than 1000 levels"]),
        (["--ratios", "0:inf:1"], ["0.1:0.6:0.1"]),
        (["--tuned", "no-such-folder"], ["no-such-folder"]),
        (["--store", "x", "--no-store"], ["--store"]),
    ],
)
def test_typos_are_refused_before_the_model_is_read(arguments, words, cli, unread):
    if not words:  # an option of a setting that only the task knows: not before it is read
        with pytest.raises(AssertionError, match="was read"):
            cli("ablate", *arguments)
        return
    code, out, err = cli("ablate", *arguments)
    assert code == 2 and not out
    for word in words:
        assert word in err, err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has an accelerator")
@pytest.mark.parametrize("command", [["ablate"], ["finetune", "--reducer", "tome"]])
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xla"])
def test_a_device_that_is_not_there(command, device, cli, unread):
    code, _, err = cli(*command, "--device", device)
    assert code == 2 and f"--device {device}" in err and "there is cpu" in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["finetune", "--reducer", "tomee"], "'tome'"),
        (["finetune", "--reducer", "tome", "--set", "q=1"], "no option 'q'"),
        (["finetune", "--reducer", "evit", "--set", "keep=1.7"], "keep"),
        (["show", "--sample", "0", "--reducer", "tomee"], "'tome'"),
        (["show", "--sample", "0", "--reducer", "tome", "--set", "q=1"], "no option 'q'"),
        (["show", "--sample", "0", "--reducer", '{"encoder": {"reducer": "tomee"}}'], "'tome'"),
        (["show", "A" * 5000], "no file"),
    ],
)
def test_other_commands_refuse_typos_as_early(command, words, cli, unread):
    code, _, err = cli(*command)
    assert code == 2 and words in err, err


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"setup": 3}, ["setup.request must be"]),
        ({"setup": None}, ["setup.request must be"]),
        ({"setup": {}}, ["setup.request must be"]),
        ({"setup": {"request": {"model": "m", "samples": "8"}}}, ["setup.request", "samples must be a whole number"]),
        ({"setup": {"request": {"model": None}}}, ["given in Python", "--model"]),
        ({"variants": 3}, ["variants must be a table"]),
        ({"variants": {"tome": 3}}, ["variants.tome must be a table"]),
        ({"variants": {"tome": {"rr": 1}}}, ["variant 'tome'", "'rr'"]),
        ({"variants": {"mine": {"reducer": "tomee"}}}, ["variant 'mine'", "'tome'"]),
        ({"variants": {"mine": {"reducer": {"vision": 3}}}}, ["variant 'mine'"]),
        ({"model": 3}, ["model must be text"]),
        ({"model": ["a"]}, ["model must be text"]),
        ({"data": 3}, ["data must be text"]),
        ({"batch_sizes": 3}, ["batch_sizes must be a list"]),
        ({"batch_sizes": [True]}, ["batch_sizes[0] must be a whole number"]),
        ({"ratios": "much"}, ["ratios: levels are"]),
        ({"trust": True}, ["no entry 'trust'"]),
        ([1], ["a table of entries"]),
        ("text", ["a table of entries"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("flag", ["--grid", "--repeat"])
def test_files_are_refused_with_their_field(flag, document, words, cli, tmp_path, unread):
    (tmp_path / "r.json").write_text(json.dumps(document))
    code, _, err = cli("ablate", flag, tmp_path / "r.json")
    assert code == 2, err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    "patch",
    [
        {"peak_memory_bytes": "a"},
        {"scores": "abc"},
        {"scores": [10**400]},
        {"paces": [{"batch": 1, "seconds": ["x"], "base_seconds": [1.0]}]},
        {"paces": [{"batch": 1, "seconds": [0.0], "base_seconds": [1.0]}]},
        {"macs": 10**40},
        {"interval": [0.1]},
        {"break_even": {"batch": 1, "tried": [[1]]}},
        {"versus_baseline": {"against": 3}},
        {"notes": [3]},
    ],
    ids=str,
)
def test_compare_names_file_and_field(patch, cli, tmp_path):
    good = {"rows": [{"name": "x", "accuracy": 0.5}], "setup": {}, "pictures": []}
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "bad.json").write_text(json.dumps({**good, "rows": [{"name": "x", **patch}]}))
    assert cli("compare", tmp_path / "good.json", tmp_path / "good.json")[0] == 0
    code, _, err = cli("compare", tmp_path / "good.json", tmp_path / "bad.json")
    assert code == 2 and "bad.json" in err and f"rows[0].{next(iter(patch))}" in err, err


def test_files_with_a_mark_and_endings_in_capitals(cli, tmp_path, unread):
    (tmp_path / "g.TOML").write_bytes(b"\xef\xbb\xbfsamples = 0\n")
    assert "samples must be 1 or more" in cli("ablate", "--grid", tmp_path / "g.TOML")[2]
    (tmp_path / "g.json").write_bytes(b"\xff\xfe")
    assert "UTF-8" in cli("ablate", "--grid", tmp_path / "g.json")[2]
    (tmp_path / "g.json").write_text("[" * 100_000)
    assert "not valid JSON" in cli("ablate", "--grid", tmp_path / "g.json")[2]


METHOD = """
import pathlib, tokenreduce
pathlib.Path({trace!r}).touch()
class Mine(tokenreduce.Reducer):
    def reduce(self, tokens, signals, remove):
        return tokens.keep_top({sign} * tokens.x.norm(dim=-1), remove=remove)
"""


def test_a_grid_names_code_only_with_trust(cli, timm_folder, tmp_path, monkeypatch):
    trace = tmp_path / "TRACE"
    (tmp_path / "grid_method.py").write_text(METHOD.format(trace=str(trace), sign=1))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "grid_method", raising=False)
    variants = {"mine": {"reducer": "grid_method:Mine", "keep": 0.5}, "tome": {}}
    (tmp_path / "g.json").write_text(json.dumps({"variants": variants}))
    for command in (["--grid", tmp_path / "g.json"], ["--reducers", "grid_method:Mine"]):
        code, _, err = cli("ablate", *timm_folder, *QUICK, *command)
        assert code == 2 and "grid_method:Mine" in err and "--trust" in err and not trace.exists()
    code, out, err = cli("ablate", *timm_folder, *QUICK, "--grid", tmp_path / "g.json", "--trust")
    assert code == 0 and trace.exists() and "mine" in out, err
    sys.modules.pop("grid_method")


def test_class_names_decide_and_cells_know_it(cli, timm_folder, tmp_path):
    quick, seen = [flag for flag in QUICK if flag != "--no-store"], []
    for names in ("abc", "bac", "cba"):  # whatever class the model says, "a" is right in one of these
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        config["label_names"] = list(names)
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        code, _, err = cli("ablate", *timm_folder, *quick, "--reducers", "none", "--json", "r.json")
        assert code == 0, err
        result = json.loads((tmp_path / "r.json").read_text())
        seen.append(next(row["accuracy"] for row in result["rows"] if row["name"] == "none"))
        assert seen[1:] == [] or result["setup"]["cells"]["kept"] > 0
    assert sorted(seen) == [0, 0, 1]


def test_a_home_that_cannot_be_written_is_no_obstacle(cli, timm_folder, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.delenv("TOKENREDUCE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    quick = [flag for flag in QUICK if flag != "--no-store"]
    code, out, err = cli("ablate", *timm_folder, *quick, "--reducers", "none")
    assert code == 0 and "cannot be kept in" in out and "--no-store" in out, err
    code, out, _ = cli("ablate", *timm_folder, *QUICK, "--reducers", "none")
    assert code == 0 and "cannot be kept" not in out and os.listdir(tmp_path).count("home") == 1  # noqa: PTH208


def test_the_request_travels_to_the_result_and_back(cli, timm_folder, tmp_path):
    assert (
        cli(
            "ablate", *timm_folder, *QUICK, "--reducers", "tome", "--set", "tome.r=2", "--seed", "3", "--json", "r.json"
        )[0]
        == 0
    )
    request = json.loads((tmp_path / "r.json").read_text())["setup"]["request"]
    assert request["variants"] == {"tome": {"r": 2}} and request["seed"] == 3 and request["rounds"] == 1
    assert (
        request["batch_sizes"] == [1] and request["break_even"] is False and request["model"] == str(tmp_path / "model")
    )
    code, _, err = cli("ablate", "--repeat", "r.json", "--no-store", "--json", "again.json")
    assert code == 0, err
    assert json.loads((tmp_path / "again.json").read_text())["setup"]["request"] == request


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--part", "3/2", "--store", "s"], "--part: a part is its number"),
        (["--part", "1/2"], "give all of them the same --store"),
        (["--part", "1/2", "--no-store"], "give all of them the same --store"),
        (["--part", "1/2", "--store", "s", "--json", "r.json"], "--part has no table to write"),
    ],
)
def test_parts_that_cannot_be(cli, unread, flags, words):
    code, _, err = cli("ablate", "--model", "clip-digits", *flags)
    assert code == 2 and words in err


def test_srun_without_torchrun_is_told(cli, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    code, _, err = cli("ablate", "--model", "no such model")
    assert code == 2 and "srun has started 4 tasks" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["m", "--out", "model.tflite"], "--out names its format by the ending"),
        (["m", "--out", "nowhere/model.onnx"], "the folder nowhere does not exist"),
        (["m", "--reducer", "tomme", "--out", "m.pt2"], "tome"),
        (["m", "--reducer", "tome", "--set", "rr=3", "--out", "m.pt2"], "rr"),
        (["m", "--tuned", "t", "--reducer", "tome", "--out", "m.pt2"], "--tuned has its own reducer"),
    ],
)
def test_exports_that_cannot_be(cli, unread, flags, words):
    code, _, err = cli("export", *flags)
    assert code == 2 and words in err
