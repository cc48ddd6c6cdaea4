"""One bad row, batch or metric never takes the rest down, and no score is silently another sample's."""

import math
import sys

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.tasks import Batch

QUICK = {"rounds": 1, "break_even": False}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3).eval()


def images(count=8, seed=1):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def target_itself(output, target):
    return target


def under(model, name):
    own = tokenreduce.attachment(model)
    return own is not None and own.config["reducer"] == name


def test_scores_of_groups_are_those_of_their_samples(model):
    x = images()
    data = [
        Batch({"x": x[:4]}, torch.zeros(4)),
        Batch({"x": x[4:6]}, torch.ones(2), ["a", None]),
        Batch({"x": x[6:]}, torch.ones(2), [1, "a"]),
    ]
    result = tokenreduce.ablate(model, data, ["tome"], metric=target_itself, **QUICK)
    assert result.row("none").groups == {"(no group)": 0.2, "1": 1.0, "a": 1.0}
    assert any(note == "data: 5 of 8 samples have no group" for note in result.setup["notes"])
    with pytest.raises(OptionError, match="batch 1 has 4 samples and 3 groups"):
        tokenreduce.ablate(
            model, [data[0], Batch({"x": x[4:]}, torch.ones(4), ["a"] * 3)], ["none"], metric=target_itself
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_scores_that_are_no_numbers_fail_their_row_alone(model, value):
    def metric(output, target):
        scores = torch.ones(len(target), dtype=torch.float64)
        scores[0] = value if under(model, "tome") else 1
        return scores

    result = tokenreduce.ablate(model, [(images(), torch.zeros(8))], ["tome"], metric=metric, **QUICK)
    assert result.row("none").accuracy == result.row("random").accuracy == 1.0 and result.row("none").paces
    assert "1 of 8 scores in batch 0" in result.row("tome").failed and "metric" in result.row("tome").failed


def test_outputs_that_are_not_finite_are_said(model):
    x = images()
    x[2] = math.nan
    result = tokenreduce.ablate(
        model, [(x, torch.zeros(8))], ["none"], metric=lambda o, t: (o.argmax(-1) == t).float(), **QUICK
    )
    assert any("1 of 8 samples" in note and "not finite" in note for note in result.row("none").notes)
    model.head.weight.data.fill_(math.nan)
    result = tokenreduce.ablate(model, [(images(), torch.zeros(8))], ["none"], metric=target_itself, **QUICK)
    assert "not finite" in result.row("none").failed


def test_a_class_that_is_ruled_out_is_no_mistake(model):
    model.head.bias.data[1] = -math.inf
    result = tokenreduce.ablate(model, [(images(), torch.zeros(8))], ["none"], metric=target_itself, **QUICK)
    assert result.ok and not any("finite" in note for row in result.rows for note in row.notes)


def test_empty_batches_are_left_out(model):
    x = images()
    data = [(x[:0], torch.zeros(0)), (x, torch.zeros(8)), (x[:0], torch.zeros(0)), (x[:3], torch.zeros(3))]
    result = tokenreduce.ablate(model, data, ["tome"], metric=target_itself, **QUICK)
    assert result.ok and result.setup["data"]["samples"] == 11
    with pytest.raises(OptionError, match="got none"):
        tokenreduce.ablate(model, data[:1], ["none"], metric=target_itself)


def test_samples_are_counted_by_what_has_an_entry_for_each():
    x = torch.zeros(4, 3, 8, 8)
    assert len(Batch({"output_hidden_states": False, "pixel_values": x}, torch.zeros(4))) == 4
    assert len(Batch({"scale": torch.tensor([1.0, 2.0]), "x": x}, torch.zeros(4))) == 4
    assert len(Batch((torch.tensor(1.0), x), None)) == 4
    assert len(Batch({"texts": ["a", "b"]}, None)) == 2
    with pytest.raises(OptionError, match="an entry per sample"):
        len(Batch({"flag": True}, None))


class Odd(BaseException):
    """As pytest's Skipped: no Exception."""

    def __str__(self):
        raise RuntimeError("it cannot even say so")


class Raises(tokenreduce.Reducer):
    kind: type[BaseException] = SystemExit

    def reduce(self, tokens, signals, remove):
        raise self.kind("enough")


class RaisesOdd(Raises):
    kind = Odd


class Later(Raises):
    """Works for a while, then not any more."""

    calls = 0

    def reduce(self, tokens, signals, remove):
        type(self).calls += 1
        if type(self).calls > 60:
            sys.exit("enough")
        return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)


@pytest.mark.parametrize("kind", [Raises, RaisesOdd, Later])
@pytest.mark.sweep
def test_whatever_a_reducer_raises_is_its_rows_alone(kind, model):
    data = [(images(), torch.zeros(8))]
    result = tokenreduce.ablate(
        model, data, {"bad": {"reducer": kind, "keep": 0.5}, "tome": {}}, metric=target_itself, rounds=4
    )
    assert result.row("bad").failed and result.row("tome").failed is None and len(result.row("tome").paces) == 2
    assert tokenreduce.attachment(model) is None


def test_the_user_can_always_stop(model):
    class Stops(Raises):
        kind = KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenreduce.ablate(
            model, [(images(), torch.zeros(8))], {"s": {"reducer": Stops}}, metric=target_itself, **QUICK
        )
    assert tokenreduce.attachment(model) is None


@pytest.mark.parametrize("seed", [0, 10**13, 2**62, -(2**62)])
def test_any_seed_does(seed, model):
    result = tokenreduce.ablate(model, [(images(), torch.zeros(8))], ["none"], metric=target_itself, seed=seed, **QUICK)
    assert result.ok, [row.failed for row in result.rows]


@pytest.mark.parametrize(
    ("reducers", "words"),
    [
        ("tome", "a list of names"),
        (tokenreduce.Reducer, "a list of names"),
        (3, "a list of names"),
        ({"tome": None}, r"variant 'tome' is a mapping of options .*None"),
        ({"tome": "r=3"}, "variant 'tome'"),
        ({3: {}}, "a variant has a name, got 3"),
        ([3], "a variant has a name, got 3"),
    ],
)
def test_reducers_in_other_forms_are_refused(reducers, words, model):
    with pytest.raises(OptionError, match=words):
        tokenreduce.ablate(model, [(images(), torch.zeros(8))], reducers, metric=target_itself)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": 2**70}, "seed must be at most"),
        ({"rounds": True}, "rounds must be a whole number"),
        ({"break_even": 1}, "break_even must be true or false"),
        ({"batch_sizes": [10**12]}, r"batch_sizes\[0\] must be at most"),
        ({"ratios": [0.12345671, 0.12345672]}, "a level twice"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, words, model):
    with pytest.raises(OptionError, match=words):
        tokenreduce.ablate(model, [(images(), torch.zeros(8))], ["none"], metric=target_itself, **wrong)


def test_few_rounds_are_said_and_break_even_takes_three(model):
    result = tokenreduce.ablate(model, [(images(), torch.zeros(8))], {"tome": {"r": 2}}, metric=target_itself, rounds=1)
    assert any("too few to know their spread" in note for note in result.setup["notes"])
    assert any(spread > 0 for _, _, spread in result.row("tome").break_even.tried)
