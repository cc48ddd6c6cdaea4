"""The command line as a user types it."""

import json
import subprocess
import sys

import pytest


def test_list_names_everything(run):
    done = run("list", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for name in ("none", "random", "tome", "evit", "pumer", "timm-vit", "hf-vilt", "vilt-digits", "tokenreduce 0.1.0"):
        assert name in done.stdout


@pytest.mark.parametrize("statement", ["cli.main(['list'])", "default_registry()"])
def test_no_torch_without_need(statement):
    code = f"import sys, tokenreduce, tokenreduce.cli as cli; from tokenreduce import *; {statement}"
    heavy = "{'torch', 'timm', 'transformers', 'open_clip', 'sklearn'} & set(sys.modules)"
    code = code.replace("from tokenreduce import *", "from tokenreduce import default_registry")
    done = subprocess.run([sys.executable, "-c", f"{code}; assert not ({heavy}), {heavy}"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_core_imports_no_backbone_library():
    code = "import sys, tokenreduce; [getattr(tokenreduce, n) for n in tokenreduce.__all__]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; assert not {{'timm', 'transformers', 'open_clip'}} & set(sys.modules)"],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["none", "random", "tome", "evit", "pumer"])
def test_info_of_each_reducer(run, name):
    done = run("info", name)
    assert done.returncode == 0, done.stderr
    for word in ("source", "needs", "options", "runs on", "timm-vit", "hf-vilt"):
        assert word in done.stdout


def test_info_shows_defaults(run):
    text = run("info", "pumer").stdout
    for word in ("prune = None", "published share: 0.1", "2305.17530", "[2, 5, 8] of 12"):
        assert word in text


def test_info_of_an_adapter_and_a_task(run):
    assert "timm is installed" in run("info", "timm-vit").stdout
    assert run("info", "vilt-digits").returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["info", "pumr"], ["'pumr'", "'pumer'"]),
        (["ablate", "--model", "vilt-digit"], ["'vilt-digits'"]),
        (["ablate", "--samples", "0"], ["--samples"]),
        (["ablate", "--set", "tome"], ["REDUCER.OPTION=VALUE"]),
        (["ablate", "--set", "tomme.r=3"], ["tomme"]),
        (["ablate", "--json", "no/such/folder/x.json"], ["folder"]),
    ],
)
def test_wrong_use_says_what_to_type(run, args, words):
    done = run(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_ablate_writes_table_and_json(run, tmp_path):
    out = tmp_path / "result.json"
    done = run("ablate", "--samples", "40", "--batch", "20", "--rounds", "2", "--json", str(out))
    assert done.returncode == 0, done.stderr
    for word in ("reducer", "accuracy", "tokens", "MACs", "samples", "speed-up", "training"):
        assert word in done.stdout
    document = json.loads(out.read_text())
    assert [row["reducer"] for row in document["rows"]] == ["none", "random", "evit", "pumer", "tome"]
    assert document["task"] == "vilt-digits" and document["seed"] == 0 and document["baseline"] == "none"
    assert document["versions"]["torch"] and document["samples"] == 40
    rows = {row["reducer"]: row for row in document["rows"]}
    for row in document["rows"]:
        assert row["failed"] is None
        assert 0 <= row["accuracy"] <= 1 and row["macs"] > 0 and row["throughput"] > 0 and row["speedup"] > 0
        assert row["macs"] <= rows["none"]["macs"] and row["peak_memory_bytes"] > 0
        assert set(row["groups"]) <= {"digit-of-colour", "colour-of-digit", "is-there", "how-many"}
    assert rows["none"]["tokens"] == 153 and rows["pumer"]["tokens_by_stream"] == {"text": 4, "image": 31}
    assert rows["pumer"]["options"]["prune"] == 0.1 and rows["pumer"]["options"]["layers"] == [2, 5, 8]
    assert rows["pumer"]["training_memory_bytes"] < 0.7 * rows["none"]["training_memory_bytes"]
    again = tmp_path / "again.json"
    run("ablate", "--samples", "40", "--batch", "20", "--rounds", "1", "--json", str(again))
    accuracy = [row["accuracy"] for row in json.loads(again.read_text())["rows"]]
    assert accuracy == [row["accuracy"] for row in document["rows"]]


def test_ablate_goes_on_after_a_row_that_fails(run, tmp_path):
    out = tmp_path / "result.json"
    args = ["--samples", "4", "--batch", "4", "--rounds", "1", "--json", str(out)]
    done = run("ablate", "--reducers", "none,tomme,random", "--set", "random.keep=2", *args)
    assert done.returncode == 1
    rows = {row["reducer"]: row for row in json.loads(out.read_text())["rows"]}
    assert "'tome'" in rows["tomme"]["failed"] and "keep" in rows["random"]["failed"]
    assert rows["none"]["failed"] is None
