"""``tokenreduce compare`` as a user types it."""

import json

import pytest

from tokenreduce.lab.result import BatchTiming, Result, Row

SETUP = {
    "model": {"name": "net", "fingerprint": "m"},
    "data": {"name": "things", "fingerprint": "d"},
    "machine": {"cpu": "x"},
}


def row(name, scores, seconds=1.0):
    paces = [BatchTiming(batch, [seconds] * 3, [2.0] * 3) for batch in (1, 8)]
    return Row(name, accuracy=sum(scores) / len(scores), scores=scores, macs=10**9, tokens=9, paces=paces)


@pytest.fixture
def files(tmp_path):
    """Two results on two machines: ``a`` lost some accuracy, ``[bold]gone`` and ``new`` are in one only."""
    right, worse = [1.0] * 20, [1.0] * 8 + [0.0] * 12
    a = Result([row("a", right), row("[bold]gone", right)], SETUP)
    b = Result([row("a", worse, 0.5), row("new", right)], {**SETUP, "machine": {"cpu": "[red]y"}})
    for name, result in (("a", a), ("b", b)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result.to_json()))
    return tmp_path


def test_tables(run, files):
    done = run("compare", str(files / "a.json"), str(files / "b.json"), COLUMNS="120")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "100.0 % → 40.0 %",
        "−60.0 [",
        "< 0.001",
        "[bold]gone (only in A)",
        "new (only in B)",
        "2.00 ± 0.00",
        "4.00 ± 0.00",
        "NOT COMPARABLE",
        "machine, cpu: x in A, [red]y in B",
        "times and speed-ups are not comparable",
    ):
        assert words in done.stdout
    assert "…" not in done.stdout


def test_json(run, files):
    done = run("compare", str(files / "a.json"), str(files / "b.json"), "--json", str(files / "out.json"))
    assert done.returncode == 0, done.stderr
    document = json.loads((files / "out.json").read_text())
    assert [change["name"] for change in document["changes"]] == ["a", "[bold]gone", "new"]
    assert document["changes"][0]["difference"] == pytest.approx(-0.6)
    assert document["a"] == str(files / "a.json")
    assert any("machine" in line for line in document["differences"])


def test_json_on_standard_output_is_alone_there(run, files):
    done = run("compare", str(files / "a.json"), str(files / "b.json"), "--json", "-")
    assert done.returncode == 0 and "[bold]gone" in done.stderr
    assert [change["name"] for change in json.loads(done.stdout)["changes"]] == ["a", "[bold]gone", "new"]


@pytest.mark.parametrize("width", ["50", "80"])
def test_narrow_terminals_cut_nothing(run, files, width):
    done = run("compare", str(files / "a.json"), str(files / "b.json"), COLUMNS=width)
    assert "…" not in done.stdout
    for words in ("100.0 % → 40.0 %", "−60.0 [", "< 0.001", "1.00 G", "4.00 ± 0.00"):
        assert words in done.stdout


def test_the_same_twice(run, files):
    done = run("compare", str(files / "a.json"), str(files / "a.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing differs" in done.stdout
    assert "NOT COMPARABLE" not in done.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"rows": []}', '{"rows": ["x"], "setup": {}, "pictures": []}'])
def test_a_file_that_is_something_else(run, files, text):
    (files / "bad.json").write_text(text)
    done = run("compare", str(files / "a.json"), str(files / "bad.json"))
    assert done.returncode == 2
    assert "bad.json: expected what 'tokenreduce ablate --json FILE' writes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["missing.json"], "cannot read missing.json: No such file"),
        (["a.json", "--json", "nowhere/out.json"], "the folder nowhere does not exist"),
        (["empty"], "empty holds no file of samples"),
    ],
)
def test_wrong_files(run, files, more, words, monkeypatch):
    monkeypatch.chdir(files)
    (files / "empty").mkdir()
    done = run("compare", "a.json", *more)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_bytes_that_are_not_text(run, files):
    (files / "bad.json").write_bytes(b"\xff\xfe\x00")
    done = run("compare", str(files / "bad.json"), str(files / "a.json"))
    assert (done.returncode, "bad.json" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_logs_of_a_harness_with_a_control(run, tmp_path):
    for name, scores in (("a", [1.0] * 20), ("b", [1.0] * 18 + [0.0] * 2), ("c", [0.0] * 20)):
        records = [{"doc_id": i, "target": str(i), "acc": score} for i, score in enumerate(scores)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.jsonl").rename(tmp_path / name / "20261126_173649_samples_vqa[b].jsonl")
    folders = [str(tmp_path / name) for name in "abc"]
    done = run("compare", *folders[:2], "--control", folders[2], "--json", str(tmp_path / "out.json"), COLUMNS="120")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("vqa[b]: acc", "100.0 % → 90.0 %", "beats the control: +90.0 points (p < 0.001)"):
        assert words in done.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["changes"][0]["test"] == "exact McNemar" and list(document["verdicts"]) == ["vqa[b]: acc"]
