"""Reducers in a chain: the same as one after the other, wherever that can be said."""

import copy
import json
import pickle
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce import Reducer, chain
from tokenreduce.errors import LayerError, OptionError, UnfitReducerError, UnsupportedCallError
from tokenreduce.methods import BoundWrapper, WrapperReducer

from ..helpers import KeyNorm

CHAINS = [
    ("evit", "tome"),
    ("tome", "evit"),
    ("random", {"reducer": "tome", "r": 2}),
    (
        {"reducer": "evit", "fuse": False, "saliency": "readout", "layers": [0, 2]},
        {"reducer": "pumer", "layers": [2, 3]},
    ),
    ({"reducer": "pumer", "layers": [1]}, {"reducer": "pumer", "layers": [1, 2]}, {"reducer": "tome", "r": 1}),
]


class Either(Reducer):
    """What a chain of parts in different layers does, written out."""

    needs = {"keys", "class_attention"}
    proportional_attention = True

    first: Any = None
    later: Any = None

    def reduce_streams(self, streams, site):
        own = tokenreduce.methods.Site(site.stack, site.layer, 0, 1, site.depth)
        return (self.first if site.index == 0 else self.later).reduce_streams(streams, own)


def outcome(model, run, reducer, **options):
    with torch.no_grad(), tokenreduce.attach(model, reducer, trace=True, **options) as handle:
        output = run(model)
        return (
            output,
            handle.last.trace.source,
            [(r.layer, r.stream, r.tokens_in, r.tokens_out) for r in handle.last.sites],
        )


def same(one, two):
    assert one[2] == two[2]
    assert torch.equal(one[1], two[1])
    assert torch.equal(one[0], two[0])


@pytest.fixture(params=["vit", "vilt", "meter"])
def example(request, tiny_vit, images, tiny_vilt, vilt_inputs, tiny_meter):
    """(model, what runs it) of the three shapes: image alone, text and image in one sequence and in two."""
    if request.param == "vit":
        x = images(2, 48, 48)
        return tiny_vit(img_size=48), lambda model: model(x)
    if request.param == "vilt":
        inputs = vilt_inputs(3, 7, lengths=[7, 4, 2], sizes=[(32, 32), (32, 16), (24, 24)])
        return tiny_vilt(), lambda model: model(**inputs).logits
    model, inputs = tiny_meter()
    return model, lambda model: model(**inputs).logits


@pytest.mark.parametrize("name", ["evit", "tome", "pumer", "random"])
def test_a_part_beside_one_that_changes_nothing_acts_as_if_alone(example, name):
    model, run = example
    alone = outcome(model, run, name)
    layers = sorted({layer for layer, *_ in alone[2]})
    none = {"reducer": "none", "layers": layers}
    for parts in ((name,), (name, none), (none, name)):
        same(outcome(model, run, chain(*parts)), alone)


@pytest.mark.parametrize("parts", CHAINS, ids=str)
def test_trace_and_report_are_those_of_one_reducer(example, parts):
    model, run = example
    with torch.no_grad(), tokenreduce.attach(model, chain(*parts), trace=True) as handle:
        assert run(model).isfinite().all()
        rows, source, left = handle.last.sites, handle.last.trace.source, handle.last.tokens
        assert len({(row.layer, row.stream) for row in rows}) == len(rows)
        assert rows[-1].tokens_out < rows[0].tokens_in
        total = sum(left.values())
        for row in source:  # every input token ends in one place or is dropped; no place is beyond the last
            ends = row[row >= 0]
            assert int(ends.max()) < total
        for sample in range(len(source)):
            members = [token for place in handle.last.trace[sample] for token in place]
            assert len(members) == len(set(members))  # a partition of what was not dropped
            assert set(members) == {token for token, end in enumerate(source[sample].tolist()) if end >= 0}
        first, place, token = handle.last.trace.first, 0, 0
        (stack,) = handle.stacks.values()
        for name, count in left.items():  # protected tokens stay in front, each on its own
            for number in range(stack.stack.prefix[name]):
                assert handle.last.trace[0][place + number] == [token + number]
            place, token = place + count, token + first[name]


