"""torch.compile makes one graph of an attached model, and it answers as the eager one does."""

from __future__ import annotations

import copy

import pytest
import timm.layers
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

import tokenreduce
from tokenreduce.errors import UnsupportedCallError

pytestmark = pytest.mark.usefixtures("compiler_from_scratch")

REDUCERS = {
    "random": ("random", {"keep": 0.6}),
    "tome": ("tome", {"r": 3}),
    "evit": ("evit", {"keep": 0.6}),
    "pumer": ("pumer", {}),
}
BOTH = [("vit", "evit", "aot_eager"), ("vilt", "pumer", "aot_eager")]  # with the eager backend: the conformance tests
MORE = [
    ("vit-avg", "tome"),
    ("vit-avg", "pumer"),
    ("vit-dense", "random"),
    ("vilt", "pumer-joint"),
    ("vilt-mlm", "pumer"),
]


@pytest.fixture
def build(tiny_vit, tiny_vilt, images, vilt_inputs):
    """A reducer with options, a model of two blocks, and the keyword arguments of two calls of one shape."""

    def of(kind, reducer):
        name, options = REDUCERS[reducer.split("-")[0]]
        if "joint" in reducer:
            options = {**options, "modality_aware": False}
        if kind.startswith("vit"):
            pool = {"vit": "token", "vit-avg": "avg", "vit-dense": ""}[kind]
            model = tiny_vit(depth=2, global_pool=pool)
            return name, options, model, [{"x": images(seed=1)}, {"x": images(seed=2)}]
        model = tiny_vilt("ViltForMaskedLM" if "mlm" in kind else "ViltForQuestionAnswering", num_hidden_layers=2)
        return name, options, model, [vilt_inputs(2, lengths=lengths, seed=lengths[0]) for lengths in ([7, 4], [5, 7])]

    return of


def logits(output):
    return output if isinstance(output, torch.Tensor) else output.logits


@pytest.mark.parametrize(("kind", "reducer", "backend"), [*BOTH, *[(*case, "eager") for case in MORE]])
def test_one_graph(kind, reducer, backend, build, assert_close):
    name, options, model, calls = build(kind, reducer)
    with torch.no_grad(), tokenreduce.attach(model, name, layers=[0, 1], **options) as handle:
        expected = [logits(model(**call)) for call in calls]
        rows = handle.last.sites
    with torch.no_grad(), tokenreduce.attach(model, name, layers=[0, 1], **options) as handle:
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        assert_close(logits(compiled(**calls[0])), expected[0])
        assert counters["stats"]["unique_graphs"] == 1
        assert handle.last.sites == rows
        assert str(rows[0].tokens_out) in str(handle)
        with dynamo.patch(error_on_recompile=True):
            assert_close(logits(compiled(**calls[1])), expected[1])
            assert_close(logits(compiled(**calls[0])), expected[0])
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]
        assert handle.last.sites == rows


@pytest.mark.parametrize(("kind", "reducer"), [("vit", "evit"), ("vilt-mlm", "pumer")])
def test_training_through_a_compiled_model(kind, reducer, build, assert_close):
    name, options, model, calls = build(kind, reducer)
    with tokenreduce.attach(model, name, layers=[0, 1], **options):
        model.train()
        logits(model(**calls[0])).square().sum().backward()
        expected = {key: p.grad for key, p in model.named_parameters()}
        model.zero_grad()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        logits(compiled(**calls[0])).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (expected[key] is None)
        if parameter.grad is not None:
            assert_close(parameter.grad, expected[key], 1e-4)


def test_detach_is_seen_by_a_compiled_model(tiny_vit, images, assert_close):
    model, x = tiny_vit(depth=2), images()
    with torch.no_grad():
        plain = model(x)
        handle = tokenreduce.attach(model, "tome", r=3)
        compiled = torch.compile(model, backend="eager")
        reduced = compiled(x)
        handle.detach()
        assert_close(compiled(x), plain)
        with tokenreduce.attach(model, "tome", r=3):
            assert_close(compiled(x), reduced)


