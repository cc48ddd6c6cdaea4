"""A cut pass, with its cache, equals a full recompute without one."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.methods import Reduction

from . import tinies
from .oracle import cache_of, language_of, recompute, visible, write

EVIT = {"reducer": "evit", "fuse": False}
PLACES = {
    "hand-over": {"handover": {"reducer": "random", "keep": 9}},
    "one cut": {"language": {**EVIT, "layers": [1], "keep": 0.5}},
    "pyramid": {"language": {**EVIT, "layers": [0, 1, 2], "keep": 0.6}},
    "text": {"language": {**EVIT, "layers": [1, 2], "keep": 0.5, "saliency": "text"}},
    "both": {"handover": {"reducer": "random", "keep": 0.5}, "language": {**EVIT, "layers": [0, 2], "keep": 0.5}},
}


@pytest.fixture(params=list(tinies.ALL))
def family(request):
    """The name of a family."""
    return request.param


KINDS = [(name, "sdpa") for name in tinies.ALL] + [(name, "eager") for name in tinies.FIRST]


@pytest.mark.parametrize(("family", "attention"), KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_prefill_and_decode_equal_a_recompute(tiny, place, attention):
    model, inputs = tiny.model, tiny.double().inputs()
    model.set_attn_implementation(attention)
    plain = write(model, inputs)
    with tokenreduce.attach(model, PLACES[place], trace=True) as handle:
        ids, logits, out = write(model, inputs)
        trace = handle.last.trace
        held = [layer.keys.shape[-2] for layer in cache_of(out).layers]
    seen = visible(trace)
    columns = inputs["input_ids"].shape[1]
    assert min(map(len, seen)) < columns and len(seen) == len(held)
    window = getattr(language_of(model).config, "sliding_window", None)
    for layer, (entries, mine) in enumerate(zip(held, seen, strict=True)):
        most = window - 1 if window and layer % 2 == 0 else 10**9  # Gemma3: every other layer slides
        assert entries == min(len(mine) + 5, most)
    exact = 1e-6 if attention == "sdpa" else 1e-5  # the library's eager softmax is in float32
    torch.testing.assert_close(logits, recompute(model, inputs, ids, seen), atol=exact, rtol=exact)
    assert not torch.equal(logits, plain[1])
    torch.testing.assert_close(write(model, inputs)[1], plain[1], atol=0, rtol=0)


@pytest.mark.parametrize("place", ["one cut", "both"])
def test_positions_counted_anew(tiny, family, place):
    if "qwen" in family:
        with pytest.raises(OptionError, match=r"mRoPE.*'original'"):
            tokenreduce.attach(tiny.model, PLACES[place], positions="compact")
        return
    model, inputs = tiny.model, tiny.double().inputs()
    with tokenreduce.attach(model, PLACES[place], trace=True, positions="compact") as handle:
        ids, logits, _ = write(model, inputs)
        seen = visible(handle.last.trace)
    want = recompute(model, inputs, ids, seen, compact=True)
    torch.testing.assert_close(logits, want, atol=1e-6, rtol=1e-6)
    assert (want - recompute(model, inputs, ids, seen)).abs().max() > 1e-3


class Pairs(tokenreduce.Reducer):
    """Folds every second token into the one before it."""

    def reduce(self, tokens, signals, remove):
        keep = torch.arange(0, tokens.count, 2).expand(tokens.x.shape[0], -1)
        source = torch.arange(1, tokens.count, 2).expand(tokens.x.shape[0], -1)
        target = torch.arange(source.shape[1]).expand_as(source)
        size = tokens.sizes()
        return Reduction(
            keep,
            source,
            target,
            length=tokens.count,
            keep_weight=size.gather(1, keep),
            weight=size.gather(1, source),
        )


class Rest(tokenreduce.Reducer):
    """Keeps the first half; one new token is the mean of the others."""

    def reduce(self, tokens, signals, remove):
        batch, half = tokens.x.shape[0], tokens.count // 2
        keep = torch.cat([torch.arange(half), torch.tensor([-1])]).expand(batch, -1)
        source = torch.arange(half, tokens.count).expand(batch, -1)
        target = torch.full_like(source, half)
        return Reduction(keep, source, target, length=tokens.count, fresh=1)


def edits(kind, cuts, columns):
    """What a merge does to hidden states, and what each layer sees; its own few lines, apart from the library's."""
    groups = [[column] for column in columns]
    plan, seen = {}, []
    for layer in range(4):
        if layer in cuts:
            if kind is Pairs:
                merged = [(a, b) for a, b in zip(groups[::2], groups[1::2], strict=False)]
                plan[layer] = [(a[0], [(a[0], len(a)), (b[0], len(b))]) for a, b in merged]
                groups = [a + b for a, b in merged] + groups[2 * len(merged) :]
            else:
                half = len(groups) // 2
                rest = groups[half:]
                plan[layer] = [(rest[-1][0], [(group[0], 1) for group in rest])]
                groups = [*groups[:half], [rest[-1][0]]]
        seen.append({group[0] for group in groups})

    def edit(layer, x):
        if layer not in plan:
            return x
        x = x.clone()
        before = x.clone()
        for column, members in plan[layer]:
            total = sum(weight for _, weight in members)
            x[:, column] = sum(before[:, member] * weight for member, weight in members) / total
        return x

    return edit, seen


@pytest.mark.parametrize("kind", [Pairs, Rest])
@pytest.mark.parametrize("cuts", [[0], [0, 1, 3]], ids=str)
def test_merging_equals_a_recompute_that_merges_at_the_same_place(tiny, kind, cuts):
    model, inputs = tiny.model, tiny.double().inputs()
    columns = inputs["input_ids"].shape[1]
    plan = {"handover": kind(keep=0.5)} if 0 in cuts else {}
    layers = [cut - 1 for cut in cuts if cut]
    plan |= {"language": {"reducer": kind(keep=0.5), "layers": layers}} if layers else {}
    with tokenreduce.attach(model, plan):
        ids, logits, _ = write(model, inputs)
    first = 3 + len(tiny.around[0])
    image = [first + column for column in tiny.columns(tiny.size)[0]]
    edit, seen = edits(kind, cuts, image)
    text = set(range(columns)) - set(image)
    want = recompute(model, inputs, ids, [one | text for one in seen], edit)
    torch.testing.assert_close(logits, want, atol=1e-6, rtol=1e-6)
