"""Where each input token went. Axes: B batch, N0 tokens at the start, N at the end."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.core.trace import Trace
from tokenreduce.errors import TokenReduceError

SOURCE = torch.tensor([[0, 1, 1, -1, 2], [0, 0, 1, 2, 2]])


def made(size=None):
    return Trace(SOURCE, size, {"text": 2, "image": 3}, {"text": 1, "image": 2})


def test_members_of_each_final_token():
    trace = made()
    assert len(trace) == 2
    assert trace.tokens == 3
    assert trace.count([[0], [1, 2], [4]]) == 1  # a sequence like any other
    assert trace[0] == [[0], [1, 2], [4]]
    assert trace[1] == [[0, 1], [2], [3, 4]]
    assert trace[-1] == trace[1]
    assert list(trace) == [trace[0], trace[1]]
    assert trace[:] == [trace[0], trace[1]]
    assert trace[1:] == [trace[1]]
    with pytest.raises(IndexError):
        trace[2]


def test_sizes_are_counted_where_none_were_tracked():
    assert made().size.tolist() == [[1.0, 2.0, 1.0], [2.0, 1.0, 2.0]]
    size = torch.rand(2, 3)
    assert made(size).size is size


def test_streams():
    trace = made()
    assert trace.stream("text").tolist() == [[0, 1], [0, 0]]
    assert trace.stream("image").tolist() == [[1, -1, 2], [1, 2, 2]]
    with pytest.raises(KeyError, match="no stream 'audio'; there is text, image"):
        trace.stream("audio")


def test_an_unknown_stream_is_an_error_of_this_package():
    with pytest.raises(TokenReduceError) as caught:
        made().stream("audio")
    assert str(caught.value) == "no stream 'audio'; there is text, image"  # KeyError alone would print its repr


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**20))
def test_trace_partitions_the_tokens_that_were_not_dropped(batch, before, after, seed):
    source = torch.randint(-1, after, (batch, before), generator=torch.Generator().manual_seed(seed))
    trace = Trace(source, None, {"image": before}, {"image": after})
    for b in range(batch):
        groups = trace[b]
        assert len(groups) == after
        assert all(group == sorted(group) for group in groups)
        alive = [token for token, end in enumerate(source[b].tolist()) if end >= 0]
        assert sorted(token for group in groups for token in group) == alive
        assert [len(group) for group in groups] == trace.size[b].tolist()
