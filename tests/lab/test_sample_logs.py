"""Samples that lm-eval and lmms-eval log, as a result that can be compared."""

import json

import pytest

from tokenreduce.errors import OptionError
from tokenreduce.lab.comparison import against_control, compare, differences, same_samples
from tokenreduce.lab.logged_scores import score_of
from tokenreduce.lab.sample_logs import read_logs
from tokenreduce.lab.statistics import compare_paired

DATE = "2026-11-26T17-36-49.123456"
RIGHT, SOME = [1.0] * 12, [1.0] * 4 + [0.0] * 8


def lm(number, scores, **more):
    """A record of lm-eval, whose document has a picture in memory."""
    doc = {"question": f"q{number}", "image": f"<PIL.Image at 0x7f{number:04x}{id(scores):x}>"}
    known = {"doc_id": number, "doc": doc, "target": f"t{number}", "filter": "none", "doc_hash": f"{id(scores)}"}
    return {**known, "metrics": list(scores), "resps": [["a"]], **scores, **more}


def lmms(number, scores):
    """A record of lmms-eval."""
    return {"doc_id": number, "target": f"t{number}", "filtered_resps": "a", "token_counts": [None], **scores}


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run_of(folder, scores, make=lm, name=f"samples_vqa_{DATE}.jsonl", metric="exact_match", shift=0):
    return write(folder / name, [make(i + shift, {metric: score}) for i, score in enumerate(scores)])


def test_a_file_is_a_row_and_its_order_means_nothing(tmp_path):
    records = [lm(i, {"acc": float(i % 2), "f1": i / 10}) for i in (2, 0, 1)]
    result = read_logs(write(tmp_path / f"samples_my_task_{DATE}.jsonl", records))
    assert {row.name: row.scores for row in result.rows} == {
        "my_task: acc": [0.0, 1.0, 0.0],
        "my_task: f1": [0.0, 0.1, 0.2],
    }
    assert result.setup["data"]["samples"] == {"my_task": 3}


@pytest.mark.parametrize(
    ("make", "name"), [(lm, f"samples_vqa_{DATE}.jsonl"), (lmms, "20261126_173649_samples_vqa.jsonl")]
)
def test_two_runs_are_paired(tmp_path, make, name):
    a, b = (read_logs(run_of(tmp_path / n, scores, make, name)) for n, scores in (("a", RIGHT), ("b", SOME)))
    (change,) = compare(a, b)
    found = compare_paired("A", SOME, RIGHT)
    assert (change.name, change.test, change.p) == ("vqa: exact_match", "exact McNemar", found.p)
    assert (change.difference, change.low, change.high) == (found.difference, found.low, found.high)
    assert same_samples(a, b) and not any("not known to be the same samples" in line for line in differences(a, b))


def test_other_samples_are_not_paired(tmp_path):
    a = read_logs(run_of(tmp_path / "a", RIGHT))
    for name, other in (
        ("shifted", run_of(tmp_path / "b", SOME, shift=1)),
        ("fewer", run_of(tmp_path / "c", SOME[:9])),
    ):
        b = read_logs(other)
        assert compare(a, b)[0].test == "unpaired intervals", name
        assert any("not known to be the same samples" in line for line in differences(a, b))


def test_a_folder_has_the_newest_file_of_each_task(tmp_path):
    run_of(tmp_path / "model", SOME, name="samples_vqa_2026-11-25T17-36-49.1.jsonl")
    run_of(tmp_path / "model", RIGHT)
    run_of(tmp_path / "model", SOME, name=f"samples_other_{DATE}.jsonl")
    config = {"model": "hf", "model_args": {"reducer": "tome"}, "tokenreduce": {"image_tokens_left": 63.6}}
    (tmp_path / "model" / f"results_{DATE}.json").write_text(json.dumps({"config": config}))
    result = read_logs(tmp_path)
    assert {row.name: row.accuracy for row in result.rows} == {"other: exact_match": 1 / 3, "vqa: exact_match": 1.0}
    assert [row.tokens for row in result.rows] == [64, 64]
    assert result.setup["model"]["arguments"] == {"reducer": "tome"}
    (change,) = [
        c for c in compare(read_logs(tmp_path / "model" / f"samples_vqa_{DATE}.jsonl"), result) if not c.only_in
    ]
    assert change.test == "exact McNemar"  # a row is paired by its own samples, whatever else the other run has


def test_a_metric_without_scores_is_left_out(tmp_path):
    records = [lm(i, {"acc": 1.0, "submission": {"id": i}}) for i in range(3)]
    result = read_logs(write(tmp_path / "s.jsonl", records))
    assert [row.name for row in result.rows] == ["s: acc"]
    assert any("submission is left out" in note for note in result.setup["notes"])


def test_filters_are_rows_of_their_own(tmp_path):
    records = [lm(i, {"em": float(name == "flexible")}, filter=name) for name in ("strict", "flexible") for i in (0, 1)]
    result = read_logs(write(tmp_path / "s.jsonl", records))
    assert {row.name: row.accuracy for row in result.rows} == {"s: em (strict)": 0.0, "s: em (flexible)": 1.0}


def test_a_control_is_beaten_or_not(tmp_path):
    a, b = (read_logs(run_of(tmp_path / n, scores)) for n, scores in (("a", RIGHT), ("b", SOME)))
    assert against_control(a, b, "random")["vqa: exact_match"].startswith("beats random: +66.7 points (p = 0.0")
    assert against_control(b, a, "random")["vqa: exact_match"].startswith("does not beat random: -66.7 points")
    assert against_control(a, a, "random")["vqa: exact_match"].startswith("no better than random within noise")
    other = read_logs(run_of(tmp_path / "c", SOME, shift=1))
    assert "same samples" in against_control(a, other, "random")["vqa: exact_match"]


MMMU = {"id": "validation_Art_1", "subdomain": "Art"}


@pytest.mark.parametrize(
    ("logged", "score"),
    [
        (1, 1.0),
        (True, 1.0),
        ([0.5], 0.5),
        ({"score": 0.3, "question_id": 7}, 0.3),
        ({"pred": "A", "answer": "A"}, 1.0),
        ({"pred": "B", "answer": "A"}, 0.0),
        ({**MMMU, "question_type": "multiple-choice", "answer": "A", "parsed_pred": ["B", "A"]}, 1.0),
        ({**MMMU, "question_type": "multiple-choice", "answer": "A", "parsed_pred": ["B"]}, 0.0),
        ({**MMMU, "question_type": "open", "answer": ["3,000", "x"], "parsed_pred": [[3000.0]]}, 1.0),
        ({**MMMU, "question_type": "open", "answer": "tree", "parsed_pred": [["a Tree"], ["a tree"]]}, 1.0),
        ({**MMMU, "question_type": "open", "answer": "x", "parsed_pred": [["fox"]]}, 0.0),
        ({"submission": 3}, None),
        ("text", None),
        (float("nan"), None),
    ],
)
def test_scores(logged, score):
    assert score_of(logged) == score


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]\n", "line 1 has no number 'doc_id'"),
        ('{"doc_id": true}\n', "no number 'doc_id'"),
        ("\n", "is empty"),
        ('{"doc_id": 0, "acc": 1}\n{"doc_id": 0, "acc": 1}\n', "line 2: sample 0 is there twice"),
        ('{"doc_id": 0, "target": "a"}\n', "no metric with a score for every sample"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, text, words):
    (tmp_path / "s.jsonl").write_text(text)
    with pytest.raises(OptionError, match=words):
        read_logs(tmp_path / "s.jsonl")


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(OptionError, match="holds no file of samples"):
        read_logs(tmp_path)
