"""fopru, svd-prune and e-adaprune on whole models: at the hand-over, and in the tower alone."""

import numpy as np
import pytest
import torch
import transformers

import tokenreduce

from ..plugins import spectral_oracle as oracle
from . import tinies
from .oracle import write

PLANS = {
    "fopru": {"reducer": "fopru", "keep": 7},
    "fopru, rows": {"reducer": "fopru", "keep": 14, "strategy": "row"},
    "fopru, softmax": {"reducer": "fopru", "keep": 0.3, "scores": "softmax"},
    "svd-prune": {"reducer": "svd-prune", "keep": 7},
    "svd-prune, a share of the leverage": {
        "reducer": "svd-prune",
        "keep": tokenreduce.Budget.cumulative(0.5, cap=24).to_json(),
        "features": "projected",
    },
    "e-adaprune": {"reducer": "e-adaprune", "energy": 0.7, "min_keep": 2, "max_keep": 30},
    "e-adaprune, randomised": {
        "reducer": "e-adaprune",
        "selector": {"reducer": "svd-prune", "centre": True},
        "energy": 0.7,
        "min_keep": 2,
        "max_keep": 6,
        "spectrum": "randomised",
    },
}
FAMILIES = ("llava", "gemma3", "qwen2_5_vl")


@pytest.fixture(scope="module")
def models():
    """A tiny model of each family, in float64."""
    return {name: tinies.ALL[name]().double() for name in FAMILIES}


def kept(handle, sample=0, image=0):
    """Places of the tokens of an image that are still there."""
    return [i for i, end in enumerate(handle.last.trace.image(sample, image).tolist()) if end >= 0]


@torch.no_grad()
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_is_judged_alone(models, family, plan):
    """Two prompts, one with two images, padded: each image keeps what it keeps by itself, and so do the answers."""
    tiny = models[family]
    other = tiny.size if tiny.fixed else tiny.other
    sizes, tails = [[tiny.size], [other, tiny.size]], [4, 6]
    with tokenreduce.attach(tiny.model, {"handover": PLANS[plan]}, trace=True) as handle:
        answers, _, _ = write(tiny.model, tiny.batch(sizes, tails=tails, seeds=[3, 4]))
        together = [[kept(handle, b, i) for i in range(len(images))] for b, images in enumerate(sizes)]
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone, _, _ = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[3 + b]))
            assert torch.equal(alone[0], answers[b])
            assert [kept(handle, 0, i) for i in range(len(images))] == together[b]
    assert all(0 < len(one) < tiny.size[0] * tiny.size[1] for images in together for one in images)


@torch.no_grad()
def test_what_llavas_tower_says(models):
    """By the map of the layer that the language model reads, made whole, and a decomposition of what it gives."""
    tiny = models["llava"]
    given = tiny.batch([[tiny.size], [tiny.size]], tails=[4, 4], seeds=[3, 4])
    tower = tiny.model.model.vision_tower
    read = (tower if hasattr(tower, "encoder") else tower.vision_model).encoder.layers[1]
    states = tower(given["pixel_values"], output_hidden_states=True).hidden_states
    x = read.layer_norm1(states[1])
    query, key = (
        side(x).unflatten(-1, (4, -1)).transpose(1, 2)[:, :, 1:]
        for side in (read.self_attn.q_proj, read.self_attn.k_proj)
    )
    maps = (query @ key.transpose(-1, -2) * read.self_attn.scale).numpy()
    features = states[-2][:, 1:].numpy()
    expected = {
        "fopru": [oracle.rank(one, 7) for one in maps],
        "fopru, rows": [oracle.rows(one, 2) for one in maps],
        "svd-prune": [sorted(np.argsort(-oracle.leverage(one), kind="stable")[:7].tolist()) for one in features],
        "e-adaprune": [
            oracle.rank(one, max(oracle.energy_rank(x, 0.7), 2)) for one, x in zip(maps, features, strict=True)
        ],
    }
    for plan, chosen in expected.items():
        with tokenreduce.attach(tiny.model, {"handover": PLANS[plan]}, trace=True) as handle:
            tiny.model(**given)
            assert [kept(handle, b) for b in range(2)] == chosen, plan


@torch.no_grad()
def test_in_the_tower_as_at_the_hand_over(models):
    """What only drops between attention and MLP of the layer that is read chooses the same tokens."""
    tiny = models["llava"]
    given = tiny.batch([[tiny.size], [tiny.size]], tails=[4, 4], seeds=[3, 4])
    for plan in ("fopru", "fopru, rows", "fopru, softmax"):
        with tokenreduce.attach(tiny.model, {"handover": PLANS[plan]}, trace=True) as handle:
            tiny.model(**given)
            there = [kept(handle, b) for b in range(2)]
        with tokenreduce.attach(tiny.model.model.vision_tower, trace=True, **PLANS[plan]) as handle:
            tiny.model.model.vision_tower(given["pixel_values"])
            source = handle.last.trace.source[:, 1:]
        assert [(row >= 0).nonzero().flatten().tolist() for row in source] == there


@torch.no_grad()
@pytest.mark.parametrize("plan", [name for name in PLANS if "leverage" not in name])
@pytest.mark.parametrize("kind", ["Clip", "Siglip"])
def test_a_tower_alone(kind, plan):
    """CLIP with a class token, SigLIP without, each picture as if alone."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind.replace('Clip', 'CLIP')}VisionConfig")
    tower = getattr(transformers, f"{kind.replace('Clip', 'CLIP')}VisionModel")
    model = tower(config(**tinies.VISION, image_size=24, patch_size=4)).eval().double()
    x = torch.randn(3, 3, 24, 24, dtype=torch.float64) * torch.tensor([0.1, 1.0, 4.0]).view(-1, 1, 1, 1)
    with tokenreduce.attach(model, trace=True, **PLANS[plan]) as handle:
        model(x)
        together = handle.last.trace.source >= 0
        for one, rows in zip(x, together, strict=True):
            model(one[None])
            assert torch.equal(handle.last.trace.source[0] >= 0, rows)
    assert (together.sum(dim=1) < 36).all()