@pytest.mark.parametrize("parts", CHAINS, ids=str)
def test_a_config_brings_the_same_chain_back(example, parts, tmp_path):
    model, run = example
    with torch.no_grad(), tokenreduce.attach(model, chain(*parts)) as handle:
        wanted, config = run(model), handle.config
        handle.save(tmp_path)
        assert "chain(" in str(handle) and "in layers" in str(handle)
    again = json.loads(json.dumps(config))
    with torch.no_grad(), tokenreduce.attach(model, **again) as handle:
        assert torch.equal(run(model), wanted)
        assert handle.config == config
    with torch.no_grad(), tokenreduce.load(model, tmp_path) as handle:
        assert torch.equal(run(model), wanted)
    versions = json.loads((tmp_path / "tokenreduce.json").read_text())["versions"]
    assert set(versions) == {"tokenreduce", "torch"}


def test_scale_of_zero_changes_nothing(example):
    model, run = example
    plain = outcome(model, run, "none")[0]
    whole = chain({"reducer": "evit", "saliency": "readout"}, {"reducer": "tome", "r": 2}, "pumer")
    with torch.no_grad(), tokenreduce.attach(model, whole) as handle:
        configured = run(model)
        handle.scale(0)
        torch.testing.assert_close(run(model), plain, rtol=1e-5, atol=1e-5)
        assert all(row.tokens_in == row.tokens_out for row in handle.last.sites)
        handle.scale(1)
        assert torch.equal(run(model), configured)


def test_parts_in_different_layers_are_the_two_reductions(tiny_vit, images, flow):
    model, x = tiny_vit(img_size=48), images(2, 48, 48)
    parts = {"reducer": "evit", "keep": 0.5, "layers": [1]}, {"reducer": "tome", "r": 4, "layers": [2]}
    got = outcome(model, lambda m: m(x), chain(*parts))
    assert got[2] == [(1, "image", 37, 20), (2, "image", 20, 16)]  # 18 of 36 stay, one is fused; four merge
    written = Either(
        first=tokenreduce.methods.make({"reducer": "evit", "keep": 0.5}),
        later=tokenreduce.methods.make({"reducer": "tome", "r": 4}),
    )
    same(got, outcome(model, lambda m: m(x), written, layers=[1, 2]))


@torch.no_grad()
def test_in_one_layer_the_next_part_sees_what_is_left(tiny_vit, images):
    model, x = tiny_vit(img_size=48).double(), images(2, 48, 48).double()

    def run(model):
        return model(x)

    twice = outcome(model, run, chain(KeyNorm(remove=10), KeyNorm(remove=8)), layers=[1])
    once = outcome(model, run, KeyNorm(remove=18), layers=[1])
    same(twice, once)
    seen = []

    class Watch(Reducer):
        needs = {"keys", "class_attention"}

        def reduce_streams(self, streams, site):
            seen.append((site, streams["image"]))
            return {}

    merge = tokenreduce.methods.make({"reducer": "tome", "r": 6})
    with tokenreduce.attach(model, chain(Watch(), merge, Watch()), layers=[0]):
        model(x)
    (_, before), (site, after) = seen
    assert (site.layer, site.index, site.total) == (0, 0, 1)
    assert (before.tokens.count, after.tokens.count) == (37, 31)
    assert after.tokens.size.sum(dim=1).tolist() == [37, 37]
    reduction = merge.reduce(before.tokens, before.signals, 6)
    for sample in range(2):
        ends = reduction.assignment()[sample]
        for place in range(31):
            members = [token for token in range(37) if int(ends[token]) == place]
            for got, given in (
                (after.tokens.x, before.tokens.x),
                (after.signals.keys, before.signals.keys),
                (after.signals.class_attention, before.signals.class_attention),
            ):
                torch.testing.assert_close(got[sample, place], given[sample, members].mean(dim=0))


