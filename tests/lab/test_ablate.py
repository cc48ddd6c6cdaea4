"""``tokenreduce.ablate`` from Python, on a user's own model, data and metric."""

import json

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader, TensorDataset

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.lab.store import Store
from tokenreduce.tasks import Batch

QUICK = {"rounds": 1, "break_even": False}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=3).train()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return [Batch({"x": torch.randn(4, 3, 32, 32)}, torch.randint(3, (4,)), ["odd", "even"] * 2) for _ in range(3)]


def right(output, target):
    return (output.argmax(-1) == target).float()


def rows_of(result):
    return {row.name: row for row in result.rows}


def test_rows_baseline_and_controls(model, data):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    model.head.eval()  # every module's own mode is to come back
    state = torch.random.get_rng_state()
    result = tokenreduce.ablate(
        model,
        data,
        {"tome": {"r": 2}},
        metric=right,
        rounds=2,
        step=lambda what, done, total: seen.append((done, total)),
    )
    assert result.ok, [row.failed for row in result.rows]
    rows = rows_of(result)
    assert [row.role for row in result.rows] == ["baseline", "control", "control", "method"]
    assert result.setup["baseline"] == "none" and result.setup["data"]["samples"] == 12
    none, tome = rows["none"], rows["tome"]
    assert none.tokens == 17 and tome.tokens == 9 and none.macs_share == 1
    assert tome.macs < none.macs and tome.versus_baseline.against == "none"
    assert none.pace().speedup == 1 and [pace.batch for pace in tome.paces] == [1, 4]
    assert all(len(pace.seconds) == len(pace.base_seconds) == 2 for row in result.rows for pace in row.paces)
    assert set(tome.groups) == {"odd", "even"} and len(tome.scores) == 12
    assert tome.interval[0] <= tome.accuracy <= tome.interval[1]
    assert 0 < tome.overhead < 1 and none.overhead < tome.overhead
    assert [site.layer for site in tome.sites] == [0, 1, 2, 3]
    assert [n for n, _, _ in tome.break_even.tried] == sorted(n for n, _, _ in tome.break_even.tried)
    assert 17 in [n for n, _, _ in tome.break_even.tried] and tome.verdict
    small = next(row for row in result.rows if row.input_size)
    assert small.reducer == "none" and small.tokens < 17 and small.macs < none.macs
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert model.training and not model.head.training and tokenreduce.attachment(model) is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "not counted" in " ".join(result.setup["definitions"]) and result.setup["definitions"]["MACs"]


def test_accuracy_is_the_models_own(model, data):
    result = tokenreduce.ablate(model, data, ["none"], metric=right, **QUICK)
    model.eval()
    with torch.no_grad():
        own = torch.cat([right(model(**batch.inputs), batch.targets) for batch in data])
    assert result.rows[0].accuracy == pytest.approx(float(own.mean()))
    assert result.rows[0].scores == own.tolist()


def test_smaller_input_is_the_plain_model_on_smaller_pictures(model, data):
    result = tokenreduce.ablate(model, data, ["none"], metric=right, ratios=[0.5], **QUICK)
    small = next(row for row in result.rows if row.input_size)
    assert small.input_size in ((24, 24), (24, 16), (32, 16)) and small.ratio == 0.5
    height, width = small.input_size
    assert small.tokens == 1 + height * width // 64


@pytest.mark.parametrize("form", ["pairs", "mappings", "loader"])
def test_data_in_the_forms_that_people_have(model, data, form):
    x = torch.cat([batch.inputs["x"] for batch in data])
    y = torch.cat([batch.targets for batch in data])
    given = {
        "pairs": [(x[:4], y[:4]), (x[4:], y[4:])],
        "mappings": [{"x": x[:4], "labels": y[:4]}, {"x": x[4:], "labels": y[4:]}],
        "loader": DataLoader(TensorDataset(x, y), batch_size=5),
    }[form]
    result = tokenreduce.ablate(model, given, {"tome": {"r": 2}}, metric=right, **QUICK)
    plain = tokenreduce.ablate(model, data, {"tome": {"r": 2}}, metric=right, **QUICK)
    assert rows_of(result)["tome"].scores == rows_of(plain)["tome"].scores
    assert result.setup["data"]["fingerprint"] == plain.setup["data"]["fingerprint"]


