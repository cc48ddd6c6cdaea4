"""Text and image in two sequences: the engine against a model, an adapter and reducers as a user writes them.

What must come out is worked out in :func:`by_hand`, one sample at a time; there a token that was merged with
proportional attention is attended to by being repeated.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import tokenreduce
from tokenreduce.attachments.resolution import acting_block
from tokenreduce.backbones import Adapter, BlockView, Projected, Role, Stack
from tokenreduce.engine.run import Run
from tokenreduce.errors import UnfitReducerError, UnsupportedCallError, UnsupportedModelError
from tokenreduce.methods import BaseReducer, Reduction
from tokenreduce.registry import AdapterSpec

TEXT, IMAGE, HEADS = 16, 12, 2
WORDS, PATCHES = 6, 9
ORDERS = {"text first": ("text", "image"), "image first": ("image", "text"), "text twice": ("text", "image", "text")}


class Attention(nn.Module):
    def __init__(self, width, memory):
        super().__init__()
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(memory, width), nn.Linear(memory, width)
        self.norm = nn.LayerNorm(width)

    def parts(self, x, memory):
        pairs = ((self.query, x), (self.key, memory), (self.value, memory))
        return [linear(tokens).unflatten(-1, (HEADS, -1)).transpose(-3, -2) for linear, tokens in pairs]

    def forward(self, x, memory, real=None):
        query, key, value = self.parts(x, memory)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if real is not None:
            logits = logits.masked_fill(~real[:, None, None], float("-inf"))
        return self.norm(x + self.out((logits.softmax(dim=-1) @ value).transpose(-3, -2).flatten(-2)))


class Block(nn.Module):
    """Post-norm: self-attention, cross-attention, MLP."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        width, memory = (TEXT, IMAGE) if kind == "text" else (IMAGE, TEXT)
        self.own, self.cross = Attention(width, width), Attention(width, memory)
        self.up, self.down, self.norm = nn.Linear(width, 24), nn.Linear(24, width), nn.LayerNorm(width)

    def last(self, x):
        return self.norm(x + self.down(torch.relu(self.up(x))))

    def forward(self, x, memory, real=None, memory_real=None):
        return self.last(self.cross(self.own(x, x, real), memory, memory_real))


class Model(nn.Module):
    """Levels of blocks; before each but the first, a bridge adds the text as it came in once more."""

    def __init__(self, order="text first", levels=3):
        super().__init__()
        self.order, self.checkpoint = ORDERS[order], None
        self.blocks = nn.ModuleList(Block(kind) for _ in range(levels) for kind in self.order)
        self.bridge = nn.Linear(TEXT, TEXT)

    def forward(self, text, image, real=None):
        start = text
        for index, block in enumerate(self.blocks):
            if index and index % len(self.order) == 0:
                text = text + self.bridge(start)
            if block.kind == "text":
                text = block(text, image, real, None)
            else:
                image = block(image, text, None, real)
        return text, image


class View(BlockView):
    def __init__(self, block):
        self.block = block
        own, cross = block.own, block.cross
        self.attention_parts = [own.query, own.key, own.value, own.out]
        self.cross_parts, self.memory_parts = [cross.query, cross.out], [cross.key, cross.value]
        self.mlp_parts = [block.up, block.down]
        self.memory_width = cross.key.in_features

    def project(self, x):
        return Projected(*self.block.own.parts(x, x))

    def attend(self, x, context, projected):
        return self.block.own.norm(x + self.block.own.out(context))

    def project_memory(self, x, memory):
        return Projected(*self.block.cross.parts(x, memory))

    def attend_memory(self, x, context, projected):
        return self.block.cross.norm(x + self.block.cross.out(context))

    def mlp(self, x):
        return self.block.last(x)


class Forgetful(View):
    """Leaves the cross-attention's residual out."""

    def attend_memory(self, x, context, projected):
        return self.block.cross.norm(self.block.cross.out(context))


