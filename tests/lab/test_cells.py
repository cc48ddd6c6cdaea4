"""Cells are kept under everything that decides them; what cannot be told or kept is said, and harms nothing else."""

import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import tokenreduce
from tokenreduce.lab.store import Store
from tokenreduce.tasks import Batch

QUICK = {"rounds": 1, "break_even": False}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3).eval()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return [Batch({"x": torch.randn(8, 3, 32, 32)}, torch.arange(8) % 3)]


@pytest.fixture
def ablate(model, data, tmp_path):
    """An ablation on kept cells: the result, and how many cells were worked out."""

    def run(metric, reducers=("none",), store=None, model=model, **options):
        store = Store(tmp_path / "cells") if store is None else store
        result = tokenreduce.ablate(model, data, reducers, metric=metric, store=store, **QUICK, **options)
        return result, result.setup["cells"]["worked out"]

    return run


def top(k):
    def metric(output, target):
        return (output.topk(k).indices == target[:, None]).any(1).float()

    return metric


def plain_top(output, target, k=1):
    return top(k)(output, target)


class Top:
    def __init__(self, k):
        self.k = k

    def __call__(self, output, target):
        return top(self.k)(output, target)


K = 1


def named_top(output, target):
    return top(K)(output, target)


@pytest.mark.parametrize(
    "metric",
    [
        top,
        lambda k: functools.partial(plain_top, k=k),
        lambda k: lambda output, target, by=k: plain_top(output, target, by),
        Top,
        lambda k: Top(k).__call__,
    ],
    ids=["closure", "partial", "default", "object", "method"],
)
def test_metrics_that_differ_in_what_they_hold_have_cells_of_their_own(metric, ablate):
    found = [ablate(metric(k)) for k in (1, 3, 1)]
    assert [result.row("none").accuracy for result, _ in found] == [
        found[0][0].row("none").accuracy,
        1.0,
        found[0][0].row("none").accuracy,
    ]
    assert found[0][0].row("none").accuracy < 1 and found[1][1] > 0 and found[2][1] == 0
    assert all(result.setup["notes"] == found[0][0].setup["notes"] for result, _ in found)


def test_a_metric_is_judged_again_where_a_global_that_it_names_changes(ablate, monkeypatch):
    before = ablate(named_top)[0].row("none").accuracy
    monkeypatch.setitem(globals(), "K", 3)
    assert ablate(named_top)[0].row("none").accuracy == 1.0 > before


def test_scores_of_a_metric_that_nobody_can_tell_are_not_kept_and_the_rest_is(ablate):
    def metric(numbers):
        return lambda output, target: top(next(numbers, 1))(output, target)

    first, worked_out = ablate(metric(i for i in (1,) * 9))
    second, again = ablate(metric(i for i in (3,) * 9))
    assert second.row("none").accuracy == 1.0 > first.row("none").accuracy and 0 < again < worked_out
    (note,) = [note for note in second.setup["notes"] if "kept" in note]
    assert note.startswith("scores are not kept") and "generator" in note


def test_scores_of_a_metric_that_reads_a_file_are_not_kept(ablate, tmp_path):
    file = tmp_path / "k.txt"

    def metric(output, target):
        return top(int(file.read_text()))(output, target)

    file.write_text("1")
    before = ablate(metric)[0].row("none").accuracy
    file.write_text("3")
    result, _ = ablate(metric)
    assert result.row("none").accuracy == 1.0 > before
    assert any("uses read_text" in note for note in result.setup["notes"])


def method(sign):
    class Mine(tokenreduce.Reducer):
        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(sign * tokens.x.norm(dim=-1), remove=remove)

    return Mine


def scores_with(model, data, reducer):
    with tokenreduce.attach(model, reducer), torch.no_grad():
        return top(1)(model(**data[0].inputs), data[0].targets).tolist()


def test_two_classes_of_one_function_are_two_methods(ablate, model, data):
    one, other = method(1), method(-1)
    result, _ = ablate(top(1), {"one": {"reducer": one(keep=0.2)}, "other": {"reducer": other, "keep": 0.2}})
    assert result.ok, [row.failed for row in result.rows]
    for name, kind in (("one", one), ("other", other)):
        assert result.row(name).scores == scores_with(model, data, kind(keep=0.2))
    assert result.row("one").reducer != result.row("other").reducer
    _, again = ablate(top(1), {"one": {"reducer": method(1)(keep=0.2)}})
    assert again == 0
    swapped, again = ablate(top(1), {"one": {"reducer": method(-1)(keep=0.2)}})
    assert again > 0 and swapped.row("one").scores == result.row("other").scores


def test_a_chain_with_a_class_that_no_plugin_offers(ablate, model, data):
    def both(sign):
        return tokenreduce.chain(
            {"reducer": method(sign)(keep=0.3), "layers": [0]}, {"reducer": "tome", "layers": [1], "r": 1}
        )

    first, _ = ablate(top(1), {"both": {"reducer": both(1)}})
    assert first.ok, [row.failed for row in first.rows]
    second, again = ablate(top(1), {"both": {"reducer": both(-1)}})
    assert again > 0
    for result, sign in ((first, 1), (second, -1)):
        assert result.row("both").scores == scores_with(model, data, both(sign))


