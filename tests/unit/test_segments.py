"""A sequence in which a stream occurs twice (text, image, text), in a causal stack with rotary positions.

The model and its adapter are written here as a user would write them. What must come out is what the model itself gives
when dropped tokens are hidden instead of removed. Axes: B batch, N tokens, H heads, G heads of keys, d head width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.backbones import Adapter, BlockView, Layout, Projected, Role, Segment, Stack
from tokenreduce.core.composition import combine, take_columns
from tokenreduce.errors import UnfitReducerError, UnsupportedCallError, UnsupportedModelError
from tokenreduce.methods import BaseReducer, Reduction
from tokenreduce.registry import AdapterSpec, default_registry, use_registry

WIDTH, HEADS, GROUPS = 16, 4, 2
BEFORE, PATCHES, AFTER = 3, 8, 4
TOTAL = BEFORE + PATCHES + AFTER
SEGMENTS = [Segment("text", BEFORE, 1), Segment("image", PATCHES), Segment("text", AFTER)]


def rotate(x, angle):
    """Rotary positions: pairs of channels (B, H, N, d) turned by angles (B or 1, N, d / 2)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Causal attention with grouped heads and rotary positions, then an MLP."""

    def __init__(self):
        super().__init__()
        d = WIDTH // HEADS
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = nn.Linear(WIDTH, GROUPS * d), nn.Linear(WIDTH, GROUPS * d)
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def parts(self, x, angle):
        y = self.norm(x)
        heads = [linear(y).unflatten(-1, (n, -1)).transpose(1, 2) for linear, n in self.projections()]
        return rotate(heads[0], angle), rotate(heads[1], angle), heads[2]

    def projections(self):
        return (self.query, HEADS), (self.key, GROUPS), (self.value, GROUPS)

    def forward(self, x, angle, hidden=None):
        """``hidden`` (B, N): tokens that no other one sees; they still see themselves."""
        query, key, value = self.parts(x, angle)
        key, value = (side.repeat_interleave(HEADS // GROUPS, dim=1) for side in (key, value))
        n = x.shape[1]
        unseen = torch.ones(n, n, dtype=torch.bool).triu(1)[None, None]
        if hidden is not None:
            unseen = unseen | (hidden[:, None, None] & ~torch.eye(n, dtype=torch.bool))
        logits = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(unseen, float("-inf"))
        x = x + self.out((logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    def __init__(self, layers=4):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(layers))

    def angles(self, x):
        step = 0.5 ** torch.arange(WIDTH // HEADS // 2, dtype=x.dtype)
        return torch.arange(x.shape[1], dtype=x.dtype)[None, :, None] * step

    def forward(self, x, hidden=None):
        """``hidden`` [(B, N)]: for each block, the tokens that are hidden in it."""
        angle = self.angles(x)
        for number, block in enumerate(self.blocks):
            x = block(x, angle, None if hidden is None else hidden[number])
        return x


class View(BlockView):
    causal = True

    def __init__(self, block):
        self.block = block
        self.attention_parts = [block.query, block.key, block.value, block.out]
        self.mlp_parts = [block.up, block.down]

    def project_at(self, x, positions):
        return Projected(*self.block.parts(x, positions["angle"]))

    def attend(self, x, context, projected):
        return x + self.block.out(context)

    def mlp(self, x):
        return x + self.block.down(F.gelu(self.block.up(self.block.norm2(x))))


class Unrotated(View):
    """Forgets the positions."""

    def project_at(self, x, positions):
        return Projected(*self.block.parts(x, torch.zeros_like(positions["angle"])))


class Language(Stack):
    name, prefix, readout, kind = "language", {"text": 1, "image": 0}, -1, View

    def __init__(self, model):
        self.module, self.blocks = model, list(model.blocks)

    def role(self, index):
        return Role("text+image")

    def view(self, block):
        return self.kind(block)

    def probe_positions(self, x):
        return {"angle": self.module.angles(x)}

    def reference(self, block, x, real, memory=None, memory_real=None, positions=None):
        return block.forward(x, positions["angle"])

    def forward(self, run, x):
        run.start(x, Layout(SEGMENTS), None, {"angle": self.module.angles(x)})
        return run(x)


class Mine(Adapter):
    stack = Language

    def accepts(self, model):
        return isinstance(model, Decoder)

    def stacks(self, model):
        return {"language": self.stack(model)}


class UnrotatedLanguage(Language):
    kind = Unrotated


class ForgetsPositions(Mine):
    stack = UnrotatedLanguage


@pytest.fixture(autouse=True)
def registry():
    with use_registry(default_registry().copy()) as registry:
        registry.add(AdapterSpec("decoder", f"{__name__}:Mine", "text, image and text in one causal sequence"))
        yield registry


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    model = Decoder().double().eval()
    return model, torch.randn(2, TOTAL, WIDTH).double()


class Chosen(BaseReducer):
    """Keeps the tokens it is told to, per sample, by layer and stream."""

    plan: Any = None

    def layers(self, backbone):
        return sorted(self.plan)

    def options(self):
        return {}

    def reduce_streams(self, streams, site):
        return {
            name: Reduction(torch.tensor(keep), length=streams[name].tokens.count)
            for name, keep in self.plan[site.layer].items()
        }


IMAGE = {1: {"image": [[0, 2, 3, 5, 7], [1, 2, 4, 6, 7]]}, 2: {"image": [[1, 2, 4], [0, 2, 3]]}}
BOTH = {
    0: {"image": [[0, 2, 3, 5, 7], [1, 2, 4, 6, 7]], "text": [[0, 1, 4, 6], [0, 3, 5, 6]]},
    2: {"text": [[0, 2, 3]] * 2},
}


def columns_left(plan, sample, layer):
    """The positions in the sequence of one sample's tokens after the site of a layer, in order."""
    left = {"text": [*range(BEFORE), *range(BEFORE + PATCHES, TOTAL)], "image": list(range(BEFORE, BEFORE + PATCHES))}
    for at in sorted(plan):
        if at <= layer:
            for name, keep in plan[at].items():
                left[name] = [left[name][token] for token in keep[sample]]
    return sorted(left["text"] + left["image"])