class Cross(Stack):
    name, prefix, sequences = "cross", {"text": 1, "image": 1}, (("text",), ("image",))
    readout, padded, kind = 0, True, View

    def __init__(self, model):
        self.module, self.blocks = model, list(model.blocks)
        step = len(model.order)
        self.levels = [tuple(range(i, i + step)) for i in range(0, len(self.blocks), step)]

    def role(self, index):
        return Role("text", "image") if self.blocks[index].kind == "text" else Role("image", "text")

    def view(self, block):
        return self.kind(block)

    def reference(self, block, x, real, memory=None, memory_real=None):
        return block.forward(x, memory, real, memory_real)

    def checkpointer(self, block):
        return self.module.checkpoint

    def forward(self, run, text, image, real=None):
        start = text
        run.start(text, {"text": text.shape[1]}, real)
        run.start(image, {"image": image.shape[1]})
        for level, blocks in enumerate(self.levels):
            if level:
                text = text + run.follow("text", self.module.bridge(start))
            for index in blocks:
                if self.role(index).own == "text":
                    text, image = run.block(index, text, image)
                else:
                    image, text = run.block(index, image, text)
        return run.finish(text, image)


class Mine(Adapter):
    stack = Cross

    def accepts(self, model):
        return isinstance(model, Model)

    def stacks(self, model):
        return {"cross": self.stack(model)}


class ForgetfulStack(Cross):
    kind = Forgetful


class ForgetfulAdapter(Mine):
    stack = ForgetfulStack


@pytest.fixture(autouse=True)
def registry(fresh_registry):
    """The installed plugins and an adapter of a user's own."""
    fresh_registry.add(AdapterSpec("two-sequences", f"{__name__}:Mine", "text and image in two sequences"))
    return fresh_registry


class Fixed(BaseReducer):
    """Does what it is told: at each layer, by stream, groups of tokens that become one; the others are dropped."""

    plan: Any = None
    weighted: bool = False
    streams: Any = ("image",)
    needs: Any = ()

    @property
    def proportional_attention(self):
        return self.weighted

    def layers(self, backbone):
        return sorted(self.plan)

    def options(self):
        return {}

    def reduce_streams(self, streams, site):
        return {name: self.one(streams[name].tokens, groups) for name, groups in self.plan[site.layer].items()}

    def one(self, tokens, groups):
        batch = tokens.x.shape[0]
        pairs = [(token, end) for end, group in enumerate(groups) for token in group[1:]]
        keep, source, target = (
            torch.tensor(row, dtype=torch.long).expand(batch, -1)
            for row in ([g[0] for g in groups], [token for token, _ in pairs], [end for _, end in pairs])
        )
        weights = {}
        if self.weighted:
            weights = {"keep_weight": tokens.sizes().gather(1, keep), "weight": tokens.sizes().gather(1, source)}
        return Reduction(keep, source, target, length=tokens.count, **weights)


class Hand:
    """One sequence of one sample: tokens, what each stands for, and the last value of those that were dropped."""

    def __init__(self, x):
        self.x, self.members, self.steps, self.gone = x, [[i] for i in range(len(x))], [], {}

    def sizes(self):
        return [len(group) for group in self.members]

    def apply(self, x, groups, weights):
        weights = [1] * len(x) if weights is None else weights
        return torch.stack([sum(weights[i] * x[i] for i in g) / sum(weights[i] for i in g) for g in groups])

    def reduce(self, x, groups, weighted):
        weights = self.sizes() if weighted else None
        for i in set(range(len(x))) - {i for group in groups for i in group}:
            self.gone.update(dict.fromkeys(self.members[i], x[i]))
        self.members = [[member for i in group for member in self.members[i]] for group in groups]
        self.steps.append((groups, weights))
        return self.apply(x, groups, weights)

    def follow(self, x):
        for groups, weights in self.steps:
            x = self.apply(x, groups, weights)
        return x

    def repeated(self, weighted):
        return self.x.repeat_interleave(torch.tensor(self.sizes()), dim=0) if weighted else self.x

    def whole(self):
        rows = dict(self.gone)
        for value, group in zip(self.x, self.members, strict=True):
            rows.update(dict.fromkeys(group, value))
        return torch.stack([rows[i] for i in range(len(rows))])


