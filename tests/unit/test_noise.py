"""Noise without a generator."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.ops import hash_noise


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def finalise(value):
    """MurmurHash3's 32-bit finaliser on Python's integers, which never overflow."""
    value &= 0xFFFFFFFF
    value = ((value ^ value >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    value = ((value ^ value >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return value ^ value >> 16


@given(st.integers(1, 5), st.integers(1, 9), st.integers(-(2**40), 2**40), st.integers(0, 100))
def test_shape_range_and_repeatability(rows, columns, seed, layer):
    noise = hash_noise(rows, columns, seed=seed, layer=layer)
    assert noise.shape == (rows, columns)
    assert noise.dtype == torch.float32
    assert float(noise.min()) >= 0
    assert float(noise.max()) < 1
    assert torch.equal(noise, hash_noise(rows, columns, seed=seed, layer=layer))


@given(st.integers(0, 2**32), st.integers(0, 64))
def test_values_are_the_hash_of_the_cell(seed, layer):
    key = (seed * 0x9E3779B1 + layer * 0x85EBCA77 + 0x165667B1) & 0xFFFFFFFF
    expected = [[(finalise(finalise(row + key) + column) >> 8) / 2**24 for column in range(6)] for row in range(3)]
    assert hash_noise(3, 6, seed=seed, layer=layer).tolist() == expected


def test_no_generator_is_read_or_moved():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = hash_noise(4, 4, seed=0, layer=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(hash_noise(4, 4, seed=0, layer=0), first)


def test_a_cell_does_not_depend_on_how_many_there_are():
    assert torch.equal(hash_noise(2, 5, seed=3, layer=1), hash_noise(6, 40, seed=3, layer=1)[:2, :5])


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_uniform(seed):
    noise = hash_noise(100, 200, seed=seed, layer=3)
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.var()) == pytest.approx(1 / 12, abs=0.003)
    counts = torch.histc(noise, bins=20, min=0, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 45  # chi-squared, 19 degrees of freedom: 1 in 1000
    for axis in (0, 1):
        assert float((noise.mean(dim=axis) - 0.5).abs().max()) < 0.13
        shifted = noise.roll(1, dims=axis)
        assert abs(correlation(noise, shifted)) < 0.03


def test_seeds_layers_and_rows_differ():
    base = hash_noise(50, 100, seed=0, layer=0)
    for other in (
        hash_noise(50, 100, seed=1, layer=0),
        hash_noise(50, 100, seed=0, layer=1),
        hash_noise(50, 100, seed=1, layer=1),
        hash_noise(50, 100, seed=-1, layer=0),
    ):
        assert abs(correlation(base, other)) < 0.05
    assert len({tuple(row) for row in base.tolist()}) == 50
