"""Each method on streams made by hand: padding, protected tokens, weights, precision. Axes: B batch, N tokens."""

import pytest
import torch

from tokenreduce import Reduction, Streams
from tokenreduce.registry import default_registry

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
]
BATCH, LENGTH, WIDTH = 3, 11, 4


def ids(case):
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


@pytest.fixture(params=METHODS, ids=ids)
def method(request):
    name, options = request.param
    made = default_registry().load("reducer", name)(**options)
    made.build(WIDTH, 1)
    return made.eval() if isinstance(made, torch.nn.Module) else made


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
        return method.reduce_streams(Streams({"text": stream(words, prefix=1, keys=words), "image": image}), site())

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


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_protected_tokens_stay_in_front_bit_for_bit(reduce, method, prefix):
    given = values(1)
    reduction = reduce(method, given, prefix=prefix)["image"]
    assert reduction.count < LENGTH
    assert torch.equal(reduction.apply(given["x"])[:, :prefix], given["x"][:, :prefix])
    ends = reduction.assignment()
    for k in range(prefix):
        assert (ends == k).sum(dim=1).tolist() == [1] * BATCH  # nothing merges into them


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("prefix", [0, 1])
def test_padding_never_displaces_a_real_token(reduce, method, prefix, share):
    real = padding(2, prefix, share)
    reduction = reduce(method, values(2), real=real, prefix=prefix)["image"]
    gone = reduction.length - (reduction.count - reduction.fresh)
    for b in range(BATCH):
        removed = sorted(set(range(LENGTH)) - set(reduction.keep[b].tolist()))
        assert len(removed) == gone
        assert sum(bool(real[b, token]) for token in removed) == max(gone - int((~real[b]).sum()), 0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("prefix", [0, 1])
def test_what_stands_in_the_padding_does_not_reach_real_tokens(reduce, method, prefix, share):
    real = padding(3, prefix, share)
    given, other = values(3), values(4)
    for name, value in given.items():
        mask = real.unsqueeze(-1) if value.ndim == 3 else real
        other[name] = torch.where(mask, value, 9 * other[name] + 3)
    one, two = reduce(method, given, real=real, prefix=prefix), reduce(method, other, real=real, prefix=prefix)
    alive = one["image"].add_up(real.int()) > 0
    assert torch.equal(two["image"].add_up(real.int()) > 0, alive)
    got, wanted = two["image"].apply(other["x"])[alive], one["image"].apply(given["x"])[alive]
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
def test_sizes_of_merging_methods_add_up(reduce, method, prefix):
    given = values(5)
    size = torch.randint(1, 5, (BATCH, LENGTH)).float()
    reduction = reduce(method, given, size=size, prefix=prefix)["image"]
    after = reduction.add_up(size)
    dropped = torch.where(reduction.assignment() < 0, size, torch.zeros(())).sum(dim=1)
    assert torch.equal(after.sum(dim=1) + dropped, size.sum(dim=1))
    if type(method).__name__ == "ToMe" or getattr(method, "fuse", False):
        assert not dropped.any()


def test_tome_weighs_by_size(reduce):
    method = default_registry().load("reducer", "tome")(r=3)
    given, size = values(6), torch.randint(1, 9, (BATCH, LENGTH)).float()
    reduction = reduce(method, given, size=size, prefix=1)["image"]
    ends, got = reduction.assignment(), reduction.apply(given["x"])
    for b in range(BATCH):
        for k in range(reduction.count):
            members = [token for token in range(LENGTH) if ends[b, token] == k]
            expected = sum(given["x"][b, token] * size[b, token] for token in members) / size[b, members].sum()
            torch.testing.assert_close(got[b, k], expected)


def test_pumer_does_not_weigh_by_size(reduce):
    method = default_registry().load("reducer", "pumer")(prune=0.1, merge=0.3, saliency="text")
    given, size = values(7), torch.randint(1, 9, (BATCH, LENGTH)).float()
    with_size, without = reduce(method, given, size=size)["image"], reduce(method, given)["image"]
    assert torch.equal(with_size.apply(given["x"]), without.apply(given["x"]))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("kind", ["class", "text", "key-norm", "random"])
def test_evit_weights(reduce, kind, prefix):
    method = default_registry().load("reducer", "evit")(keep=0.5, saliency=kind)
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
        assert reduction.source[b].tolist() == dropped
        if score is None:
            assert 0 < float(reduction.weight[b].sum()) < 1
            continue
        weight = score[b]
        order = sorted(range(prefix, LENGTH), key=lambda token: -float(weight[token]))
        assert kept[prefix:-1] == order[: len(kept) - 1 - prefix]
        if kind == "key-norm":
            weight = weight / weight[prefix:].sum()
        torch.testing.assert_close(got[b, -1], sum(weight[token] * given["x"][b, token] for token in dropped))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("use_real", [False, True])
def test_zero_keys_in_half_precision_give_no_nan(reduce, method, dtype, use_real):
    given = values(9, dtype=dtype)
    real = padding(9, 1, 0.3) if use_real else None
    if isinstance(method, torch.nn.Module):
        method.to(dtype)
    for keys in (torch.zeros_like(given["keys"]), given["keys"] * (torch.arange(LENGTH) % 3 == 0)[:, None]):
        reduction = reduce(method, {**given, "keys": keys}, prefix=1, real=real)["image"]
        got = reduction.apply(given["x"])
        assert got.dtype == dtype
        assert got.isfinite().all()


@pytest.mark.parametrize("kind", ["key-norm", "random"])
def test_evit_weights_of_many_tokens_in_half_precision(reduce, kind):
    method = default_registry().load("reducer", "evit")(keep=0.5, saliency=kind)
    given = values(10, batch=1, length=2000, dtype=torch.float16)
    given["keys"] = given["keys"] * 30  # lengths that add up to more than float16 holds
    reduction = reduce(method, given)["image"]
    assert reduction.weight.isfinite().all()
    assert 0.2 < float(reduction.weight.float().sum()) < 0.5


def test_a_method_never_changes_what_it_is_given(reduce, method):
    given = values(11)
    before = {name: value.clone() for name, value in given.items()}
    size, real = torch.ones(BATCH, LENGTH), padding(11, 1, 0.3)
    held = size.clone(), real.clone()
    reduce(method, given, size=size, real=real, prefix=1)
    assert all(torch.equal(given[name], before[name]) for name in given)
    assert torch.equal(size, held[0])
    assert torch.equal(real, held[1])


def test_gradients_reach_kept_and_merged_features(reduce, method):
    given = values(12)
    given["x"].requires_grad_()
    reduction = reduce(method, given, prefix=1)["image"]
    reduction.apply(given["x"]).sum().backward()
    gone = reduction.assignment() < 0
    assert given["x"].grad[~gone].ne(0).all()
    assert not given["x"].grad[gone].any()


def test_reductions_are_whole_and_distinct(reduce, method):
    for prefix in (0, 1, 2):
        reduction = reduce(method, values(13), prefix=prefix)["image"]
        assert isinstance(reduction, Reduction)
        for b in range(BATCH):
            kept = [token for token in reduction.keep[b].tolist() if token >= 0]
            folded = [] if reduction.source is None else reduction.source[b].tolist()
            assert len(set(kept + folded)) == len(kept) + len(folded)
            assert len(kept) == reduction.count - reduction.fresh


def test_each_sample_is_reduced_by_itself(reduce, method):
    if getattr(method, "saliency", None) == "random" or type(method).__name__ == "RandomDrop":
        return  # the draw goes by the sample's place in the batch
    given = values(14)
    whole = reduce(method, given, prefix=1)["image"].apply(given["x"])
    order = torch.tensor([2, 0, 1])
    turned = {name: value[order] for name, value in given.items()}
    assert torch.equal(reduce(method, turned, prefix=1)["image"].apply(turned["x"]), whole[order])
    for b in range(BATCH):
        single = {name: value[b : b + 1] for name, value in given.items()}
        torch.testing.assert_close(reduce(method, single, prefix=1)["image"].apply(single["x"])[0], whole[b])