def test_data_that_change_from_pass_to_pass_are_refused(model, data):
    x = torch.cat([batch.inputs["x"] for batch in data])
    y = torch.cat([batch.targets for batch in data])
    shuffled = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    result = tokenreduce.ablate(model, shuffled, ["none"], metric=right, **QUICK)
    assert not result.ok and "shuffling" in result.rows[0].failed
    with pytest.raises(tokenreduce.errors.OptionError, match=r"pass list\(data\)"):
        tokenreduce.ablate(model, iter(data), ["none"], metric=right)
    with pytest.raises(tokenreduce.errors.OptionError, match=r"pair \(inputs, targets\)"):
        tokenreduce.ablate(model, [x], ["none"], metric=right)


def test_a_row_that_fails_leaves_the_others(model, data):
    result = tokenreduce.ablate(model, data, {"tome": {"r": -1}, "nobody": {}}, metric=right, **QUICK)
    assert not result.ok
    rows = rows_of(result)
    assert "r" in rows["tome"].failed and "nobody" in rows["nobody"].failed
    assert rows["none"].failed is None and rows["random"].failed is None


def test_a_metric_that_raises_or_gives_too_few_scores_is_a_failed_row(model, data):
    def broken(output, target):
        raise ZeroDivisionError("no metric today")

    result = tokenreduce.ablate(model, data, ["random"], metric=broken, **QUICK)
    assert all("no metric today" in row.failed for row in result.rows)
    result = tokenreduce.ablate(model, data, ["random"], metric=lambda out, y: right(out, y).mean(), **QUICK)
    assert all("1 scores for a batch of 4" in row.failed for row in result.rows)
    assert tokenreduce.attachment(model) is None


def test_a_reducer_that_fails_in_some_batches_only_is_a_failed_row(model, data):
    class Picky(tokenreduce.Reducer):
        def reduce(self, tokens, signals, remove):
            if len(tokens.x) == 1:
                raise ValueError("one is too few")
            return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)

    result = tokenreduce.ablate(model, data, {"picky": {"reducer": Picky}, "tome": {"r": 2}}, metric=right, **QUICK)
    rows = rows_of(result)
    assert rows["picky"].failed == "at a batch of 1: ValueError: one is too few" and rows["picky"].accuracy is not None
    assert rows["tome"].failed is None and len(rows["tome"].paces) == 2
    assert tokenreduce.attachment(model) is None


def test_several_seeds_where_the_method_draws_and_only_there(model, data):
    reducers = {"random": {"keep": 0.3}, "tome": {"r": 2}}
    both = [
        rows_of(tokenreduce.ablate(model, data, reducers, metric=right, seeds=3, seed=5, **QUICK)) for _ in range(2)
    ]
    random, tome = both[0]["random"], both[0]["tome"]
    assert random.seeds == [5, 6, 7] and len(random.accuracy_by_seed) == 3
    assert tome.seeds == [5] and both[0]["none"].seeds == [5]
    assert random.scores == both[1]["random"].scores
    expected = []
    for seed in (5, 6, 7):
        with tokenreduce.attach(model.eval(), "random", keep=0.3, seed=seed), torch.inference_mode():
            expected.append(float(torch.cat([right(model(**b.inputs), b.targets) for b in data]).mean()))
    assert random.accuracy_by_seed == pytest.approx(expected)
    assert random.accuracy == pytest.approx(sum(expected) / 3)


def test_json_round_trip(model, data):
    result = tokenreduce.ablate(model, data, {"tome": {"r": 2}, "nobody": {}}, metric=right, rounds=1)
    document = json.loads(json.dumps(result.to_json()))
    again = tokenreduce.Result.from_json(document)
    assert again.rows == result.rows and json.loads(json.dumps(again.to_json())) == document
    for wrong in ({}, [], {"rows": [{"name": "x", "colour": 1}], "setup": {}, "pictures": []}, {"rows": ["x"]}):
        with pytest.raises(tokenreduce.errors.OptionError, match="tokenreduce ablate --json"):
            tokenreduce.Result.from_json(wrong)


