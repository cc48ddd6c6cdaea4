"""The handle: its life, what it tells, and its config."""

from __future__ import annotations

import json
import threading

import pytest
import torch

import tokenreduce
from tokenreduce.errors import AlreadyAttachedError, UnsupportedCallError

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(params=["vit", "vilt"])
def setting(request, tiny_vit, tiny_vilt, images, vilt_inputs):
    """A model and a function that runs it."""
    if request.param == "vit":
        x = images()
        return tiny_vit(), lambda model: model(x)
    inputs = vilt_inputs(lengths=[7, 4, 2])
    return tiny_vilt(), lambda model: model(**inputs).logits


def test_context_manager(setting, forwards):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=2) as handle:
        assert isinstance(handle, tokenreduce.Attachment)
        assert handle.model is model
        assert handle.attached
        assert tokenreduce.attachment(model) is handle
        run(model)
    assert not handle.attached
    assert tokenreduce.attachment(model) is None
    assert forwards(model) == []
    handle.detach()  # again does nothing
    assert handle.last.sites  # what was seen stays known


def test_detached_inside_the_context(setting, forwards):
    model, _ = setting
    with tokenreduce.attach(model, "tome", r=2) as handle:
        handle.detach()
        assert forwards(model) == []
    assert forwards(model) == []


def test_sites(setting):
    model, run = setting
    stack = "vision" if hasattr(model, "blocks") else "encoder"
    with tokenreduce.attach(model, "tome", r=2) as handle:
        assert [(s.stack, s.layer, s.index, s.total, s.depth) for s in handle.sites] == [
            (stack, layer, layer, 4, 4) for layer in range(4)
        ]
    with tokenreduce.attach(model, "evit", layers=[3, 1, 1]) as handle:
        assert [(s.layer, s.index, s.total) for s in handle.sites] == [(1, 0, 2), (3, 1, 2)]
        run(model)
        assert [row.layer for row in handle.last.sites] == [1, 3] if stack == "vision" else [1, 1, 3, 3]


def test_tuple_and_range_as_layers(setting):
    model, _ = setting
    for layers in ((0, 2), range(0, 4, 2)):
        with tokenreduce.attach(model, "tome", r=2, layers=layers) as handle:
            assert [site.layer for site in handle.sites] == [0, 2]
            json.dumps(handle.config)


def test_report(setting):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=2) as handle:
        assert handle.last is None
        assert "after the first forward" in str(handle)
        run(model)
        image = [(row.layer, row.tokens_in, row.tokens_out) for row in handle.last.sites if row.stream == "image"]
        assert image == [(layer, 17 - 2 * layer, 15 - 2 * layer) for layer in range(4)]
        text = [(row.tokens_in, row.tokens_out) for row in handle.last.sites if row.stream == "text"]
        assert text == ([] if hasattr(model, "blocks") else [(7, 7)] * 4)
        before, after = handle.last.macs
        assert 0 < after < before
        for n in (17, 15, 13, 11, 9):
            assert str(n) in str(handle)


def test_report_of_a_run_that_failed_is_none(setting):
    model, run = setting
    blocks = model.blocks if hasattr(model, "blocks") else model.vilt.encoder.layer

    def fail(module, args):
        raise ZeroDivisionError

    with tokenreduce.attach(model, "tome", r=2) as handle:
        hook = blocks[2].register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            run(model)
        hook.remove()
        assert handle.last is None


def test_macs_of_a_vit(tiny_vit, images):
    """By hand: qkv 3 C^2, projection C^2, MLP 8 C^2 per token, and 2 N C per token for the two products."""
    model = tiny_vit()
    with tokenreduce.attach(model, "tome", r=4, layers=[1]) as handle:
        model(images())
        before, after = handle.last.macs
    width = 32

    def block(n, m):
        return n * 4 * width**2 + 2 * n * n * width + m * 8 * width**2

    assert before == 4 * block(17, 17)
    assert after == block(17, 17) + block(17, 13) + 2 * block(13, 13)


def test_trace(setting, crossing):
    model, run = setting
    name, options = crossing
    if hasattr(model, "blocks") and (options.get("saliency") == "text" or "modality_aware" in options):
        name, options = "tome", {"r": 5}
    with tokenreduce.attach(model, name, **options) as handle:
        run(model)
        assert handle.last.trace is None
    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        assert handle.last is None
        run(model)
        trace, rows = handle.last.trace, handle.last.sites
    batch, total = (2, 17) if hasattr(model, "blocks") else (3, 24)
    assert len(trace) == batch
    assert trace.source.shape == (batch, total)
    assert sum(trace.first.values()) == total
    for sample in range(batch):
        members = trace[sample]
        assert len(members) == trace.tokens
        flat = [token for tokens in members for token in tokens]
        assert len(flat) == len(set(flat))
        assert set(flat) <= set(range(total))
        for end, tokens in enumerate(members):
            assert all(trace.source[sample, token] == end for token in tokens)
    last = rows[-1].layer
    assert trace.tokens <= sum(row.tokens_out for row in rows if row.layer == last)
    assert trace[-1:] == [trace[batch - 1]]
    begin = 0
    for stream, length in trace.first.items():
        assert torch.equal(trace.stream(stream), trace.source[:, begin : begin + length])
        begin += length


