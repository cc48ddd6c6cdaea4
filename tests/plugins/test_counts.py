"""Published token counts."""

import pytest
import torch

import tokenreduce
from tokenreduce import testing
from tokenreduce.methods import Streams
from tokenreduce.registry import default_registry

EVIT = [
    (True, 0.9, [179, 163, 148]),
    (True, 0.8, [159, 129, 105]),
    (True, 0.7, [140, 100, 72]),
    (True, 0.6, [120, 74, 46]),
    (True, 0.5, [100, 52, 28]),
    (False, 0.9, [178, 161, 145]),
    (False, 0.8, [158, 127, 102]),
    (False, 0.7, [139, 98, 69]),
    (False, 0.6, [119, 72, 44]),
    (False, 0.5, [99, 50, 26]),
]
TOME = [
    (13, [184, 171, 158, 145, 132, 119, 106, 93, 80, 67, 54, 41]),
    (16, [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]),
]
PUMER = [  # prune, merge, then the image's tokens on entry and after each reducer
    (0.1, 0.3, [145, 87, 52, 31, 19]),
    (0.2, 0.2, [577, 347, 209, 125, 75]),
    (0.3, 0.5, [577, 203, 72, 26, 10]),
    (0.3, 0.5, [325, 114, 41, 15]),
]


@pytest.fixture(scope="module")
def vit(tiny_vit):
    """A ViT of 12 blocks with 197 tokens, and an image for it."""
    return tiny_vit(img_size=112, depth=12), torch.randn(1, 3, 112, 112)


@torch.no_grad()
@pytest.mark.parametrize(("fuse", "keep", "counts"), EVIT)
def test_evit_of_197_tokens(vit, shapes, flow, fuse, keep, counts):
    model, image = vit
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, "evit", keep=keep, fuse=fuse) as handle:
        model(image)
        assert handle.config["layers"] == [3, 6, 9]
        assert flow(handle) == [197, *counts]
        assert handle.last.tokens == {"image": counts[-1]}
    assert seen == [197] * 3 + [n for n in counts for _ in range(3)]


@torch.no_grad()
@pytest.mark.parametrize("keep", [0.9, 0.8, 0.7, 0.6, 0.5])
def test_random_drop_counts_as_evit_without_fusing(vit, flow, keep):
    model, image = vit
    counts = next(row[2] for row in EVIT if row[:2] == (False, keep))
    with tokenreduce.attach(model, "random", keep=keep) as handle:
        model(image)
        assert flow(handle) == [197, *counts]


@torch.no_grad()
@pytest.mark.parametrize(("r", "counts"), TOME)
def test_tome_of_197_tokens(vit, shapes, flow, r, counts):
    model, image = vit
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, "tome", r=r) as handle:
        model(image)
        assert handle.config["layers"] == list(range(12))
        assert flow(handle) == [197, *counts]
    assert seen == counts


@torch.no_grad()
def test_tome_falling_schedule_of_197_tokens(vit, shapes):
    model, image = vit
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, "tome", r=(16, -1)):
        model(image)
    assert seen == [165, 136, 110, 87, 67, 50, 36, 25, 17, 12, 10, 10]


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({}, 197, 99),
        ({"distilled": True}, 198, 100),
        ({"class_token": False, "global_pool": "avg"}, 196, 98),
    ],
)
def test_most_tokens_that_tome_removes_in_one_step(tiny_vit, flow, options, before, after):
    from timm.models.deit import VisionTransformerDistilled

    options = dict(options)
    cls = VisionTransformerDistilled if options.pop("distilled", False) else None
    model = tiny_vit(cls, img_size=112, depth=2, **options)
    with tokenreduce.attach(model, "tome", r=1000, layers=[0]) as handle:
        model(torch.randn(1, 3, 112, 112))
        assert flow(handle) == [before, after]


@torch.no_grad()
def test_pumer_on_vilt_of_145_tokens(tiny_vilt, vilt_inputs, shapes, flow):
    model = tiny_vilt(image_size=96, num_hidden_layers=12, max_image_length=-1)
    inputs = vilt_inputs(2, 40, 96, 96)
    seen = shapes(model.vilt.encoder.layer)
    with tokenreduce.attach(model, "pumer") as handle:
        model(**inputs)
        assert flow(handle) == [145, 87, 52, 31]
        assert flow(handle, "text") == [40, 32, 26, 21]
        assert handle.last.tokens == {"text": 21, "image": 31}
    assert seen == [185, 185] + [119] * 3 + [78] * 3 + [52] * 4


@pytest.mark.parametrize(("prune", "merge", "counts"), PUMER)
@pytest.mark.parametrize("texts", [[32, 26, 21, 17, 14], [40, 32, 26, 21, 17]])
def test_pumer_by_hand(stream, site, prune, merge, counts, texts):
    method = default_registry().load("reducer", "pumer")(prune=prune, merge=merge, saliency="text")
    method = method.bind(testing.synthetic_backbone())
    for before, after, text, text_after in zip(counts, counts[1:], texts, texts[1:], strict=False):
        x, words = torch.randn(2, before, 4), torch.randn(2, text, 4)
        streams = Streams(
            {
                "text": stream(words, prefix=1, keys=words),
                "image": stream(x, keys=x, text_attention=torch.rand(2, before)),
            },
            main="image",
        )
        chosen = method.reduce_streams(streams, site())
        assert chosen["image"].apply(x).shape == (2, after, 4)
        assert chosen["text"].apply(words).shape == (2, text_after, 4)