def by_hand(model, text, image, plan, acts, weighted=False):
    """One sample (N, C) without padding. ``acts``: which block of a level reduces."""
    start, hands = text, {"text": Hand(text), "image": Hand(image)}
    for index, block in enumerate(model.blocks):
        level, place = divmod(index, len(model.order))
        own, other = hands[block.kind], hands["image" if block.kind == "text" else "text"]
        if level and not place:
            hands["text"].x = hands["text"].x + hands["text"].follow(model.bridge(start))
        x = block.own(own.x, own.repeated(weighted))
        x = block.cross(x, other.repeated(weighted))
        if place == acts and level in plan:
            for name, groups in plan[level].items():
                if name == block.kind:
                    x = own.reduce(x, groups, weighted)
                else:
                    other.x = other.reduce(other.x, groups, weighted)
        own.x = block.last(x)
    return hands["text"], hands["image"]


def build(order="text first", levels=3, seed=0):
    torch.manual_seed(seed)
    model = Model(order, levels).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model, torch.randn(2, WORDS, TEXT).double(), torch.randn(2, PATCHES, IMAGE).double()


MERGE_IMAGE = {0: {"image": [[0], [3, 1], [2], [4, 8, 5], [7, 6]]}, 2: {"image": [[0, 2], [3, 1], [4]]}}
DROP_IMAGE = {0: {"image": [[0], [5], [2], [8, 1]]}, 1: {"image": [[0], [3, 1]]}}
BOTH = {
    0: {"text": [[0], [2, 1], [5], [4]], "image": [[0], [7, 1], [4], [2]]},
    1: {"text": [[0], [3, 2]]},
    2: {"image": [[0, 1], [2, 3]], "text": [[1, 0]]},
}
TEXT_ONLY = {0: {"text": [[0], [4, 2], [1], [5, 3]]}, 1: {"text": [[0, 1], [3]]}}
PLANS = {"merge image": MERGE_IMAGE, "drop image": DROP_IMAGE, "both": BOTH, "text": TEXT_ONLY}
PLACES = {  # order, streams and signals of the reducer: which block of a level acts
    "text first": {("image", ()): 1, ("text", ()): 0, ("image", ("text_attention",)): 0},
    "image first": {("image", ()): 0, ("text", ()): 1, ("image", ("text_attention",)): 1},
    "text twice": {("image", ()): 1, ("text", ()): 0, ("image", ("text_attention",)): 0},
}
WHERE = [(order, *key, acts) for order, table in PLACES.items() for key, acts in table.items()]