@torch.no_grad()
def test_two_reductions_of_one_layer_apply_one_after_the_other(tiny_vit, images):
    model, x = tiny_vit(img_size=48).double(), images(2, 48, 48).double()
    tokens = {}

    class Apply(WrapperReducer):
        """Two merges, applied apart; what they give is compared with what the chain's one gives."""

        parts: Any = ()

        @property
        def inside(self):
            return (chain(*self.parts).within([1]),)

        def bind(self, backbone):
            return BoundApply(self, [self.inside[0].bind(backbone)])

    class BoundApply(BoundWrapper):
        def reduce_streams(self, streams, site):
            (inner,) = self.inside
            whole = inner.reduce_streams(streams, site)
            now = streams
            for part in inner.inside:
                now = now.after(part.reduce_streams(now, site))
            tokens["apart"], tokens["whole"] = now["image"].tokens, streams["image"].tokens.after(whole["image"])
            return whole

    for parts in (("tome", "tome"), ("evit", "tome"), ("tome", "evit"), ("tome", "pumer", "evit")):
        own = [{"reducer": name, **({"r": 5} if name == "tome" else {})} for name in parts]
        with tokenreduce.attach(model, Apply(parts=own), layers=[1]):
            model(x)
        torch.testing.assert_close(tokens["whole"].x, tokens["apart"].x)
        torch.testing.assert_close(tokens["whole"].size, tokens["apart"].size)


def test_layers_of_parts(tiny_vit, images):
    model, x = tiny_vit(), images()
    own = chain({"reducer": "random", "layers": [3, 1]}, "random")
    assert own.parts[0].layers == (1, 3)
    with tokenreduce.attach(model, own, layers=[1, 2, 3]) as handle:
        assert [part["layers"] for part in handle.config["parts"]] == [[1, 3], [1, 2, 3]]
    with pytest.raises(OptionError, match=r"random acts in layers \[1, 3\], of which \[1\] are not among"):
        tokenreduce.attach(model, own, layers=[2, 3])
    with pytest.raises(OptionError, match=r"no part of .* acts in layers \[0, 2\]"):
        tokenreduce.attach(model, chain({"reducer": "random", "layers": [1]}), layers=[0, 1, 2])
    with pytest.raises(LayerError, match="layer 9 is outside"):
        tokenreduce.attach(model, chain({"reducer": "random", "layers": [9]}))
    for wrong in ([], "12", [True], [-1], 3):
        with pytest.raises(OptionError, match="layers of a part"):
            chain({"reducer": "random", "layers": wrong})
    inner = chain("random", {"reducer": "tome", "r": 1})
    with tokenreduce.attach(model, chain({"reducer": inner, "layers": [2]}, {"reducer": "tome", "r": 1})) as handle:
        model(x)
        assert [row.tokens_in - row.tokens_out for row in handle.last.sites] == [1, 1, 6, 1]
        config = json.loads(json.dumps(handle.config))
    with tokenreduce.attach(model, **config) as handle:
        assert handle.config == config


