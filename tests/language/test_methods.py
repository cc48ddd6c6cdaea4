"""Methods inside the language model equal what full matrices without a cache choose and give."""

from dataclasses import replace

import pytest
import torch

import tokenreduce
from tokenreduce.errors import LayerError, OptionError, UnfitReducerError
from tokenreduce.methods import Streams
from tokenreduce.testing import site, stream, synthetic_backbone

from . import methods_oracle as oracle
from . import tinies
from .oracle import cache_of, language_of, visible, write

NAMES = ("fastv", "dart", "pyramiddrop", "sparsevlm")
SHARES = (300 / 576, 200 / 576, 110 / 576)
METHODS = {
    "fastv": ({"reducer": "fastv", "layers": [1]}, oracle.fastv(0.5), [1], False),
    "fastv as published": ({"reducer": "fastv", "keep": 0.3}, oracle.fastv(0.3), [0], False),
    "dart": ({"reducer": "dart", "keep": 13}, oracle.dart(13), [0], False),
    "dart, later": ({"reducer": "dart", "keep": 12, "layers": [2]}, oracle.dart(12), [2], False),
    "pyramiddrop": ("pyramiddrop", oracle.pyramiddrop(0.5, 0.25, 0.125), [0, 1, 2], True),
    "pyramiddrop, two stages": (
        {"reducer": "pyramiddrop", "layers": [0, 2], "keep": [0.6, 0.3]},
        oracle.pyramiddrop(0.6, 0.3),
        [0, 2],
        True,
    ),
    "sparsevlm": ("sparsevlm", oracle.sparsevlm(SHARES), [0, 1, 2], False),
    "sparsevlm, version 2": (
        {"reducer": "sparsevlm", "recycle": 0, "heads": 0.5, "layers": [0, 2]},
        oracle.sparsevlm(SHARES, 0, 0.5),
        [0, 2],
        False,
    ),
    "pumer": ({"reducer": "pumer", "layers": [0, 1, 2]}, oracle.pumer(0.1, 0.3), [0, 1, 2], False),
    "pumer, the ratios of METER": (
        {"reducer": "pumer", "prune": 0.2, "merge": 0.2, "layers": [1, 2]},
        oracle.pumer(0.2, 0.2),
        [1, 2],
        False,
    ),
    "sparsevlm by rank": (
        {"reducer": "sparsevlm", "scale": 1.0, "bias": 3.0, "layers": [1]},
        oracle.sparsevlm(None, scale=1.0, bias=3.0),
        [1],
        False,
    ),
}


SLIDING = ("fastv as published", "pyramiddrop", "pumer", "pumer, the ratios of METER")
"""They read a sliding layer of Gemma3, where a token behind the window has no attention and no rank."""
EVERYWHERE = ("fastv", "pyramiddrop", "sparsevlm")
"""One for each kind of look: at the layer, at the next one, at the text; with new tokens in the last."""


def cases():
    """Every method on every family; those that only repeat what others have tried are for the sweep."""
    for family in tinies.ALL:
        for method in METHODS:
            for positions in ("original",) if "qwen" in family else ("original", "compact"):
                main = family in tinies.FIRST or (method in EVERYWHERE and positions == "original")
                yield pytest.param(family, method, positions, marks=[] if main else [pytest.mark.sweep])


@pytest.mark.parametrize(("family", "method", "positions"), list(cases()))
def test_choices_and_logits_equal_full_matrices(family, method, positions):
    """Positions, caches, decoded tokens and what is recycled."""
    config, chooser, layers, ahead = METHODS[method]
    wide = {"sliding_window": 64} if family == "gemma3" and method in SLIDING else {}
    tiny = tinies.ALL[family](**wide).double()
    model, inputs = tiny.model, tiny.inputs(tail=9)
    with tokenreduce.attach(model, {"language": config}, trace=True, positions=positions) as handle:
        ids, logits, out = write(model, inputs)
        seen = visible(handle.last.trace)
        held = [layer.keys.shape[-2] for layer in cache_of(out).layers]
        assert sorted(site.layer for site in handle.sites) == layers
        text = inputs["input_ids"].shape[1] - len(oracle.image_columns(tiny, inputs))
        assert handle.last.image_tokens == [len(one) - text for one in seen]
    want, expected = oracle.recompute(tiny, inputs, ids, chooser, layers, ahead=ahead, compact=positions == "compact")
    assert seen == expected and len(set(map(len, seen))) > 1
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)
    window = getattr(language_of(model).config, "sliding_window", None)
    for layer, (entries, mine) in enumerate(zip(held, expected, strict=True)):
        assert entries == min(len(mine) + 5, window - 1 if window and layer % 2 == 0 else 10**9)