@pytest.mark.parametrize(("order", "stream", "needs", "acts"), WHERE)
def test_the_position_of_a_reducer(order, stream, needs, acts):
    stack = Cross(build(order)[0])
    reducer = Fixed(plan={}, streams=(stream,), needs=needs)
    assert [acting_block(stack, level, reducer, layer) for layer, level in enumerate(stack.levels)] == [
        level[acts] for level in stack.levels
    ]


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "proportional"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("order", "stream", "needs", "acts"), WHERE)
def test_the_engine_does_what_is_done_by_hand(order, stream, needs, acts, plan, weighted):
    model, text, image = build(order)
    reducer = Fixed(plan=PLANS[plan], weighted=weighted, streams=(stream,), needs=needs)
    with tokenreduce.attach(model, reducer, trace=True) as handle:
        short = model(text, image)
        trace, tokens = handle.last.trace, handle.last.tokens
    with tokenreduce.attach(model, reducer, restore=True):
        whole = model(text, image)
    assert trace.first == {"text": WORDS, "image": PATCHES}
    for sample in range(2):
        hands = by_hand(model, text[sample], image[sample], PLANS[plan], acts, weighted)
        for got, full, hand in zip(short, whole, hands, strict=True):
            torch.testing.assert_close(got[sample], hand.x, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(full[sample], hand.whole(), rtol=1e-9, atol=1e-9)
        assert list(tokens.values()) == [len(hand.members) for hand in hands]
        members = [sorted(g) for g in hands[0].members] + [sorted(i + WORDS for i in g) for g in hands[1].members]
        assert trace[sample] == members
        ends = trace.stream("image")[sample]
        assert {i: int(e) - tokens["text"] for i, e in enumerate(ends) if e >= 0} == {
            i: end for end, group in enumerate(hands[1].members) for i in group
        }
        assert trace.size[sample].tolist() == [float(n) for hand in hands for n in hand.sizes()]


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
def test_without_reduction_and_detached(order):
    model, text, image = build(order)
    real = torch.tensor([[True] * WORDS, [True] * 4 + [False] * 2])
    expected = model(text, image, real)
    with tokenreduce.attach(model, Fixed(plan={0: {}}), trace=True) as handle:
        got = model(text, image, real)
        torch.testing.assert_close(got[0][real], expected[0][real], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-9, atol=1e-9)
        assert handle.last.trace.size.tolist() == [[1.0] * 15, [1.0] * 4 + [0.0] * 2 + [1.0] * 9]
    assert all(torch.equal(a, b) for a, b in zip(model(text, image, real), expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("order", ["text first", "image first"])
def test_padding_is_never_attended_to(order, plan, weighted):
    """What padding contains is never seen, even once text is a memory that has been shortened."""
    model, text, image = build(order)
    real = torch.tensor([[True] * WORDS, [True] * 3 + [False] * 3])
    loud = torch.where(real[..., None], text, 1e3 * torch.randn_like(text))
    keep_apart = {  # real text merges with real text
        level: {name: [[0], [1, 2], [3], [4, 5]] if name == "text" and level == 0 else g for name, g in row.items()}
        for level, row in PLANS[plan].items()
        if "text" not in row or level == 0
    }
    with tokenreduce.attach(model, Fixed(plan=keep_apart, weighted=weighted), restore=True):
        (words, patches), (other, others) = model(text, image, real), model(loud, image, real)
    torch.testing.assert_close(words[real], other[real], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(patches, others, rtol=1e-9, atol=1e-9)
    alone = text[1:, :3], image[1:]
    if not any("text" in row for row in keep_apart.values()):
        with tokenreduce.attach(model, Fixed(plan=keep_apart, weighted=weighted), restore=True):
            got = model(*alone)
        torch.testing.assert_close(got[0][0], words[1, :3], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got[1][0], patches[1], rtol=1e-9, atol=1e-9)


class Reads(Fixed):
    """Hands out what it was shown."""

    seen: Any = None
    asked: Any = None

    def reduce_streams(self, streams, site):
        signals = {name: streams[name].signals for name in streams}
        self.seen.append({n: {s: getattr(g, s) for s in self.asked.get(n, ())} for n, g in signals.items()})
        return super().reduce_streams(streams, site)


@torch.no_grad()
def test_signals_are_those_of_the_right_attention():
    model, text, image = build()
    real = torch.tensor([[True] * WORDS, [True] * 4 + [False] * 2])
    asked = {"text": ("keys",), "image": ("keys", "readout_attention", "text_attention")}
    reducer = Reads(plan={0: {}}, needs=("keys", "readout_attention", "text_attention"), seen=[], asked=asked)
    with tokenreduce.attach(model, reducer):
        model(text, image, real)
    block = model.blocks[0]
    x = block.own(text, text, real)
    query, key, _ = block.cross.parts(x, image)
    maps = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)
    words = torch.stack([maps[0].mean(dim=0), maps[1, :4].mean(dim=0)])
    seen = reducer.seen[0]
    torch.testing.assert_close(seen["text"]["keys"], block.own.parts(text, text)[1].mean(dim=1))
    torch.testing.assert_close(seen["image"]["keys"], key.mean(dim=1))
    torch.testing.assert_close(seen["image"]["readout_attention"], maps[:, 0])
    torch.testing.assert_close(seen["image"]["text_attention"], words)


@torch.no_grad()
def test_an_image_block_has_no_text_attention():
    model, text, image = build("image first")
    reducer = Reads(plan={0: {}}, needs=("text_attention",), seen=[], asked={"image": ("text_attention",)})
    with tokenreduce.attach(model, reducer):
        model(text, image)
    assert len(reducer.seen) == 1
    with pytest.raises(UnfitReducerError, match="text_attention at one place"):
        acting_block(Cross(model), (0,), reducer, 0)


@torch.no_grad()
def test_report_and_macs():
    model, text, image = build()
    with tokenreduce.attach(model, Fixed(plan=BOTH, needs=("text_attention",))) as handle:
        model(text, image)
        rows = [(row.layer, row.stream, row.tokens_in, row.tokens_out) for row in handle.last.sites]
        macs = handle.last.macs
    assert [row for row in rows if row[2] != row[3]] == [
        (0, "text", 6, 4),
        (0, "image", 9, 4),
        (1, "text", 4, 2),
        (2, "text", 2, 1),
        (2, "image", 4, 2),
    ]

    def count(own, later, memory, width, other):
        start = 4 * own * width**2 + 2 * own**2 * width + 2 * own * width**2 + 2 * memory * other * width
        return start + 2 * own * memory * width + 2 * later * width * 24

    plain = 3 * (count(6, 6, 9, TEXT, IMAGE) + count(9, 9, 6, IMAGE, TEXT))
    reduced = count(6, 4, 9, TEXT, IMAGE) + count(4, 4, 4, IMAGE, TEXT)
    reduced += count(4, 2, 4, TEXT, IMAGE) + count(4, 4, 2, IMAGE, TEXT)
    reduced += count(2, 1, 4, TEXT, IMAGE) + count(2, 2, 1, IMAGE, TEXT)
    assert macs == (plain, reduced)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("plan", ["drop image", "both"])
@pytest.mark.parametrize(("order", "stream", "needs", "acts"), WHERE[:6])
def test_checkpointing_gives_the_same_gradients(order, stream, needs, acts, plan, reentrant):
    model, text, image = build(order)
    model.train()
    found = []
    reducer = Fixed(plan=PLANS[plan], weighted=True, streams=(stream,), needs=needs)
    with tokenreduce.attach(model, reducer, restore=True):
        for function in (None, partial(checkpoint, use_reentrant=reentrant)):
            model.checkpoint = function
            model.zero_grad()
            leaves = text.clone().requires_grad_(), image.clone().requires_grad_()
            outputs = model(*leaves)
            sum((t * torch.linspace(-1, 1, t.numel()).double().view(t.shape)).sum() for t in outputs).backward()
            found.append([p.grad.clone() for p in model.parameters()] + [leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in found[0][-2:])


@pytest.mark.parametrize("plan", ["drop image", "both"])
def test_gradients_are_those_of_the_same_done_by_hand(plan):
    model, text, image = build()
    reducer = Fixed(plan=PLANS[plan], needs=("text_attention",))
    with tokenreduce.attach(model, reducer, restore=True):
        x = image.clone().requires_grad_()
        sum(t[0].square().sum() for t in model(text, x)).backward()
    y = image[0].clone().requires_grad_()
    sum(hand.whole().square().sum() for hand in by_hand(model, text[0], y, PLANS[plan], 0)).backward()
    torch.testing.assert_close(x.grad[0], y.grad, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_block_alone_or_out_of_order_is_refused():
    model, text, image = build()
    with tokenreduce.attach(model, Fixed(plan=BOTH)) as handle:
        with pytest.raises(UnsupportedCallError, match="block 0 of Model was called by itself"):
            model.blocks[0](text, image)
        with pytest.raises(UnsupportedCallError, match="block 3 of Model was called by itself"):
            model.blocks[3](image, text, None, torch.ones(2, WORDS, dtype=torch.bool))
        expected = model(text, image)
        bound = model.forward.binding
        run = Run(bound)
        with pytest.raises(UnsupportedCallError, match="in order, after run"):
            run.block(0, text, image)
        run.start(text, {"text": WORDS})
        run.start(image, {"image": PATCHES})
        with pytest.raises(UnsupportedCallError, match="in order, after run"):
            run.block(2, text, image)
        assert all(torch.equal(a, b) for a, b in zip(model(text, image), expected, strict=True))
        assert handle.attached


@torch.no_grad()
def test_follow_since_a_block():
    model, text, image = build()
    runs = []

    class Watching(Cross):
        def forward(self, run, *args):
            runs.append(run)
            return super().forward(run, *args)

    stack = Watching(model)
    with tokenreduce.attach(model, Fixed(plan=BOTH, needs=("text_attention",))):
        model.forward.binding.stack = stack
        model(text, image)
    run, x = runs[0], torch.randn(2, WORDS, 3).double()
    hand = Hand(x[0])
    by_level = [BOTH[level]["text"] for level in range(3)]
    first = hand.apply(x[0], by_level[0], None)
    every = hand.apply(hand.apply(first, by_level[1], None), by_level[2], None)
    torch.testing.assert_close(run.follow("text", x)[0], every)
    torch.testing.assert_close(run.follow("text", first[None].expand(2, -1, -1), since=1)[0], every)
    y = torch.randn(2, PATCHES, 5).double()
    assert run.follow("image", y).shape == (2, 2, 5)
    assert torch.equal(run.follow("image", y, since=5), y)


class Wrong(Fixed):
    how: str = ""

    def reduce_streams(self, streams, site):
        if self.how == "whole":
            with pytest.raises(UnsupportedCallError, match="one sequence"):
                streams.whole()
            return {"text+image": Reduction.identity(2, WORDS + PATCHES)}
        return {"text": Reduction.identity(2, PATCHES)}


@torch.no_grad()
@pytest.mark.parametrize(
    ("how", "message"), [("whole", r"'text\+image'"), ("length", "is for 9 tokens, the stream has 6")]
)
def test_reductions_that_do_not_fit(how, message):
    model, text, image = build()
    reducer = Wrong(plan={0: {}}, how=how)
    with tokenreduce.attach(model, reducer), pytest.raises(UnsupportedCallError, match=message):
        model(text, image)


def test_a_view_without_a_part_of_the_cross_attention_is_refused(registry):
    spec = AdapterSpec("forgetful", f"{__name__}:ForgetfulAdapter", "wrong")
    registry.tables["adapter"].clear()
    registry.add(spec)
    model, _, _ = build()
    with pytest.raises(UnsupportedModelError, match="does not compute what the block computes"):
        tokenreduce.attach(model, "tome")
    assert "forward" not in vars(model)


@torch.no_grad()
@pytest.mark.parametrize("name", ["none", "random", "tome", "evit", "pumer"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_registered_reducers_run_on_a_third_party_model(name, order):
    model, text, image = build(order)
    real = torch.tensor([[True] * WORDS, [True] * 4 + [False] * 2])
    options = {"tome": {"r": 2}, "pumer": {"prune": 0.3, "merge": 0.2, "text_merge": 0.3}}.get(name, {})
    with tokenreduce.attach(model, name, restore=True, trace=True, layers=[0, 1], **options) as handle:
        words, patches = model(text, image, real)
        assert words.shape == text.shape and patches.shape == image.shape
        assert words[real].isfinite().all() and patches.isfinite().all()
        assert (handle.last.tokens["image"] < PATCHES) == (name != "none")
        twin = copy.deepcopy(model)
        again = twin(text, image, real)
        assert torch.equal(again[0][real], words[real]) and torch.equal(again[1], patches)
