"""Attention as the engine runs it, against the plain formula: causal, grouped heads, cached keys, biases.

Axes: B batch, H heads, G heads of keys and values, M queries, N keys, d head width.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.backbones import Projected
from tokenreduce.engine.attention import dot_product_attention
from tokenreduce.ops import attention_rows

BATCH, WIDTH = 2, 4


def plain(query, key, value, bias, scale, causal):
    """(context, attention) written out, keys and values repeated for the heads that they serve."""
    heads = query.shape[1] // key.shape[1]
    key, value = (side.repeat_interleave(heads, dim=1) for side in (key, value))
    logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias
    if causal:
        rows, columns = logits.shape[-2:]
        place = torch.arange(columns - rows, columns)[:, None]
        logits = logits.masked_fill(torch.arange(columns)[None] > place, float("-inf"))
    attention = logits.softmax(dim=-1)
    return attention @ value, attention


@given(
    st.sampled_from([(4, 4), (4, 2), (4, 1), (6, 3)]),
    st.integers(1, 6),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0.3]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_it_is_the_plain_formula(heads, rows, cached, causal, biased, scale, fused, seed):
    generator = torch.Generator().manual_seed(seed)
    total = rows + cached
    query = torch.randn(BATCH, heads[0], rows, WIDTH, generator=generator).double()
    key, value = torch.randn(2, BATCH, heads[1], total, WIDTH, generator=generator).double()
    bias = None
    if biased:
        bias = torch.randn(BATCH, 1, 1, total, generator=generator).double()
        hidden = torch.rand(BATCH, 1, 1, total, generator=generator) < 0.3
        hidden[..., 0] = False  # every query sees at least one key
        bias = bias.masked_fill(hidden, float("-inf"))
    context, attention = plain(query, key, value, bias, scale, causal)
    got = dot_product_attention(Projected(query, key, value), bias, scale, causal, fused=fused)
    torch.testing.assert_close(got, context, rtol=1e-9, atol=1e-9)
    if not causal:
        rows_of = attention_rows(query, key, bias, scale)
        torch.testing.assert_close(rows_of, attention.mean(dim=1), rtol=1e-9, atol=1e-9)


def test_the_last_row_sees_all_so_it_needs_no_causal_mask():
    query = torch.randn(1, 4, 5, WIDTH).double()
    key, value = torch.randn(2, 1, 2, 5, WIDTH).double()
    _, attention = plain(query, key, value, None, None, causal=True)
    torch.testing.assert_close(attention_rows(query[:, :, -1:], key), attention[:, :, -1:].mean(dim=1))


@pytest.mark.parametrize("heads", [4, 2])
def test_gradients_reach_queries_keys_and_values(heads):
    query = torch.randn(1, 4, 3, WIDTH, requires_grad=True)
    key, value = (
        torch.randn(1, heads, 3, WIDTH, requires_grad=True),
        torch.randn(1, heads, 3, WIDTH, requires_grad=True),
    )
    dot_product_attention(Projected(query, key, value), None, None, causal=True).square().sum().backward()
    assert all(side.grad.abs().sum() > 0 for side in (query, key, value))
