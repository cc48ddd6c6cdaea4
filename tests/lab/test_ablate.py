"""``tokenreduce.ablate`` from Python, on a user's own model, data and metric."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import tokenreduce
from tokenreduce.lab.task import Batch


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


def test_rows_and_baseline(model, data):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    result = tokenreduce.ablate(
        model,
        data,
        {"tome": {"r": 2}, "none": {}, "random": {"keep": 0.5, "layers": [1]}},
        metric=right,
        rounds=2,
        step=lambda what, done, total: seen.append((done, total)),
    )
    assert result.ok
    assert [row.reducer for row in result.rows] == ["tome", "none", "random"]
    assert result.setup["baseline"] == "none" and result.setup["samples"] == 12
    tome, none, random = result.rows
    assert none.accuracy_change == 0 and none.speedup == 1
    assert none.tokens == 17 and tome.tokens == 9 and random.tokens == 9
    assert tome.macs < none.macs and random.options["layers"] == [1]
    assert set(tome.groups) == {"odd", "even"}
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert model.training and tokenreduce.attachment(model) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_accuracy_is_the_models_own(model, data):
    result = tokenreduce.ablate(model, data, ["none"], metric=right, rounds=1)
    model.eval()
    with torch.no_grad():
        own = torch.cat([right(model(**batch.inputs), batch.targets) for batch in data]).mean()
    assert result.rows[0].accuracy == pytest.approx(float(own))


def test_a_row_that_fails_leaves_the_others(model, data):
    result = tokenreduce.ablate(model, data, {"none": {}, "tome": {"r": -1}, "nobody": {}}, metric=right, rounds=1)
    assert not result.ok
    assert [row.failed is None for row in result.rows] == [True, False, False]
    assert "r" in result.rows[1].failed and "nobody" in result.rows[2].failed
    assert result.rows[0].speedup == 1


def test_a_metric_that_raises_is_a_failed_row(model, data):
    def broken(output, target):
        raise ZeroDivisionError("no metric today")

    result = tokenreduce.ablate(model, data, ["none", "random"], metric=broken, rounds=1)
    assert all("no metric today" in row.failed for row in result.rows)
    assert tokenreduce.attachment(model) is None


def test_same_seed_same_result(model, data):
    both = [tokenreduce.ablate(model, data, ["random", "tome"], metric=right, rounds=1).rows for _ in range(2)]
    assert [row.accuracy for row in both[0]] == [row.accuracy for row in both[1]]


def test_json_is_plain(model, data):
    import json

    document = tokenreduce.ablate(model, data, ["none"], metric=right, rounds=1).to_json()
    assert json.loads(json.dumps(document))["rows"][0]["reducer"] == "none"


def test_nothing_to_do_is_an_error(model, data):
    for batches, reducers in (([], ["none"]), (data, [])):
        with pytest.raises(tokenreduce.OptionError, match="needs data and reducers"):
            tokenreduce.ablate(model, batches, reducers, metric=right)


def test_a_variant_has_a_name_and_a_reducer_per_stack(tiny_meter):
    meter, inputs = tiny_meter()
    data = [Batch(inputs, torch.tensor([0, 1]))]
    variants = {
        "none": {},
        "pumer": {"layers": [0, 1]},
        "both": {"reducer": {"cross": "pumer", "vision": {"reducer": "tome", "r": 3}}},
        "early": {"reducer": "pumer", "layers": [0]},
    }
    result = tokenreduce.ablate(meter, data, variants, metric=lambda out, y: out.logits.argmax(-1) == y, rounds=1)
    assert result.ok, [row.failed for row in result.rows]
    rows = {row.reducer: row for row in result.rows}
    assert rows["both"].macs < rows["pumer"].macs < rows["early"].macs < rows["none"].macs
    assert rows["both"].options["reducer"]["cross"]["reducer"] == "pumer"
    assert rows["both"].tokens_by_stream["image"] < rows["pumer"].tokens_by_stream["image"]
    assert rows["early"].options["layers"] == [0]
    again = tokenreduce.ablate(meter, data, {"both": rows["both"].options}, metric=lambda out, y: y * 0.0, rounds=1)
    assert again.rows[0].macs == rows["both"].macs