def test_a_model_counts_with_its_attributes_and_its_own_forward(ablate, model):
    ablate(top(1))
    assert ablate(top(1))[1] == 0
    model.global_pool = "avg"
    assert ablate(top(1))[1] > 0
    model.head.register_forward_hook(lambda module, inputs, output: -output)
    assert ablate(top(1))[1] > 0


def test_data_count_beyond_what_is_printed(ablate, data):
    import numpy as np

    wide = np.zeros((8, 3000))
    data[0] = Batch(data[0].inputs, wide)
    metric = functools.partial(lambda output, target: torch.from_numpy(target.sum(1)))
    assert ablate(metric)[0].row("none").accuracy == 0
    wide[:, 1500] = 1
    assert ablate(metric)[0].row("none").accuracy == 1


def test_data_that_nobody_can_tell_are_said(ablate, data):
    class Locked:
        def __reduce_ex__(self, protocol):
            raise TypeError("it is locked")

    data[0] = Batch({"x": data[0].inputs["x"], "locked": [Locked()] * 8}, data[0].targets)
    model = type("Takes", (VisionTransformer,), {"forward": lambda self, x, locked: VisionTransformer.forward(self, x)})
    made = model(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3).eval()
    for _ in range(2):
        result, again = ablate(top(1), model=made)
        assert again > 0 and result.ok, [row.failed for row in result.rows]
        assert any(note.startswith("nothing is kept") and "it is locked" in note for note in result.setup["notes"])


SCRIPT = """
import sys, torch, tokenreduce
from timm.models.vision_transformer import VisionTransformer
from tokenreduce.lab.store import Store
torch.manual_seed(0)
model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3).eval()
data = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)]
{own}
found = tokenreduce.ablate(model, data, {variants}, metric={metric}, rounds=1, break_even=False, store=Store("cells"))
assert found.ok, [row.failed for row in found.rows]
print(found.setup["cells"]["worked out"])
"""
OWN = """
def helper(x):
    return {sign} * x.norm(dim=-1)
class Mine(tokenreduce.Reducer):
    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(helper(tokens.x), remove=remove)
def metric(output, target):
    return (output.argmax(-1) == target).float()
"""
MODULE = """
import tokenreduce
class Mine(tokenreduce.Reducer):
    def reduce(self, tokens, signals, remove):
        from helper_of_mine import score
        return tokens.keep_top(score(tokens.x), remove=remove)
"""
LAMBDA = "lambda output, target: (output.argmax(-1) == target).float()"


@pytest.mark.sweep
def test_code_of_a_script_and_of_a_module_counts_in_another_process(tmp_path):
    def run(own, variants, metric):
        (tmp_path / "script.py").write_text(SCRIPT.format(own=own, variants=variants, metric=metric))
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    mine = "{'mine': {'reducer': Mine, 'keep': 0.3}}"
    assert run(OWN.format(sign=1), mine, "metric") > 0
    assert run(OWN.format(sign=1), mine, "metric") == 0
    assert run(OWN.format(sign=-1), mine, "metric") > 0  # a helper of the class, in the script

    (tmp_path / "mine_by_name.py").write_text(MODULE)
    (tmp_path / "helper_of_mine.py").write_text("def score(x):\n    return x.norm(dim=-1)\n")
    named = "{'mine': {'reducer': {'vision': {'reducer': 'mine_by_name:Mine', 'keep': 0.3}}}}"
    assert run("", named, LAMBDA) > 0 and run("", named, LAMBDA) == 0
    (tmp_path / "helper_of_mine.py").write_text("def score(x):\n    return -x.norm(dim=-1)\n")
    assert run("", named, LAMBDA) > 0


@pytest.mark.parametrize(
    "text", ["", "{}", "3", "[" * 5000, '{"value": "abc"}', '{"value": {"scores": [1]}}', '{"value": NaN}']
)
def test_cells_that_are_damaged_are_worked_out_again(text, ablate, tmp_path):
    first, count = ablate(top(1), ["tome"])
    cells = list((tmp_path / "cells").rglob("*.json"))
    assert len(cells) == count
    for cell in cells[1:]:
        cell.write_text(text)
    cells[0].unlink()
    cells[0].mkdir()
    again, worked_out = ablate(top(1), ["tome"])
    assert worked_out == count and again.row("tome").scores == first.row("tome").scores and again.ok


def test_a_store_that_cannot_be_written_is_said_once_and_the_ablation_goes_on(ablate, tmp_path):
    (tmp_path / "file").write_text("no folder")
    full = tmp_path / "full"
    full.mkdir()
    for number in range(256):  # nothing can be made below
        (full / f"{number:02x}").write_text("")
    for folder in (tmp_path / "file" / "cells", full):
        result, _ = ablate(top(1), ["tome"], store=Store(folder))
        assert result.ok and result.row("tome").accuracy is not None
        (note,) = [note for note in result.setup["notes"] if str(folder) in note]
        assert "cannot be kept" in note and "--store" in note and "baseline" not in note


def test_what_is_kept_is_whole_json(ablate, tmp_path):
    ablate(top(1), ["tome"])
    assert not list((tmp_path / "cells").rglob("*.tmp"))
    for cell in (tmp_path / "cells").rglob("*.json"):
        assert set(json.loads(cell.read_text())) == {"about", "value"}


def test_under_autocast_cells_are_others(ablate):
    ablate(top(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert ablate(top(1))[1] > 0