@pytest.mark.parametrize("method", METHODS)
def test_tiles_choose_by_themselves(method):
    """unit="tile": the whole picture and two tiles side by side, whose rows alternate."""
    config, chooser, layers, ahead = METHODS[method]
    tiny = tinies.ALL["llava_next"]().double()
    inputs = tiny.inputs(tail=9)
    image = oracle.image_columns(tiny, inputs)
    beside = image[16:]  # in rows of eight, four of either
    parts = [image[:16], *([c for i, c in enumerate(beside) if i % 8 // 4 == tile] for tile in range(2))]
    with tokenreduce.attach(tiny.model, {"language": config}, trace=True, unit="tile") as handle:
        ids, logits, _ = write(tiny.model, inputs)
        seen = visible(handle.last.trace)
    chooser = oracle.by_part(chooser, parts)
    want, expected = oracle.recompute(tiny, inputs, ids, chooser, layers, ahead=ahead)
    assert seen == expected
    assert {len(seen[-1] & set(part)) for part in parts} < set(range(1, 16))
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)


def test_the_trace_says_where_recycled_tokens_went(family, tiny):
    given = tiny.inputs(tail=9)
    plan = {"language": {"reducer": "sparsevlm", "keep": 0.25, "layers": [1]}}
    with tokenreduce.attach(tiny.model, plan, trace=True) as handle, torch.no_grad():
        tiny.model(**given)
        ends = handle.last.trace.image(0)
    kept = len(ends) // 4
    recycled = int(0.3 * (len(ends) - kept)) + 1
    assert int((ends >= 0).sum()) == kept + recycled
    assert len(set(ends[ends >= 0].tolist())) == kept + int(recycled / 10) + 1 == handle.last.tokens["image"]


def test_published_counts_of_a_7b_model():
    load = tokenreduce.registry.default_registry().load
    backbone = replace(synthetic_backbone(), depth=32)
    layers = {name: load("reducer", name)().layers(backbone) for name in NAMES}
    assert layers == {"fastv": [1], "dart": [1], "pyramiddrop": [7, 15, 23], "sparsevlm": [2, 6, 15]}
    for keep, per_stage, mean in (
        (SHARES, [309, 204, 113], 192.0),
        ((238, 48, 26), [249, 55, 27], 96.9),
        ((66, 30, 17), [82, 32, 18], 64.8),
    ):
        now, counts = 576, []
        for index in range(3):
            tokens = stream(torch.zeros(1, now, 4), **signals(now, 576))
            part = Streams({"image": replace(tokens, initial=576)}, "image")
            reducer = load("reducer", "sparsevlm")(keep=list(keep))
            now = reducer.reduce_streams(part, site(index, index, 3))["image"].count
            counts.append(now)
        assert counts == per_stage
        published = 576 * 2 + counts[0] * 4 + counts[1] * 9 + counts[2] * 17  # the layer before a cut counted as after
        assert published / 32 == pytest.approx(mean, abs=0.1)


def signals(now, initial):
    """What SparseVLM reads, of noise."""
    generator = torch.Generator().manual_seed(now)
    draw = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    return {
        "image_embeddings": draw(1, initial, 4),
        "text_embeddings": draw(1, 5, 4),
        "text_columns": torch.arange(5)[None],
        "text_rows": draw(1, now, 5, 2),
    }


CHAINS = [
    *(("random", family, "fastv") for family in tinies.FIRST),
    *(("visionzip", family, "fastv") for family in tinies.FIRST),
    *(("visionzip", "llava", name) for name in ("dart, later", "pyramiddrop", "sparsevlm")),
    ("visionzip", "llava_next", "fastv"),
]


@pytest.mark.parametrize(("before", "family", "method"), CHAINS)
def test_one_trace_and_one_cost_across_stacks(before, method, tiny):
    """A method at the hand-over and one between layers: the oracle from what is left, one record for both."""
    given = tiny.double().inputs(tail=9)
    config, chooser, layers, ahead = METHODS[method]
    plan = {"handover": {"reducer": before, "keep": 0.5}, "language": config}
    image = oracle.image_columns(tiny, given)
    total, half = len(image), len(image) // 2
    with tokenreduce.attach(tiny.model, {"handover": plan["handover"]}, trace=True) as handle, torch.no_grad():
        start = tiny.model(**given, output_hidden_states=True, logits_to_keep=1).hidden_states[0]
        first, moved, one = visible(handle.last.trace)[0], handle.last.trace.image(0), handle.last
    with tokenreduce.attach(tiny.model, plan, trace=True) as handle:
        ids, logits, _ = write(tiny.model, given)
        last, seen = handle.last, visible(handle.last.trace)
    want, expected = oracle.recompute(
        tiny, given, ids, chooser, layers, ahead=ahead, gone=set(image) - first, start=start
    )
    assert seen == expected and seen[0] == first and len(set(image) & first) == half
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)

    assert last.image_tokens == [len(set(image) & mine) for mine in seen] and last.initial["image"] == total
    ins = [total, *(len(set(image) & seen[layer]) for layer in layers)]
    outs = [half, *(len(set(image) & seen[layer + 1]) for layer in layers)]
    assert [(site.stack, site.tokens_in, site.tokens_out) for site in last.sites] == list(
        zip(["handover", *["language"] * len(layers)], ins, outs, strict=True)
    )
    assert last.macs[0] == one.macs[0] and last.macs[1] < one.macs[1] < one.macs[0]
    if method != "sparsevlm":  # those that only drop: what the hand-over has merged stays or goes as one
        at = [sorted(first)[place] if place >= 0 else -1 for place in moved.tolist()]
        ends = [sorted(seen[-1])[place] if place >= 0 else -1 for place in last.trace.image(0).tolist()]
        assert ends == [column if column in seen[-1] else -1 for column in at]


def test_where_they_land_and_what_is_refused(family, tiny):
    for name in NAMES:
        with tokenreduce.attach(tiny.model, name) as handle:
            assert {site.stack for site in handle.sites} == {"language"}
        with pytest.raises(UnfitReducerError, match=r"'handover'.*provides"):
            tokenreduce.attach(tiny.model, {"handover": name})
    with pytest.raises(LayerError, match=r"next layer.*after layer 3.*layers up to 2"):
        tokenreduce.attach(tiny.model, "pyramiddrop", layers=[1, 3], keep=0.5)
    with pytest.raises(OptionError, match=r"keep.*3 entries for 2 sites"):
        tokenreduce.attach(tiny.model, "pyramiddrop", layers=[0, 1], keep=[0.5, 0.3, 0.2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dart", {"image_pivots": 0}, r"image_pivots.*at least 1"),
        ("dart", {"order": "hash"}, r"'norm', 'set'"),
        ("sparsevlm", {"keep": 0.5, "scale": 1.0}, r"'keep' or 'scale', not both"),
        ("sparsevlm", {"recycle": 2.0}, r"recycle"),
        ("sparsevlm", {"group": 0}, r"group.*at least 1"),
        ("sparsevlm", {"heads": 0.0}, r"heads"),
        ("fastv", {"keep": 0.0}, r"keep"),
        ("pyramiddrop", {"keep": {"rule": {"kind": "energy", "value": 0.9, "cap": 5}}}, r"rule"),
    ],
)
def test_options(name, options, words):
    with pytest.raises(OptionError, match=words):
        tokenreduce.attach(tinies.llava().model, name, **options)