def test_trace_belongs_to_its_pass(setting):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=3, trace=True) as handle:
        run(model)
        trace = handle.last.trace
        source = trace.source.clone()
        run(model)
        assert torch.equal(trace.source, source)


def test_trace_of_another_stack(setting):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=3, trace=True) as handle:
        run(model)
        (stack,) = handle.stacks
        assert handle.stacks[stack].last.trace is handle.last.trace
        with pytest.raises(KeyError, match="nope"):
            handle.stacks["nope"]


CONFIGS = [
    {"reducer": "none"},
    {"reducer": "random", "keep": 0.5, "seed": 3},
    {"reducer": "random", "remove": 2},
    {"reducer": "random", "remove": 0.25, "layers": [1, 2]},
    {"reducer": "random", "keep": [0.9, 0.8, 0.7, 0.6]},
    {"reducer": "tome", "r": 2},
    {"reducer": "tome", "r": (3, -1.0)},
    {"reducer": "tome", "r": [3, 1]},
    {"reducer": "tome", "r": {"r": 3, "inflection": 0.5}, "proportional_attention": False},
    {"reducer": "evit", "keep": 0.5, "fuse": False},
    {"reducer": "evit", "keep": (0.9, 0.5), "layers": [0, 3]},
    {"reducer": "pumer"},
    {"reducer": "pumer", "prune": 0.2, "merge": 0.1, "layers": [0], "trace": True},
    {"reducer": "tome", "r": 2, "restore": True},
]


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_config_round_trip(options, setting):
    model, run = setting
    with tokenreduce.attach(model, **options) as handle:
        expected, config = run(model), handle.config
    again = json.loads(json.dumps(config))
    assert again == config
    with tokenreduce.attach(model, **again) as handle:
        assert torch.equal(run(model), expected)
        assert handle.config == config
    config["reducer"] = "changed"
    assert handle.config != config  # it is a copy


def test_config_of_a_reducer_given_ready(setting):
    from tokenreduce_methods.tome.method import ToMe

    model, run = setting
    with tokenreduce.attach(model, ToMe(r=3)) as handle:
        expected, config = run(model), handle.config
        assert config["reducer"] == "tome"
    with tokenreduce.attach(model, **json.loads(json.dumps(config))):
        assert torch.equal(run(model), expected)


def test_a_reducer_by_module_and_attribute(setting):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=3):
        expected = run(model)
    with tokenreduce.attach(model, "tokenreduce_methods.tome.method:ToMe", r=3) as handle:
        assert torch.equal(run(model), expected)
        config = json.loads(json.dumps(handle.config))
    with tokenreduce.attach(model, **config):
        assert torch.equal(run(model), expected)


def test_one_reducer_object_on_two_models(tiny_vit, tiny_vilt, images, vilt_inputs):
    from tokenreduce_methods.pumer.method import PuMer

    reducer, vit, vilt = PuMer(), tiny_vit(), tiny_vilt()
    with tokenreduce.attach(vit, "pumer"):
        expected = vit(images())
    with tokenreduce.attach(vilt, "pumer"):
        other = vilt(**vilt_inputs()).logits
    with tokenreduce.attach(vilt, reducer) as handle, tokenreduce.attach(vit, reducer) as second:
        assert torch.equal(vit(images()), expected)
        assert torch.equal(vilt(**vilt_inputs()).logits, other)
        assert handle.notes == []
        assert second.notes
    assert reducer.notes == ()


def test_a_reducer_per_stack(setting):
    model, run = setting
    stack = "vision" if hasattr(model, "blocks") else "encoder"
    with tokenreduce.attach(model, "tome", r=3, layers=[0, 1]):
        expected = run(model)
    with tokenreduce.attach(model, {stack: {"reducer": "tome", "r": 3, "layers": [0, 1]}}) as handle:
        assert torch.equal(run(model), expected)
        config = json.loads(json.dumps(handle.config))
        assert config == handle.config
    with tokenreduce.attach(model, **config) as handle:
        assert torch.equal(run(model), expected)
        assert handle.last.sites[0].stack == stack
    with tokenreduce.attach(model, {stack: "evit"}) as handle:
        run(model)
        assert handle.last.trace is None


def test_attaching_twice(setting):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=3) as handle:
        expected = run(model)
        for reducer in ("evit", "tome"):
            with pytest.raises(AlreadyAttachedError, match="replace=True"):
                tokenreduce.attach(model, reducer)
        assert torch.equal(run(model), expected)
        assert tokenreduce.attachment(model) is handle


