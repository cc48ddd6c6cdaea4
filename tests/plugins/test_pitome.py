"""PiToMe's energy, pairs and options by hand. Axes: B batch, n tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.methods import Streams
from tokenreduce_methods.pitome.energy import cosines, energy, match_by_energy
from tokenreduce_methods.pitome.method import PiToMe

CLUSTER = [[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [1.0, 0.05]]  # four of a kind
ALONE = [[0.0, 1.0], [-1.0, 0.0]]


def keys(*rows):
    return torch.tensor([list(rows)], dtype=torch.float64)


def test_energy_by_hand():
    cosine = cosines(keys([2.0, 0.0], [0.0, 3.0], [1.0, 1.0]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(cosine[0, 0], torch.tensor([1.0, 0.0, half], dtype=torch.float64))
    below = 2.0 * (math.exp(-0.5) - 1)
    wanted = [(1 + below + half) / 3, (1 + below + half) / 3, (1 + 2 * half) / 3]
    torch.testing.assert_close(energy(cosine, 0.5, 2.0), torch.tensor([wanted], dtype=torch.float64))


def test_a_cluster_has_more_energy_than_what_stands_alone():
    ranked = energy(cosines(keys(*ALONE, *CLUSTER)), 0.9, 1.0)[0]
    assert ranked[2:].min() > ranked[:2].max()


def test_the_cluster_merges_and_what_stands_alone_stays():
    cosine = cosines(keys(*ALONE, *CLUSTER))
    keep, source, target = match_by_energy(energy(cosine, 0.9, 1.0), cosine, 2)
    assert keep[0, :2].tolist() == [0, 1]
    assert set(source[0].tolist()) < {2, 3, 4, 5} and set(target[0].tolist()) <= {2, 3}


def test_pairs_by_hand():
    cosine = cosines(keys([1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 1.0]))
    given_energy = torch.tensor([[5.0, 2.0, 4.0, 3.0, 1.0]])  # in falling order 0, 2, 3, 1 and the protected 4
    keep, source, target = match_by_energy(given_energy, cosine, 2)
    assert source.tolist() == [[0, 3]]  # the first and the third of them
    assert keep.tolist() == [[1, 2, 4]] and target.tolist() == [[0, 1]]  # 0 into 1, 3 into 2


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 17), st.integers(0, 8), st.sampled_from([0.0, 0.4, 0.9]), st.integers(0, 99))
def test_pairs_are_of_the_highest_energy(length, remove, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    remove = min(remove, length // 2)
    cosine = cosines(torch.randn(2, length, 3, generator=generator))
    ranked = torch.randn(2, length, generator=generator)
    real = torch.rand(2, length, generator=generator) >= padding
    keep, source, target = match_by_energy(ranked, cosine, remove, real if padding else None)
    real = real if padding else torch.ones_like(real)
    assert keep.shape == (2, length - remove) and source.shape == target.shape == (2, remove)
    for row in range(2):
        folds = dict(zip(source[row].tolist(), target[row].tolist(), strict=True))
        assert sorted([*keep[row].tolist(), *folds]) == list(range(length))
        padded = int((~real[row]).sum())
        merges = max(remove - padded, 0)
        order = [token for token in ranked[row].argsort(descending=True).tolist() if real[row, token]]
        even, odd = order[: 2 * merges : 2], order[1 : 2 * merges : 2]
        assert {token for token in folds if real[row, token]} == set(even)
        assert sum(end < 0 for end in folds.values()) == remove - merges  # padding, into nothing
        for token in even:
            into = int(keep[row, folds[token]])
            assert cosine[row, token, into] == max(cosine[row, token, other] for other in odd) and into in odd


def test_the_margin_falls_with_depth(site):
    assert [PiToMe().margin_at(site(layer, depth=12)) for layer in (0, 6)] == [0.9, 0.45]
    assert PiToMe().margin_at(site(11, depth=12)) == pytest.approx(0.075)
    assert PiToMe(margin=0.3).margin_at(site(11, depth=12)) == 0.3


def test_a_higher_margin_protects_what_was_merged_before(stream, site):
    """Two clusters: a loose one of many and a tight one of few; which of them merges depends on the margin."""
    angles = torch.tensor([0.0, 0.5, 1.0, 1.5, 3.0, 3.05, 3.1])
    x = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]

    def merged(margin):
        found = PiToMe(keep=6, margin=margin).reduce_streams(
            Streams({"image": stream(x, keys=x)}, main="image"), site()
        )
        return found["image"].source.tolist()[0][0]

    assert merged(0.99) in (4, 5, 6) and merged(-0.2) in (0, 1, 2, 3)


def test_protected_tokens_have_no_part_in_it(stream, site):
    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1))
    other = torch.cat([50 * x[:, :2].flip(1), x[:, 2:]], dim=1)
    method = PiToMe(keep=0.6)
    one, two = (
        method.reduce_streams(Streams({"image": stream(y, keys=y, prefix=2)}, main="image"), site())["image"]
        for y in (x, other)
    )
    assert torch.equal(one.keep, two.keep) and torch.equal(one.source, two.source)
    assert one.keep[:, :2].tolist() == [[0, 1], [0, 1]] and (one.target >= 2).all()


@torch.no_grad()
def test_half_of_the_tokens_go_at_most(tiny_vit, flow):
    model = tiny_vit(img_size=112)
    with tokenreduce.attach(model, "pitome", keep=0.1, layers=[0]) as handle:
        model(torch.randn(1, 3, 112, 112))
        assert flow(handle) == [197, 99]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"keep": 0.0}, "keep"),
        ({"margin": 1.5}, "margin must be a number in"),
        ({"margin": "0.9"}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"alpha": -1}, "alpha must be a non-negative number"),
        ({"alpha": True}, "alpha"),
        ({"proportional_attention": 1}, "proportional_attention must be True or False"),
    ],
)
def test_options_out_of_range(options, word):
    with pytest.raises(OptionError, match=word):
        PiToMe(**options)
