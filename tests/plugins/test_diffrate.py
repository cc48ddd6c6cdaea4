"""DiffRate: what is pruned and what merges, by hand, and options. Axes: B batch, N tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import Streams
from tokenreduce_methods.diffrate.method import DiffRate, merge_last


def reduction_of(method, stream, site, x, score, *, prefix=1, real=None, keys=None):
    image = stream(x, prefix=prefix, real=real, class_attention=score, keys=x if keys is None else keys)
    return method.reduce_streams(Streams({"image": image}, main="image"), site())["image"]


def test_by_hand(stream, site):
    x = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.9], [0.9, 0.1], [-1.0, 0.0]]])
    score = torch.tensor([[0.0, 0.5, 0.4, 0.2, 0.3, 0.1]])
    reduction = reduction_of(DiffRate(prune=1, merge=2), stream, site, x, score)
    assert reduction.keep.tolist() == [[0, 1, 2]]  # the class token, and what it attends to most
    assert reduction.source.tolist() == [[4, 3]] and reduction.target.tolist() == [[1, 2]]
    torch.testing.assert_close(reduction.apply(x)[0, 1:], torch.tensor([[0.95, 0.05], [0.1, 0.95]]))
    assert reduction.assignment().tolist() == [[0, 1, 2, 2, 1, -1]]  # the last one is pruned


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 3), st.integers(0, 15), st.integers(0, 15), st.booleans(), st.integers(0, 99))
def test_importance_says_who_is_pruned_merged_and_kept(stream, site, free, prefix, prune, merge, padded, seed):
    generator = torch.Generator().manual_seed(seed)
    length = free + prefix
    x, score = torch.randn(2, length, 3, generator=generator), torch.rand(2, length, generator=generator)
    real = (torch.rand(2, length, generator=generator) > 0.4) | (torch.arange(length) <= prefix) if padded else None
    method = DiffRate(prune=prune, merge=merge)
    streams = Streams({"image": stream(x, prefix=prefix, real=real, class_attention=score)}, main="image")
    tokens = streams["image"].tokens
    pruned, merged = method.counts(site(), tokens)
    assert pruned == min(prune, free - 1) and merged == max(min(merge, free - 1, free - pruned - 1), 0)
    found = method.reduce_streams(streams, site())
    if not pruned + merged:
        assert not found
        return
    reduction = found["image"]
    assert reduction.count == length - pruned - merged > prefix
    for row in range(2):
        valued = score[row] if real is None else torch.where(real[row], score[row], -1.0)
        order = (valued[prefix:].argsort(descending=True, stable=True) + prefix).tolist()
        alive = [token for token in order if real is None or real[row, token]]
        left = free - pruned - merged
        assert reduction.keep[row, :prefix].tolist() == list(range(prefix))
        assert reduction.keep[row, prefix : prefix + min(left, len(alive))].tolist() == alive[:left]
        ends = reduction.assignment()[row]
        for token in alive[left : left + merged]:
            into = int(reduction.keep[row, ends[token]])
            best = max(alive[:left], key=lambda other: float(torch.cosine_similarity(x[row, token], x[row, other], 0)))
            assert into == best
        assert all(ends[token] < 0 for token in alive[left + merged :])


def test_padding_is_dropped_and_never_merged_into(stream, site):
    x = torch.randn(1, 8, 4)
    real = torch.tensor([[True, True, True, False, True, False, True, False]])
    reduction = reduction_of(DiffRate(prune=2, merge=3), stream, site, x, torch.rand(1, 8), real=real)
    ends = reduction.assignment()[0]
    assert (ends[~real[0]] == -1).all() and (ends[real[0]] >= 0).all()


def test_merged_tokens_go_by_features_or_by_keys(stream, site):
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 0.9]]])
    score = torch.tensor([[0.5, 0.4, 0.1]])
    for similarity, into in (("features", 0), ("keys", 1)):
        method = DiffRate(prune=0, merge=1, similarity=similarity)
        assert reduction_of(method, stream, site, x, score, prefix=0, keys=keys).target.tolist() == [[into]]


def test_merging_without_a_choice():
    reduction = merge_last(torch.zeros(1, 3, 2), 1, torch.ones(1, 3), prefix=1)
    assert reduction.keep.tolist() == [[0, 1]] and reduction.target.tolist() == [[1]]


@torch.no_grad()
def test_it_says_that_its_rates_are_not_learned(tiny_vit):
    with tokenreduce.attach(tiny_vit(), "diffrate") as handle:
        assert any("not learned here" in note for note in handle.notes)


@torch.no_grad()
def test_a_list_of_rates_is_scaled_as_a_whole(tiny_vit, images, flow):
    model, x = tiny_vit(), images()
    with tokenreduce.attach(model, "diffrate", prune=[0, 2, 4], merge=[2, 2]) as handle:
        model(x)
        assert flow(handle) == [17, 15, 11, 7, 7]
        handle.scale(0.5)
        model(x)
        assert flow(handle) == [17, 16, 14, 12, 12]


def test_without_a_class_token_it_names_other_measures(tiny_vit):
    model = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(UnfitReducerError, match=r"DiffRate with saliency='class' needs class_attention.*'key-norm'"):
        tokenreduce.attach(model, "diffrate")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"prune": -1}, "remove"),
        ({"merge": 1.5}, "remove"),
        ({"saliency": "norm"}, "saliency must be one of"),
        ({"similarity": "queries"}, "similarity must be one of 'features', 'keys'"),
        ({"proportional_attention": 0}, "proportional_attention must be True or False"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_options_out_of_range(options, word):
    with pytest.raises(OptionError, match=word):
        DiffRate(**options)
