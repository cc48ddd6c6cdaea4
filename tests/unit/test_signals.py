"""The signals that one self-attention gives. Axes: B batch, H heads, N tokens of the sequence, d head width."""

import pytest
import torch

from tokenreduce.backbones import Layout
from tokenreduce.core.seen_attention import SeenAttention
from tokenreduce.errors import UnsupportedCallError
from tokenreduce.methods import SIGNALS, Signals, Stream, Streams, Tokens

BATCH, HEADS, LENGTH, WIDTH, TEXT = 2, 3, 9, 4, 4
COLUMNS = slice(TEXT, LENGTH)


@pytest.fixture
def attention():
    """Queries, keys, an additive bias that masks the last token, and the plain attention matrix, head mean."""
    query, key = 2 * torch.randn(2, BATCH, HEADS, LENGTH, WIDTH)
    bias = torch.zeros(BATCH, 1, 1, LENGTH)
    bias[..., -1] = float("-inf")
    return query, key, bias, (query @ key.transpose(-1, -2) / WIDTH**0.5 + bias).softmax(dim=-1).mean(dim=1)


def made(attention, text_rows=TEXT, weight=None, readout=0, scale=None, columns=COLUMNS, own=True):
    query, key, bias, _ = attention
    text = (slice(0, text_rows), weight) if text_rows else None
    seen = SeenAttention(query, key, bias, scale, readout, own, text)
    return Signals(seen.sources(columns), frozenset(SIGNALS))


def test_keys_are_averaged_over_heads(attention):
    torch.testing.assert_close(made(attention).keys, attention[1].mean(dim=1)[:, COLUMNS])


@pytest.mark.parametrize("readout", [0, 2])
def test_readout_attention_is_the_row_of_the_token_that_the_head_reads(attention, readout):
    signals = made(attention, readout=readout)
    got = signals.readout_attention
    torch.testing.assert_close(got, attention[3][:, readout, COLUMNS])
    assert torch.equal(signals.class_attention, got)
    assert (got[:, -1] == 0).all()


def test_text_attention_is_the_mean_over_text_rows(attention):
    torch.testing.assert_close(made(attention).text_attention, attention[3][:, :TEXT, COLUMNS].mean(dim=1))


def test_only_real_text_votes(attention):
    weight = torch.tensor([[True, True, False, True], [True, False, False, False]])
    got = made(attention, weight=weight).text_attention
    rows = attention[3][:, :TEXT, COLUMNS]
    torch.testing.assert_close(got[0], rows[0, [0, 1, 3]].mean(dim=0))
    torch.testing.assert_close(got[1], rows[1, 0])


def test_text_of_padding_alone_gives_no_nan(attention):
    got = made(attention, weight=torch.zeros(BATCH, TEXT, dtype=torch.bool)).text_attention
    assert torch.equal(got, torch.zeros_like(got))


def test_the_scale_of_the_block_is_used(attention):
    query, key, bias, _ = attention
    expected = (query @ key.transpose(-1, -2) * 0.1 + bias).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(made(attention, scale=0.1).class_attention, expected[:, 0, COLUMNS])
    torch.testing.assert_close(made(attention, scale=0.1).text_attention, expected[:, :TEXT, COLUMNS].mean(dim=1))


def test_missing_signals_are_named(attention):
    with pytest.raises(UnsupportedCallError, match="no text_attention; it has keys, readout_attention"):
        _ = made(attention, text_rows=0).text_attention
    with pytest.raises(UnsupportedCallError, match="no class_attention"):
        _ = made(attention, readout=None).class_attention
    with pytest.raises(UnsupportedCallError, match="no class_attention; it has keys, readout_attention, text"):
        _ = made(attention, own=False).class_attention  # the token that the head reads is no class token


def test_streams_are_a_mapping(attention):
    parts = {
        name: Stream(Tokens(torch.randn(1, 2, 3)), Signals({}, frozenset()), training=False)
        for name in ("text", "image")
    }
    whole = Stream(Tokens(torch.randn(1, 4, 3)), Signals({}, frozenset()), training=False)
    layout = Layout.of({"text": 2, "image": 2}, {})
    streams = Streams(parts, whole=lambda: whole, layout=layout)
    assert list(streams) == ["text", "image"]
    assert len(streams) == 2
    assert streams["image"] is parts["image"]
    assert streams.whole() is whole
    assert (streams.sequence, streams.length) == ("text+image", 4)
    assert "audio" not in streams
