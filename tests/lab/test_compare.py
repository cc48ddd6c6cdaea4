"""Two results side by side."""

import copy
import json

import pytest

from tokenreduce.lab.comparison import Change, Speed, compare, differences, same_machine, same_samples
from tokenreduce.lab.result import BatchTiming, Result, Row
from tokenreduce.lab.statistics import compare_paired, compare_unpaired, interval

SETUP = {
    "model": {"name": "net", "class": "Net", "fingerprint": "m1"},
    "data": {"name": "things", "fingerprint": "d1", "samples": 4},
    "request": {"seed": 0, "options": {"a": {"r": 13}}},
    "baseline": "none",
    "versions": {"torch": "2.9"},
    "plugins": {"p": "1.0"},
    "machine": {"cpu": "x", "cores": 2},
    "definitions": {"macs": "multiply-adds"},
}
A_SCORES, B_SCORES = [1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]


def row(name="a", scores=A_SCORES, **fields):
    paces = fields.pop("paces", [BatchTiming(8, [1.0, 1.0], [2.0, 2.0])])
    accuracy = sum(scores) / len(scores) if scores else None
    return Row(name, accuracy=accuracy, scores=list(scores), macs=100, tokens=9, paces=paces, **fields)


def result(*rows, **setup):
    return Result(list(rows or [row()]), {**copy.deepcopy(SETUP), **setup})


def test_a_result_and_itself():
    a = result()
    (change,) = compare(a, a)
    assert (change.only_in, change.difference, change.p, change.accuracy) == ("", 0, 1, (0.5, 0.5))
    assert (change.macs, change.tokens, change.failed) == ((100, 100), (9, 9), (None, None))
    assert change.speeds == [Speed(8, 2.0, 2.0, 0.0, 0.0)]
    assert differences(a, a) == []


def test_same_samples_are_paired():
    (change,) = compare(result(), result(row(scores=B_SCORES)))
    found = compare_paired("A", B_SCORES, A_SCORES)
    assert (change.difference, change.low, change.high) == (0.5, found.low, found.high)
    assert (change.p, change.test) == (found.p, "exact McNemar")


@pytest.mark.parametrize("data", [{"fingerprint": "d2"}, {}, {"fingerprint": None}, "things", None])
def test_other_samples_are_not_paired(data):
    a, b = result(), result(row(scores=B_SCORES), data=data)
    (change,) = compare(a, b)
    assert (change.low, change.high) == compare_unpaired(1.0, interval(B_SCORES), 0.5, interval(A_SCORES))
    assert (change.difference, change.p, change.test) == (0.5, None, "unpaired intervals")
    assert not same_samples(a, b)
    assert any("not known to be the same samples" in line for line in differences(a, b))


def test_fewer_samples_are_not_paired():
    (change,) = compare(result(), result(row(scores=[1.0, 1.0])))
    assert change.test == "unpaired intervals"


def test_intervals_are_enough_and_accuracies_are_something():
    bare = Row("a", accuracy=0.9, interval=(0.8, 0.95))
    (change,) = compare(result(), result(bare))
    assert (change.low, change.high) == compare_unpaired(0.9, (0.8, 0.95), 0.5, interval(A_SCORES))
    (change,) = compare(result(), result(Row("a", accuracy=0.9)))
    assert (change.difference, change.low, change.p, change.test) == (pytest.approx(0.4), None, None, "")
    (change,) = compare(result(), result(Row("a", failed="no")))
    assert (change.difference, change.failed) == (None, (None, "no"))


def test_rows_of_one_only():
    changes = compare(result(row("a"), row("gone")), result(row("new"), row("a")))
    assert [(c.name, c.only_in) for c in changes] == [("a", ""), ("gone", "A"), ("new", "B")]
    assert (changes[1].accuracy, changes[1].difference, changes[1].speeds) == ((0.5, None), None, [])
    assert changes[2].macs == (None, 100)


def test_speeds_at_batch_sizes_of_both():
    own = [BatchTiming(1, [1.0], [1.0]), BatchTiming(64, [1.0], [3.0]), BatchTiming(8, [1.0], [1.5])]
    (change,) = compare(result(), result(row(paces=own)))
    assert change.speeds == [Speed(8, 2.0, 1.5, 0.0, 0.0)]


def test_changes_go_to_json():
    changes = compare(result(), result(row(scores=B_SCORES), row("new")))
    documents = json.loads(json.dumps([change.to_json() for change in changes]))
    assert documents[0]["speeds"] == [{"batch": 8, "a": 2.0, "b": 2.0, "a_spread": 0.0, "b_spread": 0.0}]
    assert documents[0]["accuracy"] == [0.5, 1.0]
    assert set(documents[1]) == set(Change.__dataclass_fields__)


def test_every_part_of_the_setup_is_looked_at():
    b = result(
        model={**SETUP["model"], "fingerprint": "m2"},
        request={"seed": 0, "options": {"a": {"r": 16}}, "new": [1, 2]},
        baseline="plain",
        versions={"torch": "2.10"},
        plugins={},
        machine={"cpu": "y", "cores": 2},
        surprise=1,
    )
    lines = differences(result(), b)
    assert lines[:2] == [
        "model, fingerprint: m1 in A, m2 in B",
        "model: not known to be the same model: a change of accuracy may be the model's",
    ]
    for line in (
        "request, options, a, r: 13 in A, 16 in B",
        "request, new: nothing in A, [1, 2] in B",
        "baseline: none in A, plain in B",
        "baseline: speed-ups are ratios to different baselines",
        "versions, torch: 2.9 in A, 2.10 in B",
        "plugins, p: 1.0 in A, nothing in B",
        "machine, cpu: x in A, y in B",
        "surprise: nothing in A, 1 in B",
    ):
        assert line in lines
    assert any(line.startswith("machine:") and "not comparable" in line for line in lines)
    assert not any("data" in line for line in lines)
    assert not same_machine(result(), b)


def test_a_name_is_not_a_fingerprint():
    b = result(data={**SETUP["data"], "name": "stuff"})
    assert differences(result(), b) == ["data, name: things in A, stuff in B"]
    assert same_samples(result(), b)


def test_how_much_was_kept_is_not_a_difference():
    assert differences(result(cells={"kept": 0}), result(cells={"kept": 9})) == []


def test_what_is_not_recorded_is_not_the_same():
    a = Result([row()], {})
    assert not same_machine(a, a) and not same_samples(a, a)
    assert [line.split(":")[0] for line in differences(a, a)] == ["model", "data", "machine"]


def test_other_options_of_a_row():
    lines = differences(result(row(options={"r": 13})), result(row(options={"r": 16})))
    assert lines == ["row a, options, r: 13 in A, 16 in B"]
