"""A sample's answer does not depend on its batch."""

import pytest
import torch

import tokenreduce
from tokenreduce.methods import Reduction

from . import tinies
from .oracle import write

PLANS = {
    "random at the hand-over": {"handover": {"reducer": "random", "keep": 7}},
    "class attention at the hand-over": {"handover": {"reducer": "evit", "keep": 0.3}},
    "tome between layers": {"language": {"reducer": "tome", "r": 5, "layers": [0, 2]}},
    "readout": {"language": {"reducer": "evit", "layers": [1, 2], "keep": 0.5, "fuse": False}},
    "text": {"language": {"reducer": "evit", "layers": [1], "keep": 0.4, "saliency": "text"}},
    "images one by one": {"language": {"reducer": "evit", "layers": [1], "keep": 0.5}, "unit": "image"},
    "fastv": {"language": {"reducer": "fastv", "layers": [1]}},
    "dart": {"language": {"reducer": "dart", "keep": 0.4}},
    "pyramiddrop": {"language": "pyramiddrop"},
    "pyramiddrop, images one by one": {"language": "pyramiddrop", "unit": "image"},
    "sparsevlm": {"language": "sparsevlm"},
    "sparsevlm by rank": {"language": {"reducer": "sparsevlm", "scale": 1.0, "bias": 6.0}},
    "sparsevlm, images one by one": {"language": {"reducer": "sparsevlm", "heads": 0.5}, "unit": "image"},
    "random, then fastv": {"handover": {"reducer": "random", "keep": 12}, "language": "fastv"},
}


def plans_of(family):
    return [name for name in PLANS if family in ("llava", "llava_next") or "class" not in name]


@pytest.fixture(params=list(tinies.ALL))
def family(request):
    """The name of a family."""
    return request.param


def attach(model, plan, **options):
    plan = dict(plan)
    unit = plan.pop("unit", None)
    return tokenreduce.attach(model, plan, unit=unit, **options)


def mixed(tiny):
    """Samples with different images and texts: one, two side by side, none."""
    other = tiny.size if tiny.fixed else tiny.other
    return [[tiny.size], [tiny.size, other], []], [4, 6, 9]


CASES = [(family, plan) for family in tinies.ALL for plan in plans_of(family)]
SIDES = [(family, plan, side) for family, plan in CASES for side in ("left", "right") if family in tinies.FIRST]


@pytest.mark.parametrize(("family", "plan"), CASES)
def test_generation_in_a_batch_equals_each_alone(family, plan, tiny):
    sizes, tails = mixed(tiny)
    tiny.double()
    with attach(tiny.model, PLANS[plan]) as handle:
        together = write(tiny.model, tiny.batch(sizes, tails=tails, seeds=[3, 4, 5]))
        assert handle.last.mean_image_tokens < max(h * w for images in sizes for h, w in images) * 1.5
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[3 + b]))
            assert torch.equal(alone[0][0], together[0][b])
            torch.testing.assert_close(alone[1][0], together[1][b], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("family", "plan", "side"), SIDES)
def test_logits_of_a_padded_batch_equal_each_alone(family, plan, side, tiny):
    sizes, tails = mixed(tiny)
    tiny.double()
    given = tiny.batch(sizes, tails=tails, seeds=[3, 4, 5], side=side)
    if plan == "dart" and side == "left" and family != "qwen2_5_vl":  # as generate() does: its keys know positions
        given["position_ids"] = (given["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with attach(tiny.model, PLANS[plan]), torch.no_grad():
        logits = tiny.model(**given).logits
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = tiny.model(**tiny.batch([images], tails=[tail], seeds=[3 + b])).logits[0]
            mine = logits[b][given["attention_mask"][b].bool()]
            text = (given["input_ids"][b] != tinies.IMAGE) & given["attention_mask"][b].bool()
            kept = text[given["attention_mask"][b].bool()]
            exact = 1e-5 if side == "left" else 1e-6  # there the library counts positions from the padding, in float32
            torch.testing.assert_close(mine[kept], alone[kept], atol=exact, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tinies.FIRST)
def test_padding_with_every_attention(family, tiny, attention):
    tiny.model.set_attn_implementation(attention)  # in float32: eager masks of float64 overflow in the library
    sizes, tails = mixed(tiny)
    with attach(tiny.model, PLANS["readout"]):
        together = write(tiny.model, tiny.batch(sizes, tails=tails, seeds=[3, 4, 5]))[1]
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[3 + b]))[1]
            torch.testing.assert_close(alone[0], together[b], atol=2e-5, rtol=1e-4)