@torch.no_grad()
@pytest.mark.parametrize("plan", [IMAGE, BOTH], ids=["image", "both"])
def test_removed_tokens_are_as_good_as_hidden(decoder, plan):
    model, x = decoder
    hidden = []
    for block in range(len(model.blocks)):
        mask = torch.ones(2, TOTAL, dtype=torch.bool)
        for sample in range(2):
            mask[sample, columns_left(plan, sample, block - 1)] = False
        hidden.append(mask)
    wanted = model(x, hidden)
    with tokenreduce.attach(model, Chosen(plan=plan), trace=True) as handle:
        got, last = model(x), handle.last
    for sample in range(2):
        left = columns_left(plan, sample, len(model.blocks))
        torch.testing.assert_close(got[sample], wanted[sample, left], rtol=1e-9, atol=1e-9)
        assert list(last.trace[sample]) == [[column] for column in left]
    assert sum(last.tokens.values()) == got.shape[1]


@torch.no_grad()
def test_nothing_removed_is_the_model_itself(decoder):
    model, x = decoder
    plain = model(x)
    with tokenreduce.attach(model, "none"):
        torch.testing.assert_close(model(x), plain, rtol=1e-9, atol=1e-9)
    assert torch.equal(model(x), plain)


@torch.no_grad()
def test_restored_tokens_are_in_their_positions(decoder):
    model, x = decoder
    with tokenreduce.attach(model, Chosen(plan=IMAGE)):
        short = model(x)
    with tokenreduce.attach(model, Chosen(plan=IMAGE), restore=True):
        whole = model(x)
    assert whole.shape == x.shape
    for sample in range(2):
        assert torch.equal(whole[sample, columns_left(IMAGE, sample, 9)], short[sample])


class Watch(Reducer):
    """Drops by what the text looks at, and hands out what it was shown."""

    needs = {"keys", "readout_attention", "text_attention"}
    seen: Any = None

    def reduce(self, tokens, signals, remove):
        self.seen.update({name: getattr(signals, name) for name in self.needs})
        return tokens.keep_top(signals.text_attention, remove=remove)


