"""Tokens that leave inside the vision tower: a model writes what one does whose tower is edited by hand.

Axes: B pictures, N tokens of a tower, C' its width.
"""

import contextlib
import copy
from functools import lru_cache

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError, UnsupportedModelError
from tokenreduce.methods import Reduction

from . import tinies
from .oracle import WRITE, recompute, visible, write
from .test_generate import second_turn
from .test_training import labelled

SHORTER = ("llava", "paligemma")
GRIDS = ("gemma3", "llava_next", "llava_onevision", "internvl", "idefics3", "smolvlm")
ALL = SHORTER + GRIDS
REFUSED = {
    "qwen2_vl": "2 x 2",
    "qwen2_5_vl": "2 x 2",
    "qwen3_vl": "2 x 2",
    "mistral3": "PixtralVisionModel packs",
    "molmo2": "several layers",
    "vipllava": r"several layers of CLIPVisionModel.*\[-1, -2, 1\]",
}
TOME = {"vision": {"reducer": "tome", "r": 3}}


@lru_cache
def made(name):
    return tinies.ALL[name]().double()


@pytest.fixture(params=ALL)
def family(request):
    """The name of a family."""
    return request.param


@pytest.fixture
def tiny(family):
    """A model that the tests of this file share: each leaves it as it was."""
    return made(family)


class PairsAndRest(tokenreduce.Reducer):
    """Folds every second token into the one before it, and drops the last four."""

    def reduce(self, tokens, signals, remove):
        first = tokens.prefix
        end = tokens.count - 4
        keep = torch.tensor([*range(first), *range(first, end, 2)]).expand(tokens.x.shape[0], -1)
        source = torch.arange(first + 1, end, 2).expand(tokens.x.shape[0], -1)
        target = torch.arange(first, first + source.shape[1]).expand_as(source)
        return Reduction(keep, source, target, length=tokens.count)


def parts(model):
    """The tower's blocks, how many of them are computed for what is read, and tokens in front of the patches."""
    inner = model.model
    tower = inner.vision_tower if hasattr(inner, "vision_tower") else inner.vision_model
    blocks = tower.encoder.layers if hasattr(tower.encoder, "layers") else tower.encoder.layer
    layer = getattr(inner.config, "vision_feature_layer", -1)
    return tower, blocks, len(blocks) + 1 + layer, int("Clip" in type(tower).__name__ or "CLIP" in type(tower).__name__)


def by_hand(block, x, change=None):
    """A block, with the tokens changed between its attention and its MLP."""
    if hasattr(block, "lambda_1"):
        x = x + block.lambda_1 * block.attention(block.layernorm_before(x))[0]
        x = x if change is None else change(x)
        return x + block.lambda_2 * block.mlp(block.layernorm_after(x))
    x = x + block.self_attn(hidden_states=block.layer_norm1(x), attention_mask=None)[0]
    x = x if change is None else change(x)
    return x + block.mlp(block.layer_norm2(x))