def test_replacing(setting, forwards):
    model, run = setting
    with tokenreduce.attach(model, "evit"):
        expected = run(model)
    first = tokenreduce.attach(model, "tome", r=3)
    run(model)
    second = tokenreduce.attach(model, "evit", replace=True)
    assert tokenreduce.attachment(model) is second
    assert not first.attached
    assert torch.equal(run(model), expected)
    first.detach()  # no longer its business
    assert torch.equal(run(model), expected)
    second.detach()
    assert forwards(model) == []


def test_replacing_nothing(setting):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=3, replace=True) as handle:
        run(model)
        assert handle.last.sites


@pytest.mark.parametrize(
    "bad",
    [
        {"reducer": "nope"},
        {"reducer": "tome", "nope": 1},
        {"reducer": "tome", "r": -1},
        {"reducer": "tome", "layers": [9]},
        {"reducer": "tome", "layers": []},
        {"reducer": "tome", "adapter": "nope"},
        {"reducer": {"nope": "tome"}},
        {"reducer": "evit", "keep": [0.5] * 9},
        {"reducer": 3},
    ],
    ids=str,
)
def test_replacing_by_something_bad_leaves_the_first_one_working(bad, setting, snapshot):
    model, run = setting
    with tokenreduce.attach(model, "tome", r=3) as handle:
        expected, attached = run(model), snapshot(model)
        with pytest.raises(tokenreduce.TokenReduceError):
            tokenreduce.attach(model, replace=True, **bad)
        assert snapshot(model) == attached
        assert handle.attached
        assert tokenreduce.attachment(model) is handle
        assert torch.equal(run(model), expected)


def test_replacing_by_one_that_the_backbone_cannot_feed(tiny_vit, images):
    model = tiny_vit(class_token=False, global_pool="avg")
    with tokenreduce.attach(model, "tome", r=3) as handle:
        expected = model(images())
        with pytest.raises(tokenreduce.errors.UnfitReducerError):
            tokenreduce.attach(model, "evit", replace=True)
        assert handle.attached
        assert torch.equal(model(images()), expected)


def test_a_model_whose_part_is_attached(tiny_vilt, vilt_inputs, forwards):
    model, inputs = tiny_vilt(), vilt_inputs()
    handle = tokenreduce.attach(model.vilt, "tome", r=3)
    reduced = model(**inputs).logits
    assert tokenreduce.attachment(model) is handle
    with pytest.raises(AlreadyAttachedError):
        tokenreduce.attach(model, "pumer")
    assert torch.equal(model(**inputs).logits, reduced)
    other = tokenreduce.attach(model, "pumer", replace=True)
    assert not handle.attached
    with pytest.raises(AlreadyAttachedError):
        tokenreduce.attach(model.vilt, "tome")
    assert tokenreduce.attachment(model.vilt) is other
    other.detach()
    assert forwards(model) == []


def test_a_tower_in_a_bigger_model(tiny_vit, images, forwards):
    tower = tiny_vit()
    model = torch.nn.Sequential(tower, torch.nn.Linear(7, 2))
    handle = tokenreduce.attach(model, "tome", r=3)
    assert tokenreduce.attachment(tower) is handle
    with pytest.raises(AlreadyAttachedError):
        tokenreduce.attach(tower, "tome")
    tokenreduce.attachment(tower).detach()
    assert forwards(model) == []


def test_attachment_of_what_is_not_attached(tiny_vit):
    assert tokenreduce.attachment(tiny_vit()) is None
    assert tokenreduce.attachment(torch.nn.Linear(2, 2)) is None


def test_a_forward_replaced_after_attach(setting, forwards):
    model, _run = setting
    handle = tokenreduce.attach(model, "tome", r=3)
    container = model.blocks if hasattr(model, "blocks") else model.vilt.encoder
    ours = container.forward
    container.forward = lambda *args, **kwargs: ours(*args, **kwargs)
    with pytest.raises(UnsupportedCallError, match="replaced"):
        handle.detach()
    assert handle.attached
    container.forward = ours
    handle.detach()
    assert forwards(model) == []


def test_attached_again_and_again(setting, forwards):
    model, run = setting
    torch.manual_seed(0)
    plain = run(model)
    for _ in range(5):
        with tokenreduce.attach(model, "pumer"):
            run(model)
    assert forwards(model) == []
    torch.manual_seed(0)
    assert torch.equal(run(model), plain)


def test_named_adapter(setting):
    model, _run = setting
    right, wrong = ("timm-vit", "hf-vilt") if hasattr(model, "blocks") else ("hf-vilt", "timm-vit")
    with tokenreduce.attach(model, "tome", adapter=right) as handle:
        assert handle.config["adapter"] == right
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match=wrong):
        tokenreduce.attach(model, "tome", adapter=wrong)


def test_attach_from_many_threads_to_models_of_their_own(tiny_vit, images):
    models = [tiny_vit(seed=seed) for seed in range(4)]
    wrong = []

    def work(model):
        try:
            for _ in range(5):
                with tokenreduce.attach(model, "tome", r=2), torch.no_grad():
                    model(images())
        except Exception as error:  # reported by the assertion below
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
