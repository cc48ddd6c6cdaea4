"""The command line as a user types it."""

import json
import re
import time
from pathlib import Path

import pytest


def test_list_names_everything(run):
    done = run("list", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for name in ("none", "random", "tome", "evit", "pumer", "timm-vit", "hf-vilt", "vilt-digits", "tokenreduce 0.1.0"):
        assert name in done.stdout


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
        (["ablate", "--report", "no/such/folder/x.html"], ["--report", "folder"]),
        (["ablate", "--json", "/"], ["--json", "cannot be written", "Is a directory"]),
        (["ablate", "--report", "/"], ["--report", "cannot be written", "Is a directory"]),
        (["ablate", "--json", "-", "--report", "-"], ["--json - and --report -"]),
        (["ablate", "--ratios", "much"], ["0.1:0.6:0.1"]),
        (["ablate", "--match-macs", "1.5"], ["match_macs", "between 0 and 1"]),
        (["ablate", "--batch-sizes", "x"], ["--batch-sizes", "1,8,50"]),
        (["ablate", "--grid", "nowhere.toml"], ["nowhere.toml"]),
        (["ablate", "--preset", "pumer-papr"], ["'pumer-paper'"]),
    ],
)
def test_wrong_use_says_what_to_type(run, args, words):
    done = run(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


QUICK = ("--samples", "8", "--batch", "4", "--rounds", "1", "--seeds", "1", "--batch-sizes", "4", "--no-break-even")


@pytest.mark.sweep
def test_ablate_writes_table_and_json(run, tmp_path):
    out = tmp_path / "result.json"
    args = ["--samples", "20", "--batch", "10", "--rounds", "1", "--store", str(tmp_path / "store")]
    done = run("ablate", *args, "--json", str(out))
    assert done.returncode == 0, done.stderr
    for word in (
        "accuracy",
        "95 %",
        "tokens",
        "MACs",
        "samples",
        "speed-up",
        "overhead",
        "training",
        "pays from",
        "random",
    ):
        assert word in done.stdout
    document = json.loads(out.read_text())
    rows = {row["name"]: row for row in document["rows"]}
    small = next(name for name, row in rows.items() if row["input_size"])
    assert list(rows) == ["none", small, "random", "tome", "pumer", "random tuned", "pumer tuned"]
    setup = document["setup"]
    assert setup["model"]["name"] == "vilt-scenes" and setup["baseline"] == "none"
    assert setup["request"]["seed"] == 0 and setup["versions"]["torch"] and setup["data"]["samples"] == 20
    for row in document["rows"]:
        assert row["failed"] is None
        assert 0 <= row["accuracy"] <= 1 and row["macs"] > 0 and row["paces"][0]["seconds"][0] > 0
        assert row["macs"] <= rows["none"]["macs"] and row["peak_memory_bytes"] > 0
        assert set(row["groups"]) <= {"digit-of-colour", "colour-of-digit", "is-there", "how-many", "digit-at-place"}
        assert [pace["batch"] for pace in row["paces"]] == [1, 8, 10]
    assert rows["none"]["tokens"] == 155 and rows["pumer"]["tokens_by_stream"] == {"text": 5, "image": 31}
    assert rows["pumer"]["options"]["prune"] == 0.1 and rows["pumer"]["options"]["layers"] == [2, 5, 8]
    assert rows["pumer"]["training_memory_bytes"] < 0.7 * rows["none"]["training_memory_bytes"]
    assert len(rows["random"]["accuracy_by_seed"]) == 3 and len(rows["tome"]["accuracy_by_seed"]) == 1
    begin = time.monotonic()
    again = run("ablate", *args, "--json", str(tmp_path / "again.json"))
    assert "cells were kept" in again.stdout and again.returncode == 0
    kept = json.loads((tmp_path / "again.json").read_text())
    assert kept["rows"] == document["rows"] and kept["setup"]["cells"]["worked out"] == 0
    assert time.monotonic() - begin < 60
    repeated = tmp_path / "repeated.json"
    quick = ["--rounds", "1", "--batch-sizes", "4", "--no-break-even", "--store", str(tmp_path / "other")]
    assert run("ablate", "--repeat", str(out), *quick, "--json", str(repeated)).returncode == 0
    for row in json.loads(repeated.read_text())["rows"]:
        for same in ("scores", "accuracy_by_seed", "options", "macs", "tokens"):
            assert row[same] == rows[row["name"]][same], (row["name"], same)


@pytest.mark.sweep
def test_ablate_reads_the_class_token_alone(run, tmp_path):
    out = tmp_path / "result.json"
    args = [*QUICK, "--no-store", "--no-time", "--reducers", "pumer"]
    done = run("ablate", *args, "--readout-only", "--json", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["setup"]["request"]["readout_only"] is True
    assert all(row["options"]["readout_only"] for row in result["rows"])
    repeated = run("ablate", "--repeat", str(out), "--no-store", "--json", str(tmp_path / "again.json"))
    assert repeated.returncode == 0, repeated.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert [row["macs"] for row in again["rows"]] == [row["macs"] for row in result["rows"]]


def test_ablate_goes_on_after_a_row_that_fails(run, tmp_path):
    out = tmp_path / "result.json"
    args = [*QUICK, "--json", str(out), "--store", str(tmp_path / "store")]
    done = run("ablate", "--reducers", "none,tome,random", "--set", "random.layers=[99]", *args)
    assert done.returncode == 1
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert "layer 99" in rows["random"]["failed"] and "random failed: layer 99" in done.stderr
    assert rows["none"]["failed"] is None and rows["tome"]["failed"] is None


@pytest.mark.sweep
def test_a_grid_of_ratios_from_a_file_and_from_flags(run, tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(
        'model = "clip-digits"\nsamples = 8\nbatch = 4\nratios = "0.3:0.6:0.3"\n'
        '[variants.falling]\nreducer = "tome"\nr = {r = 10, inflection = -1.0}\n[variants.tome]\n'
    )
    out, store = tmp_path / "result.json", str(tmp_path / "store")
    quick = QUICK[4:]
    done = run("ablate", "--grid", str(grid), *quick, "--json", str(out), "--store", store)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    for variant in ("falling", "tome", "random"):
        levels = {row["ratio"]: row for row in rows if row["variant"] == variant}
        assert list(levels) == [0.3, 0.6]
        for ratio, row in levels.items():
            assert row["tokens"] == pytest.approx(145 * (1 - ratio), abs=3), row["name"]
    assert sum(row["input_size"] is not None for row in rows) == 2
    matched = run(
        "ablate", "--grid", str(grid), "--reducers", "tome", "--match-macs", "0.6", *quick, "--json", str(out),
        "--store", store,
    )  # fmt: skip
    assert matched.returncode == 0, matched.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert "falling" not in rows and rows["tome"]["macs_share"] == pytest.approx(0.6, abs=0.02)
    assert rows["random"]["macs_share"] == pytest.approx(0.6, abs=0.02)


@pytest.mark.sweep
def test_the_preset_of_the_paper(run, tmp_path):
    out = tmp_path / "result.json"
    done = run("ablate", "--preset", "pumer-paper", *QUICK, "--json", str(out), "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    for name in ("no-text", "no-merge", "mixed-modalities", "early", "late", "cascaded"):
        assert rows[f"pumer-{name}"]["failed"] is None and rows[f"pumer-{name}"]["tokens"] < 153
    assert rows["pumer-early"]["macs"] < rows["pumer"]["macs"] < rows["pumer-late"]["macs"] < rows["none"]["macs"]
    assert rows["pumer-no-text"]["tokens"] > rows["pumer"]["tokens"] < rows["pumer-no-merge"]["tokens"]
    assert "pumer-paper" in run("list").stdout


def test_a_report_is_written(run, tmp_path):
    page = tmp_path / "report.html"
    done = run("ablate", *QUICK, "--report", str(page), "--pictures", "2", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    for word in ("vilt-scenes", "pumer", "data:image/png;base64", "<svg", "not counted"):
        assert word in text
    assert not re.search(r"""(src|href)=["']?https?:""", text)
    own = [line for line in done.stderr.splitlines() if "torch/utils/_pytree.py" not in line]  # torch's log of torchao
    assert not own


ONE = (*QUICK, "--model", "clip-digits", "--reducers", "tome")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_json_is_alone_on_standard_output_and_a_full_disk_loses_nothing_else(run, tmp_path):
    done = run("ablate", *ONE, "--json", "-", "--report", "/dev/full", "--store", str(tmp_path / "store"))
    assert done.returncode == 2
    names = [row["name"] for row in json.loads(done.stdout)["rows"]]
    assert names[0] == "none" and names[1].startswith("smaller input ") and names[2:] == ["random", "tome"]
    assert "accuracy" in done.stderr and all(name in done.stderr for name in names)
    assert "--report: /dev/full cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_trying_a_file_leaves_no_trace(tmp_path):
    from tokenreduce.cli.output import check_writable

    new, known = tmp_path / "new.json", tmp_path / "known.json"
    known.write_text("kept")
    for path in (new, known, Path("-"), None):
        check_writable("--json", path)
    assert not new.exists() and known.read_text() == "kept"


def test_bars_of_other_libraries_are_quiet(python):
    pytest.importorskip("tqdm")
    code = "from tokenreduce.cli.output import quiet_progress_bars as quiet; quiet(); import tqdm; list(tqdm.tqdm([1]))"
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