PITOME = [  # of 196 patches floor((1 - keep) * n) go in each block, the class token stays
    (0.9, [178, 161, 145, 131, 118, 107, 97, 88, 80, 73, 66, 60]),
    (0.95, [188, 179, 171, 163, 155, 148, 141, 134, 128, 122, 116, 111]),
    (0.3, [99, 50, 26, 14, 8, 5, 3, 2, 2, 2, 2, 2]),  # at most half of the patches, and one stays
]


@torch.no_grad()
@pytest.mark.parametrize(("keep", "counts"), PITOME)
def test_pitome_of_197_tokens(vit, shapes, flow, keep, counts):
    model, image = vit
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, "pitome", keep=keep) as handle:
        model(image)
        assert handle.config["layers"] == list(range(12))
        assert flow(handle) == [197, *counts]
    assert seen == counts


@torch.no_grad()
@pytest.mark.parametrize(("r", "counts"), TOME)
def test_tofu_counts_as_tome(vit, shapes, flow, r, counts):
    model, image = vit
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, "tofu", r=r, trace=True) as handle:
        model(image)
        assert flow(handle) == [197, *counts]
        dropped = (handle.last.trace.source < 0).sum()
    assert seen == counts
    assert dropped == 6 * r  # in the first half of the blocks; after that pairs merge


DIFFRATE = {  # DeiT-S: published name, tokens left after pruning and after merging in each block, class token counted
    2.3: (
        [197, 192, 168, 143, 121, 105, 92, 74, 62, 45, 33, 3],
        [197, 180, 156, 127, 109, 98, 80, 66, 52, 37, 31, 3],
    ),
    2.5: (
        [197, 192, 174, 156, 131, 115, 111, 99, 76, 50, 39, 3],
        [197, 186, 160, 133, 119, 107, 96, 82, 66, 43, 37, 3],
    ),
    2.7: (
        [197, 196, 182, 160, 141, 127, 115, 105, 88, 66, 49, 3],
        [197, 188, 170, 147, 131, 119, 109, 96, 76, 54, 45, 3],
    ),
    2.9: (
        [197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3],
        [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3],
    ),
    3.1: (
        [197, 197, 194, 180, 160, 147, 137, 129, 115, 92, 76, 3],
        [197, 196, 186, 164, 150, 141, 133, 121, 103, 78, 68, 3],
    ),
}


def removed(pruned, merged):
    """How many tokens are pruned and merged in each block, from those left after either; there may be fewer already."""
    before, prune, merge = 197, [], []
    for after_pruning, after_merging in zip(pruned, merged, strict=True):
        left = min(before, after_pruning)
        prune.append(before - left)
        before, left = min(left, after_merging), left
        merge.append(left - before)
    return prune, merge


@pytest.fixture(scope="module")
def deit_small(tiny_vit):
    """A DeiT-S with random weights, and an image for it."""
    sizes = {"img_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "num_classes": 1000}
    return tiny_vit(**sizes), torch.randn(1, 3, 224, 224)


@torch.no_grad()
@pytest.mark.parametrize("gigamacs", DIFFRATE)
def test_diffrate_at_its_published_rates(deit_small, flow, gigamacs):
    """The multiply-adds that each setting is named after; of 2.9 the three digits that were published with it."""
    model, image = deit_small
    pruned, merged = DIFFRATE[gigamacs]
    prune, merge = removed(pruned, merged)
    with tokenreduce.attach(model, "diffrate", prune=prune, merge=merge) as handle:
        counted = tokenreduce.count_macs(model, (image,))
        assert flow(handle) == [197, *merged]
        blocks = handle.last.macs[1]
    ends = 196 * (16 * 16 * 3) * 384 + 384 * 1000  # patches and head
    without_own = (blocks + ends) / 1e9
    assert round(without_own, 1) == gigamacs
    assert gigamacs != 2.9 or round(without_own, 3) == 2.905
    assert 0 < counted / 1e9 - without_own < 0.006  # class attention, and matching


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "gigamacs"),
    [("none", {}, 4.599), ("pitome", {"keep": 0.9}, 2.595), ("tofu", {"r": 13}, 2.703), ("tome", {"r": 13}, 2.703)],
)
def test_multiply_adds_of_deit_small_by_hand(deit_small, name, options, gigamacs):
    model, image = deit_small
    with tokenreduce.attach(model, name, **options) as handle:
        model(image)
        before, total = 197, 196 * 768 * 384 + 384 * 1000
        for row in handle.last.sites:
            total += 4 * before * 384**2 + 2 * before**2 * 384 + 8 * row.tokens_out * 384**2
            before = row.tokens_out
        blocks = handle.last.macs[1]
    assert blocks == total - 196 * 768 * 384 - 384 * 1000
    assert round(total / 1e9, 3) == gigamacs
