"""Attention rows beside the fused kernel. Axes: B batch, H heads, R rows, N keys, d head width."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tokenreduce.ops import attention_rows


def plain(query, key, bias, scale):
    """softmax, entry by entry, averaged over heads."""
    batch, heads, rows, _ = query.shape
    out = torch.zeros(batch, rows, key.shape[2], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for r in range(rows):
                logits = [float((query[b, h, r].double() * k.double()).sum()) * scale for k in key[b, h]]
                if bias is not None:
                    added = bias.expand(batch, heads, rows, -1)[b, h, r].tolist()
                    logits = [a + c for a, c in zip(logits, added, strict=True)]
                weights = [math.exp(v - max(logits)) for v in logits]
                out[b, r] += torch.tensor(weights, dtype=torch.float64) / sum(weights) / heads
    return out


@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from([None, 1.0, 0.2]),
    st.sampled_from(["none", "column", "full"]),
    st.integers(0, 2**20),
)
def test_rows_are_plain_softmax_rows(batch, heads, rows, keys, scale, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    query = 2 * torch.randn(batch, heads, rows, 5, generator=generator)
    key = torch.randn(batch, heads, keys, 5, generator=generator)
    shapes = {"none": None, "column": (batch, 1, 1, keys), "full": (batch, heads, rows, keys)}
    bias = None if shapes[kind] is None else torch.randn(shapes[kind], generator=generator)
    got = attention_rows(query, key, bias, scale)
    assert got.dtype == torch.float32
    expected = plain(query, key, bias, 5**-0.5 if scale is None else scale)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.sum(dim=-1), torch.ones(batch, rows))


def test_rows_agree_with_the_fused_kernel():
    query, key = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    matrix = F.scaled_dot_product_attention(query, key, torch.eye(7).expand(2, 3, 7, 7))
    torch.testing.assert_close(attention_rows(query[:, :, 2:5], key), matrix.mean(dim=1)[:, 2:5])


def test_masked_keys_get_nothing():
    bias = torch.tensor([0.0, float("-inf"), 0.0])[None, None, None]
    got = attention_rows(torch.randn(1, 2, 1, 4), torch.randn(1, 2, 3, 4), bias)
    assert got[0, 0, 1] == 0
    assert got.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "out"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_rows_are_float32_at_least(dtype, out):
    query, key = torch.randn(1, 2, 3, 8).to(dtype), torch.randn(1, 2, 200, 8).to(dtype)
    got = attention_rows(query, key)
    assert got.dtype == out
    torch.testing.assert_close(got.double(), plain(query, key, None, 8**-0.5), rtol=3e-2, atol=1e-4)


def test_zero_queries_attend_evenly():
    got = attention_rows(torch.zeros(1, 2, 1, 4).half(), torch.zeros(1, 2, 5, 4).half())
    torch.testing.assert_close(got, torch.full((1, 1, 5), 0.2))