def test_what_cannot_be_chained_is_refused(tiny_vit, images):
    with pytest.raises(UnfitReducerError, match="DynamicViT has weights to learn and cannot act inside Chain"):
        tokenreduce.attach(tiny_vit(), chain("tome", "dynamicvit"))
    with pytest.raises(OptionError, match="a chain needs parts"):
        chain()
    with pytest.raises(OptionError, match="reducer is a name, a Reducer"):
        chain(3)
    with pytest.raises(OptionError, match="a part is a name"):
        chain({"keep": 0.5})

    class Early(KeyNorm):
        position, needs = "before_block", ()

    with pytest.raises(UnfitReducerError, match="KeyNorm after_attention, Early before_block"):
        tokenreduce.attach(tiny_vit(), chain(KeyNorm(), Early()), layers=[1])
    headless = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(UnfitReducerError, match="part 2 of the chain, evit: EViT with saliency='class' needs"):
        tokenreduce.attach(headless, chain("tome", "evit"))

    class Gated(Reducer):
        def reduce_streams(self, streams, site):
            return {"image": tokenreduce.methods.Gate(torch.ones(streams["image"].tokens.x.shape[:2]))}

    model = tiny_vit()
    with tokenreduce.attach(model, chain(Gated()), layers=[1]):
        model(images())
    for parts in ((Gated(), KeyNorm()), (KeyNorm(), Gated()), (Gated(), Gated())):
        says = "gates do not compose; let the parts"
        with tokenreduce.attach(model, chain(*parts), layers=[1]), pytest.raises(UnsupportedCallError, match=says):
            model(images())


def test_class_attention_of_the_image_and_text_attention_are_in_different_blocks(tiny_meter):
    model, _ = tiny_meter()
    says = "a block of layer 0 of stack 'cross' gives keys, .* or .*let the parts of a chain act in different layers"
    with pytest.raises(UnfitReducerError, match=says):
        tokenreduce.attach(model, chain("evit", "pumer"), layers=[0])


def test_text_and_image_as_one_sequence(tiny_vilt, vilt_inputs):
    model, inputs = tiny_vilt(), vilt_inputs()
    both, text = {"reducer": "pumer", "modality_aware": False}, {"reducer": "pumer"}

    class Gated(Reducer):
        def reduce_streams(self, streams, site):
            return {"image": tokenreduce.methods.Gate(torch.ones(streams["image"].tokens.x.shape[:2]))}

    with (
        torch.no_grad(),
        tokenreduce.attach(
            model, chain({"reducer": "random", "layers": [1]}, both), layers=[1, 2], trace=True
        ) as handle,
    ):
        assert model(**inputs).logits.isfinite().all()
        assert handle.last.trace[0][0] == [0]
    for parts, says in (
        ((both, "random"), "were merged together"),
        ((text, both), "after parts of it were"),
        ((Gated(), both), "gates do not compose"),
    ):
        with tokenreduce.attach(model, chain(*parts), layers=[1]), pytest.raises(UnsupportedCallError, match=says):
            model(**inputs)


def test_copies_and_stacks(tiny_vit, images, tiny_meter):
    model, x = tiny_vit(), images()
    with torch.no_grad(), tokenreduce.attach(model, chain("evit", "tome")):
        wanted = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), wanted)
    meter, inputs = tiny_meter()
    with torch.no_grad(), tokenreduce.attach(meter, {"vision": chain("tome", "random"), "cross": "pumer"}) as handle:
        wanted, config = meter(**inputs).logits, json.loads(json.dumps(handle.config))
    with torch.no_grad(), tokenreduce.attach(meter, **config):
        assert torch.equal(meter(**inputs).logits, wanted)


def test_classes_without_a_name_of_their_own_are_scaled_too(tiny_vit, images):
    class Local(KeyNorm):
        pass

    model, x = tiny_vit(), images()
    with tokenreduce.attach(model, chain(Local(keep=0.5), "tome"), layers=[1]) as handle:
        handle.scale(0.5)
        model(x)
        assert [(row.tokens_in, row.tokens_out) for row in handle.last.sites] == [(17, 7)]
        with pytest.raises(OptionError, match="cannot be saved"):
            handle.save("unused")


def test_gradients_reach_every_weight(tiny_vit, images):
    model, x = tiny_vit(img_size=48).train(), images(2, 48, 48).requires_grad_()
    with tokenreduce.attach(model, chain("evit", {"reducer": "tome", "r": 3})):
        model(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_compiles_without_a_break(tiny_vit, images):
    model, x = tiny_vit(), images()
    with torch.no_grad(), tokenreduce.attach(model, chain("evit", {"reducer": "tome", "r": 2})):
        wanted = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), wanted)