def test_video_and_image_in_one_prompt():
    tiny = tinies.qwen2_5_vl().double()
    given = tinies.video_and_image(tiny)
    alone = [tinies.video_and_image(tiny, only=i) for i in range(2)]
    for plan in ({"handover": {"reducer": "random", "keep": 5}}, PLANS["readout"], PLANS["images one by one"]):
        with attach(tiny.model, plan, trace=True) as handle:
            together = write(tiny.model, given)[1]
            trace = handle.last.trace
            if "handover" in plan:
                for sample in range(2):
                    for number in range(2):
                        assert int((trace.image(sample, number) >= 0).sum()) == 5
                assert {trace.grid(0, 0), trace.grid(0, 1)} == {(2, 2, 4), (4, 6)}
            for b in range(2):
                torch.testing.assert_close(write(tiny.model, alone[b])[1][0], together[b], atol=1e-6, rtol=1e-6)


def test_an_integer_is_per_unit(family, tiny):
    given = tiny.inputs(images=2)
    h, w = tiny.size
    for unit, kept in (("image", 2 * 5), ("sample", 5)):
        with tokenreduce.attach(tiny.model, "random", keep=5, unit=unit) as handle, torch.no_grad():
            tiny.model(**given)
            assert handle.last.tokens["image"] == kept
            assert handle.last.initial["image"] == 2 * h * w
            assert handle.config["unit"] == unit


class ByNorm(tokenreduce.Reducer):
    """Keeps the tokens longer than the mean: as many as there are, in each unit by itself."""

    ragged = True

    def reduce(self, tokens, signals, remove):
        norm = tokens.x.norm(dim=-1)
        long = norm > norm.mean(dim=1, keepdim=True)
        most = int(long.sum(dim=1).max())
        order = (~long).int().argsort(dim=1, stable=True)[:, :most]
        return Reduction(order, length=tokens.count, valid=long.gather(1, order))


@pytest.mark.parametrize(("stack", "unit"), [("handover", "image"), ("language", "sample")])
def test_counts_that_differ(family, tiny, stack, unit):
    """Each unit keeps its own number of tokens: alone as in a batch, and as the norms say."""
    sizes, tails = mixed(tiny)
    tiny.double()
    place = {} if stack == "handover" else {"layers": [1, 2]}
    plan = {stack: {"reducer": ByNorm(), **place}}
    with tokenreduce.attach(tiny.model, plan, unit=unit, trace=True) as handle:
        together = write(tiny.model, tiny.batch(sizes, tails=tails, seeds=[3, 4, 5]))
        trace, kept = handle.last.trace, []
        for b, images in enumerate(sizes):
            kept += [int((trace.image(b, number) >= 0).sum()) for number in range(len(images))]
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[3 + b]))
            assert torch.equal(alone[0][0], together[0][b])
            torch.testing.assert_close(alone[1][0], together[1][b], atol=1e-6, rtol=1e-6)
    assert len(set(kept)) > 1 or family in tinies.MORE  # there, pictures are small
    if unit == "image" and stack == "handover":
        batch = tiny.batch(sizes, tails=tails, seeds=[3, 4, 5])
        norms = [feature.norm(dim=-1) for feature in tiny.features(batch, sizes)]
        assert kept == [int((norm > norm.mean()).sum()) for norm in norms]


def test_a_rule_gives_each_image_its_own_number(family, tiny):
    """``keep=Budget.energy(...)``: as many tokens as the directions that hold the share of an image's energy."""
    sizes = [[tiny.size], [tiny.size] * 2]
    given = tiny.batch(sizes, tails=[4, 7], seeds=[3, 4])
    rule = tokenreduce.Budget.energy(0.9, cap=18)
    with tokenreduce.attach(tiny.model, "random", keep=rule, trace=True) as handle, torch.no_grad():
        tiny.model(**given)
        trace, last = handle.last.trace, handle.last
        kept = [int((trace.image(b, i) >= 0).sum()) for b, i in ((0, 0), (1, 0), (1, 1))]
        per_sample = [kept[0], kept[1] + kept[2]]
        assert last.counts["image"].tolist() == per_sample
        assert last.tokens["image"] == sum(per_sample) / 2 and last.spread["image"] > 0
        assert "±" in str(handle)
    for count, feature in zip(kept, tiny.features(given, sizes), strict=True):
        energy = torch.linalg.svdvals(feature.double()).square()
        share = energy.cumsum(0) / energy.sum()
        assert count == min(int((share < 0.9 - 1e-6).sum()) + 1, 18)
