"""Each method on streams made by hand: padding, protected tokens, weights, precision. Axes: B batch, N tokens."""

import pytest
import torch

from tokenreduce import testing
from tokenreduce.methods import Streams
from tokenreduce.registry import default_registry

from ..helpers import case_id

METHODS = [
    ("random", {"keep": 0.6}),
    ("random", {"remove": 3}),
    ("tome", {"r": 3}),
    ("tome", {"r": 3, "proportional_attention": False}),
    ("evit", {"keep": 0.6}),
    ("evit", {"keep": 0.6, "fuse": False}),
    ("evit", {"keep": 0.6, "saliency": "text"}),
    ("evit", {"keep": 0.6, "saliency": "key-norm"}),
    ("evit", {"keep": 0.6, "saliency": "random"}),
    ("pumer", {"prune": 0.2, "merge": 0.2, "saliency": "text"}),
    ("pumer", {"prune": 0.2, "merge": 0.0, "saliency": "class"}),
    ("pumer", {"prune": 0.0, "merge": 0.3}),
    ("pumer", {"prune": 0.2, "merge": 0.3, "saliency": "key-norm"}),
    ("pumer", {"prune": 0.2, "merge": 0.3, "saliency": "random"}),
    ("dynamicvit", {"keep": 0.6}),
    ("pitome", {"keep": 0.7}),
    ("tofu", {"r": 3, "merge_from": 0}),
    ("tofu", {"r": 3, "merge_from": 1}),
    ("diffrate", {"prune": 2, "merge": 3}),
    ("diffrate", {"prune": 0, "merge": 3}),
]
BATCH, LENGTH, WIDTH = 3, 11, 4


@pytest.fixture(params=METHODS, ids=case_id)
def method(request):
    name, options = request.param
    return bound(name, **options)


def bound(name, **options):
    """What a method binds to on a stack with one site."""
    reducer = default_registry().load("reducer", name)(**options)
    active = reducer.bind(testing.synthetic_backbone(width=WIDTH, sites=1))
    return active.eval() if isinstance(active, torch.nn.Module) else active


@pytest.fixture
def reduce(stream, site):
    """Reduce an image stream by hand, beside a text stream that the methods may reduce too."""

    def run(method, values, *, real=None, size=None, prefix=0, training=False):
        image = stream(
            values["x"],
            size=size,
            real=real,
            prefix=prefix,
            training=training,
            **{name: values[name] for name in ("keys", "class_attention", "text_attention")},
        )
        words = torch.ones(len(values["x"]), 1, 2)
        parts = {"text": stream(words, prefix=1, keys=words), "image": image}
        return method.reduce_streams(Streams(parts, main="image"), site())

    return run


def values(seed=0, batch=BATCH, length=LENGTH, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x, keys = torch.randn(2, batch, length, WIDTH, generator=generator)
    attention = torch.rand(2, batch, length, generator=generator).softmax(dim=-1)
    return {
        "x": x.to(dtype),
        "keys": keys.to(dtype),
        "class_attention": attention[0],
        "text_attention": attention[1],
    }


def padding(seed, prefix, share):
    real = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(seed)) > share
    real[:, : max(prefix, 1)] = True
    return real


@pytest.mark.parametrize("prefix", [0, 1])
def test_sizes_of_merging_methods_add_up(reduce, method, prefix):
    given = values(5)
    size = torch.randint(1, 5, (BATCH, LENGTH)).float()
    reduction = reduce(method, given, size=size, prefix=prefix)["image"]
    after = reduction.add_up(size)
    dropped = torch.where(reduction.assignment() < 0, size, torch.zeros(())).sum(dim=1)
    assert torch.equal(after.sum(dim=1) + dropped, size.sum(dim=1))
    merges = getattr(method.reducer, "merge_from", None) == 0 or getattr(method.reducer, "prune", None) == 0
    if type(method.reducer).__name__ in ("ToMe", "PiToMe") or getattr(method.reducer, "fuse", merges):
        assert not dropped.any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tome", {"r": 3}),
        ("pitome", {"keep": 0.7}),
        ("tofu", {"r": 3, "merge_from": 0, "preserve_norm": False}),
        ("diffrate", {"prune": 0, "merge": 3}),
    ],
)
def test_merging_methods_weigh_by_size(reduce, name, options):
    method = bound(name, **options)
    given, size = values(6), torch.randint(1, 9, (BATCH, LENGTH)).float()
    reduction = reduce(method, given, size=size, prefix=1)["image"]
    ends, got = reduction.assignment(), reduction.apply(given["x"])
    for b in range(BATCH):
        for k in range(reduction.count):
            members = [token for token in range(LENGTH) if ends[b, token] == k]
            expected = sum(given["x"][b, token] * size[b, token] for token in members) / size[b, members].sum()
            torch.testing.assert_close(got[b, k], expected)


def test_pumer_does_not_weigh_by_size(reduce):
    method = bound("pumer", prune=0.1, merge=0.3, saliency="text")
    given, size = values(7), torch.randint(1, 9, (BATCH, LENGTH)).float()
    with_size, without = reduce(method, given, size=size)["image"], reduce(method, given)["image"]
    assert torch.equal(with_size.apply(given["x"]), without.apply(given["x"]))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("kind", ["class", "text", "key-norm", "random"])
def test_evit_weights(reduce, kind, prefix):
    method = bound("evit", keep=0.5, saliency=kind)
    given = values(8)
    reduction = reduce(method, given, prefix=prefix)["image"]
    score = {
        "class": given["class_attention"],
        "text": given["text_attention"],
        "key-norm": given["keys"].norm(dim=-1),
    }.get(kind)
    got = reduction.apply(given["x"])
    for b in range(BATCH):
        kept = reduction.keep[b].tolist()
        assert kept[-1] == -1
        assert kept[:prefix] == list(range(prefix))
        dropped = sorted(set(range(LENGTH)) - set(kept))
        assert sorted(reduction.source[b].tolist()) == dropped
        if score is None:
            assert 0 < float(reduction.weight[b].sum()) < 1
            continue
        weight = score[b]
        order = sorted(range(prefix, LENGTH), key=lambda token: -float(weight[token]))
        assert kept[prefix:-1] == order[: len(kept) - 1 - prefix]
        if kind == "key-norm":
            weight = weight / weight[prefix:].sum()
        torch.testing.assert_close(got[b, -1], sum(weight[token] * given["x"][b, token] for token in dropped))


@pytest.mark.parametrize("kind", ["key-norm", "random"])
def test_evit_weights_of_many_tokens_in_half_precision(reduce, kind):
    method = bound("evit", keep=0.5, saliency=kind)
    given = values(10, batch=1, length=2000, dtype=torch.float16)
    given["keys"] = given["keys"] * 30  # lengths that add up to more than float16 holds
    reduction = reduce(method, given)["image"]
    assert reduction.weight.isfinite().all()
    assert 0.2 < float(reduction.weight.float().sum()) < 0.5