@torch.no_grad()
def test_signals_of_grouped_heads_are_rows_of_the_models_own_attention(decoder):
    model, x = decoder
    block, seen = model.blocks[0], {}
    query, key, _ = block.parts(x, model.angles(x))
    logits = query @ key.repeat_interleave(HEADS // GROUPS, dim=1).transpose(-1, -2) / query.shape[-1] ** 0.5
    later = torch.ones(TOTAL, TOTAL, dtype=torch.bool).triu(1)
    attention = logits.masked_fill(later, float("-inf")).softmax(dim=-1).mean(dim=1)
    with tokenreduce.attach(model, Watch(keep=0.5, seen=seen), layers=[0]):
        model(x)
    image = slice(BEFORE, BEFORE + PATCHES)
    torch.testing.assert_close(seen["keys"], key.mean(dim=1)[:, image])
    torch.testing.assert_close(seen["readout_attention"], attention[:, -1, image], rtol=1e-9, atol=1e-9)
    after = attention[:, BEFORE + PATCHES :, image]  # text in front of the image sees none of it, and has no vote
    torch.testing.assert_close(seen["text_attention"], after.mean(dim=1), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["random", "tome", "pumer"])
def test_registered_reducers_run_on_it(decoder, name):
    model, x = decoder
    with tokenreduce.attach(model, name, layers=[1, 2]) as handle:
        got = model(x)
        assert got.isfinite().all()
        assert handle.last.tokens["image"] < PATCHES
        assert got.shape[1] == sum(handle.last.tokens.values())


def test_class_attention_is_not_there(decoder):
    with pytest.raises(UnfitReducerError, match="needs class_attention"):
        tokenreduce.attach(decoder[0], type("ByClass", (Watch,), {"needs": {"class_attention"}})(seen={}))


def test_a_view_that_forgets_the_positions_is_refused(decoder, registry):
    registry.tables["adapter"].clear()
    registry.add(AdapterSpec("forgetful", f"{__name__}:ForgetsPositions", "wrong"))
    with pytest.raises(UnsupportedModelError, match="does not compute what the block computes"):
        tokenreduce.attach(decoder[0], "none")


@torch.no_grad()
def test_merging_across_streams_leaves_no_stream_by_itself(decoder):
    class Across(BaseReducer):
        def layers(self, backbone):
            return [1]

        def reduce_streams(self, streams, site):
            tokens = streams.whole().tokens
            keep = torch.arange(tokens.count - 1).expand(2, -1)
            source = torch.full((2, 1), tokens.count - 1)
            return {streams.sequence: Reduction(keep, source, torch.full((2, 1), 4), length=tokens.count)}

    class Later(Across):
        def reduce_streams(self, streams, site):
            assert "image" not in streams and streams.length == TOTAL - 1
            return {"image": streams["image"].tokens.identity()}

    model, x = decoder
    with tokenreduce.attach(model, Across()) as handle:
        assert model(x).shape[1] == TOTAL - 1
        assert handle.last.tokens == {"text+image": TOTAL - 1}
    both = tokenreduce.chain({"reducer": Across(), "layers": [1]}, {"reducer": Later(), "layers": [2]})
    says = "were merged together, so 'image' is not there by itself"
    with tokenreduce.attach(model, both), pytest.raises(UnsupportedCallError, match=says):
        model(x)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=6), st.integers(0, 999))
def test_reductions_by_stream_are_those_of_the_streams_apart(parts, seed):
    generator = torch.Generator().manual_seed(seed)
    layout = Layout([Segment(name, length) for name, length in parts])
    x = torch.randn(2, layout.length, 3, generator=generator)
    apart = {name: take_columns(x, layout.columns(name)) for name in layout.streams}
    chosen = {}
    for name, n in layout.lengths.items():
        kept = int(torch.randint(0, n + 1, (1,), generator=generator))
        order = torch.stack([torch.randperm(n, generator=generator) for _ in range(2)]).view(2, n)
        chosen[name] = Reduction(order[:, :kept].sort(dim=1).values, length=n)
    whole, after = combine(layout, chosen, 2, x.device)
    short = whole.apply(x)
    assert after.length == short.shape[1] == sum(after.lengths.values())
    for name, reduction in chosen.items():
        assert torch.equal(take_columns(short, after.columns(name)), reduction.apply(apart[name]))
        assert (after.mask(name, 2).sum(dim=1) == reduction.count).all()
    order = whole.keep
    assert (order[:, 1:] > order[:, :-1]).all()  # what stays is in sequence order