@contextlib.contextmanager
def edited(model, site, prefix):
    """The plain model, whose tower merges and drops in one block by hand, with every token back where it is read."""
    _, blocks, read, _ = parts(model)
    kept = {}

    def change(x):
        patches = x[:, prefix:]
        end = patches.shape[1] - 4
        kept["before"] = x
        merged = (patches[:, 0:end:2] + patches[:, 1:end:2]) / 2
        return torch.cat([x[:, :prefix], merged], dim=1)

    def first(module, args):
        kept["x"] = args[0]

    def last(module, args, output):
        x = kept["x"]
        for index in range(read):
            x = by_hand(blocks[index], x, change if index == site else None)
        whole = kept["before"].clone()
        whole[:, :prefix] = x[:, :prefix]
        end = whole.shape[1] - prefix - 4
        whole[:, prefix : prefix + end] = x[:, prefix:].repeat_interleave(2, dim=1)[:, :end]
        return whole

    hooks = [
        blocks[0].register_forward_pre_hook(first),
        blocks[read - 1].register_forward_hook(last, prepend=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def prefix_of(tiny, family):
    return 1 if family in ("llava", "llava_next", "internvl") else 0


def test_a_tower_edited_by_hand(tiny, family):
    model, inputs = tiny.model, tiny.inputs()
    site, prefix = 1 if family not in ("llava", "llava_next") else 0, prefix_of(tiny, family)
    plain = write(model, inputs)[1]
    with tokenreduce.attach(model, {"vision": {"reducer": PairsAndRest(), "layers": [site]}}, trace=True) as handle:
        ids, logits, _ = write(model, inputs)
        last = handle.last
    assert (logits - plain).abs().max() > 1e-3
    if family in GRIDS:
        assert list(last.stacks) == ["vision"]
        with edited(model, site, prefix):
            want = write(model, inputs)
        assert torch.equal(ids, want[0])
        torch.testing.assert_close(logits, want[1], atol=1e-6, rtol=1e-6)
        return
    count = tiny.size[0] * tiny.size[1]
    columns = range(3, 3 + count)
    left = {*range(inputs["input_ids"].shape[1])} - {*columns} | {*columns[0 : count - 4 : 2]}
    record = last.stacks["handover"]
    assert visible(record.trace) == [left] * 4
    ends = record.trace.image(0)
    pairs = torch.arange(3, 3 + (count - 4) // 2).repeat_interleave(2)
    assert ends.tolist() == [*pairs.tolist(), -1, -1, -1, -1]
    with edited(model, site, prefix):
        want = recompute(model, inputs, ids, [left] * 4)
    torch.testing.assert_close(logits, want, atol=1e-6, rtol=1e-6)


def test_zero_budget_and_detach_change_no_bit(tiny, family):
    model, given = tiny.model, tiny.batch([[tiny.size], []], tails=[4, 7])
    plain = write(model, given)[1]
    for plan in ({"vision": "none"}, {"vision": {"reducer": "tome", "r": 0}}):
        with tokenreduce.attach(model, plan) as handle:
            assert torch.equal(write(model, given)[1], plain)
    with tokenreduce.attach(model, TOME) as handle:
        assert not torch.equal(write(model, given)[1], plain)
        with handle.paused():
            torch.testing.assert_close(write(model, given)[1], plain, atol=1e-9, rtol=1e-9)
    assert torch.equal(write(model, given)[1], plain)
    tower, blocks, _, _ = parts(model)
    assert all("forward" not in vars(module) for module in (model.model, tower, *blocks))


@pytest.mark.parametrize(
    "plan", [TOME, {"vision": {"reducer": "evit", "layers": [1], "keep": 0.5}}], ids=["tome", "evit"]
)
def test_an_answer_does_not_depend_on_its_batch(tiny, family, plan):
    if "evit" in str(plan) and not prefix_of(tiny, family):
        with pytest.raises(UnfitReducerError):
            tokenreduce.attach(tiny.model, plan)
        return
    sizes, tails = [[tiny.size], [tiny.size, tiny.size if tiny.fixed else tiny.other], []], [4, 6, 9]
    with tokenreduce.attach(tiny.model, plan):
        together = write(tiny.model, tiny.batch(sizes, tails=tails, seeds=[3, 4, 5]))
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[3 + b]))
            assert torch.equal(alone[0][0], together[0][b])
            torch.testing.assert_close(alone[1][0], together[1][b], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", SHORTER)
def test_beams_and_a_second_turn(tiny, family):
    given = tiny.batch([[tiny.size], [tiny.size] * 2], tails=[4, 6])
    with tokenreduce.attach(tiny.model, TOME), torch.no_grad():
        options = {**WRITE, "num_beams": 3, "num_return_sequences": 3}
        together = tiny.model.generate(**given, **options).sequences
        alone = tiny.model.generate(**tiny.batch([[tiny.size]], tails=[4], seeds=[0]), **options).sequences
        assert torch.equal(alone[:, -6:], together[:3, -6:])
        for images in (0, 1):
            more = tiny.batch([[tiny.size] * images], seeds=[9], head=2, tails=[3])
            got, want = second_turn(tiny, more, not images or family != "paligemma")
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_labels(family):
    tiny = tinies.ALL[family]()
    given, labels = labelled(tiny)
    tiny.model.train()
    with tokenreduce.attach(tiny.model, TOME):
        out = tiny.model(**given, labels=labels)
        out.loss.backward()
    logits, wanted = out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(logits.float(), wanted))
    _, blocks, read, _ = parts(tiny.model)
    for index, block in enumerate(blocks):
        assert all((p.grad is not None) is (index < read) for p in block.parameters())


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_blocks_behind_the_one_that_is_read_are_not_computed(tiny):
    tower, blocks, read, _ = parts(tiny.model)
    called = []
    hooks = [block.register_forward_hook(lambda *_, i=i: called.append(i)) for i, block in enumerate(blocks)]
    pixels = torch.randn(1, 3, tower.config.image_size, tower.config.image_size, dtype=torch.float64)
    with tokenreduce.attach(tiny.model, TOME), torch.no_grad():
        tiny.model(**tiny.inputs())
        assert called == list(range(read)) and read < len(blocks)
        out = tower(pixels, output_hidden_states=True)
        assert len(out.hidden_states) == len(blocks) + 1
        with pytest.raises(UnsupportedCallError, match=r"vision_feature_layer"):
            out.hidden_states[-1]
        lengths = [x.shape[1] for x in out.hidden_states[: read + 1]]
        assert lengths[read] == lengths[0] > lengths[read - 1]
        assert out.last_hidden_state is None and out.pooler_output is None
        with pytest.raises(UnsupportedCallError, match=r"vision_feature_layer"):
            tiny.model(**tiny.inputs(), vision_feature_layer=-1)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", SHORTER)
def test_counts_and_costs(tiny, tmp_path):
    given = tiny.batch([[tiny.size], [tiny.size] * 2], tails=[4, 6])
    _, _, read, prefix = parts(tiny.model)
    count = tiny.size[0] * tiny.size[1]
    with tokenreduce.attach(tiny.model, TOME) as handle:
        assert list(handle.stacks) == list(handle.config["reducer"]) == ["vision"]
        write(tiny.model, given)
        vision, language = handle.last.stacks["vision"], handle.last.stacks["handover"]
        left = count - 3 * read
        assert vision.tokens["image"] == left + prefix
        assert language.counts["image"].tolist() == [left, 2 * left]
        assert handle.last.image_tokens == [1.5 * left] * 4
        assert language.pictures == 1.5 and handle.last.kv_bytes[1] < handle.last.kv_bytes[0]
        want = [round(1.5 * a + b) for a, b in zip(vision.macs, language.macs, strict=True)]
        assert list(handle.last.macs) == want
        assert "handover" in str(handle) and "projector" in str(handle)
        handle.scale(2 / 3)
        write(copy.deepcopy(tiny.model), given)
        handle.save(tmp_path)
    with tokenreduce.load(tiny.model, tmp_path) as again, torch.no_grad():
        tiny.model(**given)
        assert again.last.image_tokens == [1.5 * (left + read)] * 4
    with tokenreduce.attach(tiny.model, TOME, positions="compact"), torch.no_grad():
        compact = tiny.model(**given).logits
    with tokenreduce.attach(tiny.model, TOME), torch.no_grad():
        assert not torch.allclose(tiny.model(**given).logits, compact)


@pytest.mark.parametrize("family", SHORTER)
@pytest.mark.parametrize(
    "second",
    [
        {"language": {"reducer": "fastv", "layers": [1]}},
        {"handover": {"reducer": "divprune", "keep": 3}},
        {"handover": {"reducer": "random", "keep": 0.5}, "language": {"reducer": "fastv", "layers": [1]}},
    ],
    ids=["fastv", "divprune", "both"],
)
def test_chains(tiny, second):
    model, inputs = tiny.model, tiny.inputs()
    _, _, read, _ = parts(model)
    left = tiny.size[0] * tiny.size[1] - 3 * read
    with tokenreduce.attach(model, {**TOME, **second}, trace=True) as handle:
        ids, logits, _ = write(model, inputs)
        features = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
        record = handle.last.stacks[next(iter(second))]
        seen = visible(record.trace)
    assert handle.last.sites[read].tokens_out == left
    assert record.tokens["image"] < left
    whole = torch.stack(list(features))  # the plain model, given the projected tokens of the reduced tower
    hook = model.model.multi_modal_projector.register_forward_hook(lambda *_: whole)
    want = recompute(model, inputs, ids, seen)
    hook.remove()
    torch.testing.assert_close(logits, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", GRIDS)
def test_a_chain_behind_a_grid(tiny):
    plan = {**TOME, "handover": {"reducer": "random", "keep": 4}}
    with tokenreduce.attach(tiny.model, plan) as handle, torch.no_grad():
        tiny.model(**tiny.inputs())
        assert handle.last.stacks["handover"].tokens["image"] == 4


@pytest.mark.parametrize("family", SHORTER)
def test_samples_that_keep_different_numbers(tiny):
    class ByNorm(tokenreduce.Reducer):
        ragged = True

        def reduce(self, tokens, signals, remove):
            norm = tokens.x.norm(dim=-1)
            norm[:, : tokens.prefix] = float("inf")
            long = norm > norm[:, tokens.prefix :].mean(dim=1, keepdim=True)
            order = (~long).int().argsort(dim=1, stable=True)[:, : int(long.sum(dim=1).max())]
            return Reduction(order, length=tokens.count, valid=long.gather(1, order))

    sizes = [[tiny.size], [tiny.size] * 2]
    given = tiny.batch(sizes, tails=[4, 6], seeds=[3, 4])
    with tokenreduce.attach(tiny.model, {"vision": {"reducer": ByNorm(), "layers": [0]}}) as handle:
        together = write(tiny.model, given)[1]
        pictures, samples = (handle.last.stacks[name].counts["image"] for name in ("vision", "handover"))
        pictures = pictures - parts(tiny.model)[3]
        assert samples.tolist() == [int(pictures[0]), int(pictures[1] + pictures[2])]
        for b, images in enumerate(sizes):
            alone = write(tiny.model, tiny.batch([images], tails=[4 + 2 * b], seeds=[3 + b]))[1]
            torch.testing.assert_close(alone[0], together[b], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", REFUSED)
def test_towers_that_are_refused_by_name(tiny, family):
    with pytest.raises(UnsupportedModelError, match=REFUSED[family] + r".*hand-over instead"):
        tokenreduce.attach(tiny.model, TOME)


@pytest.mark.parametrize("family", ["llava"])
def test_what_does_not_go_together(tiny):
    with pytest.raises(UnfitReducerError, match=r"class_attention.*'vision' is reduced too.*random"):
        tokenreduce.attach(tiny.model, {**TOME, "handover": {"reducer": "evit", "keep": 5}})
    with pytest.raises(OptionError, match=r"unit='sample'"):
        tokenreduce.attach(tiny.model, TOME, unit="sample")
    with pytest.raises(OptionError, match=r"every token"):
        tokenreduce.attach(tiny.model, TOME, restore=False)


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_masks_of_pictures(tiny):
    given = {**tiny.inputs(), "pixel_attention_mask": torch.ones(1, 1, 32, 32, dtype=torch.long)}
    with tokenreduce.attach(tiny.model, TOME), torch.no_grad():
        assert torch.equal(tiny.model(**given).logits, tiny.model(**tiny.inputs()).logits)
        given["pixel_attention_mask"][..., 16:] = 0
        with pytest.raises(UnsupportedCallError, match=r"pixel_attention_mask.*detach"):
            tiny.model(**given)


@pytest.mark.parametrize("tail", [[7, 8, 9], []], ids=["text behind", "ends with the image"])
def test_a_class_token_that_the_language_model_is_given(tail):
    model = copy.deepcopy(made("llava").model)
    model.config.vision_feature_select_strategy = "full"
    ids = torch.tensor([[5, 6, *[tinies.IMAGE] * 37, *tail]])
    given = {"input_ids": ids, "pixel_values": made("llava").inputs()["pixel_values"]}
    with torch.no_grad():
        plain = model(**given).logits
        with tokenreduce.attach(model, {"vision": "none"}):
            assert torch.equal(model(**given).logits, plain)
        with tokenreduce.attach(model, TOME, trace=True) as handle:
            logits = model(**given).logits
            record = handle.last.stacks["handover"]
    kept = 37 - 6
    assert record.tokens["image"] == (kept if tail else kept - 1)  # the last token of a prompt stays as it is
    assert record.trace.image(0)[0] == 2, "the class token stays in front"
    assert logits.shape == plain.shape and not torch.allclose(logits, plain)