def test_nothing_to_do_is_an_error(model, data):
    with pytest.raises(tokenreduce.errors.OptionError, match="got none"):
        tokenreduce.ablate(model, [], ["none"], metric=right)
    with pytest.raises(tokenreduce.errors.OptionError, match="needs reducers"):
        tokenreduce.ablate(model, data, [], metric=right)
    with pytest.raises(tokenreduce.errors.OptionError, match="not by both"):
        tokenreduce.ablate(model, data, ["none"], metric=right, ratios=[0.5], match_macs=0.5)
    for wrong in ({"ratios": [1.0]}, {"match_macs": 0.0}, {"seeds": 0}, {"rounds": 0}, {"batch_sizes": [0]}):
        with pytest.raises(tokenreduce.errors.OptionError, match=next(iter(wrong))):
            tokenreduce.ablate(model, data, ["none"], metric=right, **wrong)


def test_a_variant_has_a_name_and_a_reducer_per_stack(tiny_meter):
    meter, inputs = tiny_meter()
    data = [Batch(inputs, torch.tensor([0, 1]))]
    variants = {
        "pumer": {"layers": [0, 1]},
        "both": {"reducer": {"cross": "pumer", "vision": {"reducer": "tome", "r": 3}}},
        "early": {"reducer": "pumer", "layers": [0]},
    }
    result = tokenreduce.ablate(meter, data, variants, metric=lambda out, y: out.logits.argmax(-1) == y, **QUICK)
    rows = rows_of(result)
    assert result.ok, [row.failed for row in result.rows]
    assert rows["both"].macs < rows["pumer"].macs < rows["early"].macs < rows["none"].macs
    assert rows["both"].reducer["cross"]["reducer"] == "pumer"
    assert rows["both"].tokens_by_stream["image"] < rows["pumer"].tokens_by_stream["image"]
    assert rows["early"].options["layers"] == [0]
    options = {"both": {"reducer": rows["both"].reducer, **rows["both"].options}}
    again = tokenreduce.ablate(meter, data, options, metric=lambda out, y: y * 0.0, **QUICK)
    assert rows_of(again)["both"].macs == rows["both"].macs


def test_kept_cells_make_a_repeated_run_the_same_and_an_interrupted_one_go_on(model, data, tmp_path):
    calls = []

    def counted(output, target):
        calls.append(len(target))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return right(output, target)

    def run():
        return tokenreduce.ablate(
            model, data, {"tome": {"r": 2}}, metric=counted, rounds=2, break_even=False, store=Store(tmp_path)
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert tokenreduce.attachment(model) is None and model.training
    first = run()
    assert len(calls) == 5 + 3 * 3  # three batches of the baseline were judged before, three other rows are left
    second = run()
    assert len(calls) == 14 and second.rows == first.rows
    assert second.setup["cells"]["worked out"] == 0
    with torch.no_grad():
        model.head.bias += 1  # another model: nothing of that counts
    third = run()
    assert len(calls) == 14 + 12 and third.setup["model"]["fingerprint"] != first.setup["model"]["fingerprint"]


def test_readout_only_is_for_every_row(model, data):
    given = {"metric": right, "ratios": [0.3], "time": False}
    plain = rows_of(tokenreduce.ablate(model, data, ["tome"], **given))
    result = tokenreduce.ablate(model, data, ["tome"], **given, readout_only=True)
    assert result.ok, [row.failed for row in result.rows]
    assert result.setup["request"]["readout_only"] is True
    rows = rows_of(result)
    assert set(rows) == set(plain)
    assert all(row.options["readout_only"] is True for row in result.rows)
    assert all(row.macs < plain[row.name].macs for row in result.rows if row.name in ("none", "tome @ 0.3"))
    assert rows["none"].macs_share == 1 and rows["none"].accuracy == plain["none"].accuracy
    with pytest.raises(OptionError, match="--readout-only"):
        tokenreduce.ablate(model, data, {"tome": {"readout_only": True}}, **given)


def test_readout_only_where_all_is_read(model, data):
    model.reset_classifier(3, global_pool="avg")
    with pytest.raises(OptionError, match="leave readout_only out"):
        tokenreduce.ablate(model, data, ["tome"], metric=right, time=False, readout_only=True)