def test_compiled_trace(tiny_vit, images):
    model, x = tiny_vit(depth=2), images()
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=3, trace=True) as handle:
        model(x)
        expected = handle.last.trace
        torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        trace = handle.last.trace
    assert torch.equal(trace.source, expected.source)
    assert torch.equal(trace.size, expected.size)


def test_another_image_size_while_compiled(tiny_vit, images, assert_close):
    model = tiny_vit(depth=2, dynamic_img_size=True)
    with torch.no_grad(), tokenreduce.attach(model, "pumer") as handle:
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for height, width in [(32, 32), (48, 24), (32, 32)]:
            x = images(2, height, width)
            assert_close(compiled(x), model(x))
            compiled(x)
            assert handle.last.sites[0].tokens_in == 1 + height * width // 64


def test_attaching_to_the_compiled_wrapper_says_what_to_do(tiny_vit):
    compiled = torch.compile(tiny_vit(depth=2), backend="eager")
    try:
        handle = tokenreduce.attach(compiled, "tome", r=1)
    except tokenreduce.errors.UnsupportedModelError as error:
        assert "_orig_mod" in str(error)  # noqa: PT017
    else:
        assert handle.sites
        handle.detach()


class Halved(timm.layers.Attention):
    """A class with a forward of its own."""

    def forward(self, x, *args, **kwargs):
        return super().forward(x, *args, **kwargs) / 2


class Beside(nn.Module):
    """Adds to what a linear layer gives, as adapter libraries do."""

    def __init__(self, base):
        super().__init__()
        self.base, self.more = base, nn.Linear(base.in_features, base.out_features)
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x):
        return self.base(x) + self.more(x)


ACTS = {
    "adapter": lambda block: setattr(block.attn, "qkv", Beside(block.attn.qkv)),
    "linear": lambda block: setattr(block.attn, "qkv", nn.Linear(32, 96)),
    "attention": lambda block: setattr(block, "attn", timm.layers.Attention(32, num_heads=8).eval()),
    "norm": lambda block: setattr(block, "norm1", nn.Identity()),
    "mlp": lambda block: setattr(block.mlp, "fc1", Beside(block.mlp.fc1)),
}
REFUSED = {
    "hook": lambda block: block.attn.register_forward_hook(lambda module, args, output: output * 0),
    "forward": lambda block: setattr(block.attn, "forward", lambda x, **_: x),
    "class": lambda block: setattr(block.attn, "__class__", Halved),
}


@pytest.mark.parametrize("when", ["before the first pass", "after it"])
@pytest.mark.parametrize("change", ACTS)
def test_what_is_exchanged_in_a_compiled_model_acts(change, when, tiny_vit, images, assert_close):
    model, x = tiny_vit(), images()
    with torch.no_grad():
        handle = tokenreduce.attach(model, "none")
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        before = compiled(x) if when == "after it" else model(x)
        ACTS[change](model.blocks[1])
        got = compiled(x)
        handle.detach()
        assert_close(got, model(x))
        assert (got - before).abs().max() > 1e-3 * before.abs().max()


@pytest.mark.parametrize("when", ["before the first pass", "after it"])
@pytest.mark.parametrize("change", [*REFUSED, "shorter", "swapped"])
def test_what_cannot_act_in_a_compiled_model_is_refused(change, when, tiny_vit, images):
    model, x = tiny_vit(), images()
    tokenreduce.attach(model, "none")
    for fullgraph, error in ((False, UnsupportedCallError), (True, torch._dynamo.exc.Unsupported)):
        torch._dynamo.reset()  # else the frame that gave up before runs uncompiled
        changed = copy.deepcopy(model)
        compiled = torch.compile(changed, fullgraph=fullgraph, backend="eager")
        with torch.no_grad():
            if when == "after it":
                compiled(x)
            if change == "shorter":
                del changed.blocks[-1]
            elif change == "swapped":
                changed.blocks[1] = copy.deepcopy(tiny_vit().blocks[1])
            else:
                REFUSED[change](changed.blocks[1])
            with pytest.raises(error, match="Observed exception" if fullgraph else "detach"):
                compiled(x)
