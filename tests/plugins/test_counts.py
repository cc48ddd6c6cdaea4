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
