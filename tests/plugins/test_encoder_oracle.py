"""PiToMe, ToFu and DiffRate on whole models against the slow re-implementations in encoder_oracle.py, in float64."""

import pytest
import torch

import tokenreduce

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def check(model, x, results, name, shapes, **options):
    """Outputs, sources, sizes and counts of each sample are the oracle's."""
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        output = model(x)
        trace = handle.last.trace
    for sample, result in enumerate(results):
        assert trace[sample] == result.groups
        torch.testing.assert_close(output[sample], result.logits, **TOLERANCE)
        assert trace.size[sample].tolist() == result.sizes.tolist()
    assert seen == results[0].counts


@pytest.fixture
def vit(tiny_vit, images):
    """A random float64 ViT and images for it, from patches (height, width) and depth."""

    def build(patches, depth, seed=0, **options):
        height, width = (8 * side for side in patches)
        model = tiny_vit(seed=seed, img_size=(height, width), depth=depth, **options).double()
        return model, images(3, height, width, seed=seed + 1).double()

    return build


POOLED = {"class_token": False, "global_pool": "avg"}
PITOME = [
    # patches, share kept in each block, options of the model, options of the method
    ((6, 6), [0.9, 0.9, 0.9, 0.9], {}, {}),
    ((5, 5), [0.75, 1.0, 0.5, 0.8], {}, {}),
    ((4, 4), [0.1, 0.1, 0.1, 0.1], {}, {}),  # capped at half in every block
    ((6, 5), [0.8, 0.8, 0.8, 0.8], {}, {"margin": 0.2, "alpha": 0.3}),
    ((6, 5), [0.8, 0.8, 0.8, 0.8], {}, {"margin": -1.0}),  # every token similar to every other
    ((6, 6), [0.7, 0.7, 0.7, 0.7], POOLED, {}),
    ((5, 5), [0.7, 0.7, 0.7, 0.7], {"reg_tokens": 3}, {"proportional_attention": False}),
]


@torch.no_grad()
@pytest.mark.parametrize(("patches", "keep", "model_options", "options"), PITOME)
def test_pitome(oracle, encoder_oracle, vit, shapes, patches, keep, model_options, options):
    model, x = vit(patches, 4, **model_options)
    told = {"proportional" if name == "proportional_attention" else name: value for name, value in options.items()}
    results = [encoder_oracle.vit_pitome(oracle, model, image, keep, **told) for image in x]
    check(model, x, results, "pitome", shapes, keep=keep, **options)


@torch.no_grad()
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pitome_on_other_weights(oracle, encoder_oracle, vit, shapes, seed):
    model, x = vit((6, 6), 6, seed=seed, embed_dim=48)
    results = [encoder_oracle.vit_pitome(oracle, model, image, [0.85] * 6) for image in x]
    check(model, x, results, "pitome", shapes, keep=0.85)


TOFU = [
    # patches, r, first block that merges, options of the model
    ((6, 6), [5, 5, 5, 5], 2, {}),
    ((7, 5), [4, 4, 4, 4], 1, {}),
    ((4, 4), [100, 100, 100, 100], 2, {}),  # capped at half in every block
    ((6, 6), [6, 6, 6, 6], 0, {}),  # merges everywhere
    ((6, 6), [6, 6, 6, 6], 4, {}),  # nowhere
    ((5, 5), [0, 7, 0, 4], 0, POOLED),
]


@torch.no_grad()
@pytest.mark.parametrize("preserve_norm", [True, False])
@pytest.mark.parametrize(("patches", "r", "merge_from", "model_options"), TOFU)
def test_tofu(oracle, encoder_oracle, vit, shapes, patches, r, merge_from, model_options, preserve_norm):
    model, x = vit(patches, 4, **model_options)
    results = [encoder_oracle.vit_tofu(oracle, model, image, r, merge_from, preserve_norm) for image in x]
    check(model, x, results, "tofu", shapes, r=r, merge_from=merge_from, preserve_norm=preserve_norm)


@torch.no_grad()
def test_tofu_merges_from_half_of_the_depth_on(oracle, encoder_oracle, vit, shapes):
    model, x = vit((6, 6), 5, seed=4)
    results = [encoder_oracle.vit_tofu(oracle, model, image, [5] * 5, 2) for image in x]
    check(model, x, results, "tofu", shapes, r=5)


@torch.no_grad()
def test_tofu_that_merges_everywhere_to_means_is_tome(vit):
    model, x = vit((6, 6), 4)
    with tokenreduce.attach(model, "tome", r=5):
        expected = model(x)
    with tokenreduce.attach(model, "tofu", r=5, merge_from=0, preserve_norm=False):
        assert torch.equal(model(x), expected)


DIFFRATE = [
    # patches, pruned and merged in each block, options of the model, options of the method
    ((6, 6), [0, 2, 4, 6], [3, 0, 5, 2], {}, {}),
    ((6, 6), [5, 5, 5, 5], [0, 0, 0, 0], {}, {}),
    ((6, 6), [0, 0, 0, 0], [5, 5, 5, 5], {}, {"similarity": "keys"}),
    ((5, 5), [3, 0, 2, 1], [10, 2, 3, 2], {"reg_tokens": 2}, {}),  # more merge than are left to merge into
    ((5, 5), [0, 4, 0, 0], [20, 0, 0, 0], {}, {"similarity": "keys", "proportional_attention": False}),
]


@torch.no_grad()
@pytest.mark.parametrize(("patches", "prune", "merge", "model_options", "options"), DIFFRATE)
def test_diffrate(oracle, encoder_oracle, vit, shapes, patches, prune, merge, model_options, options):
    model, x = vit(patches, 4, **model_options)
    told = {"proportional" if name == "proportional_attention" else name: value for name, value in options.items()}
    results = [encoder_oracle.vit_diffrate(oracle, model, image, prune, merge, **told) for image in x]
    check(model, x, results, "diffrate", shapes, prune=prune, merge=merge, **options)


@torch.no_grad()
def test_diffrate_always_leaves_a_patch_to_merge_into(oracle, encoder_oracle, vit, shapes):
    model, x = vit((4, 4), 3)
    results = [encoder_oracle.vit_diffrate(oracle, model, image, [0, 1, 0], [4, 10, 0]) for image in x]
    check(model, x, results, "diffrate", shapes, prune=[0, 1, 0], merge=[4, 99, 99])


@torch.no_grad()
def test_float32_models_agree_too(oracle, encoder_oracle, vit):
    model, x = vit((6, 6), 4)
    model, x = model.float(), x.float()
    cases = {
        "pitome": ({"keep": 0.8}, encoder_oracle.vit_pitome(oracle, model, x[0], [0.8] * 4)),
        "tofu": ({"r": 5}, encoder_oracle.vit_tofu(oracle, model, x[0], [5] * 4, 2)),
        "diffrate": ({"prune": 2, "merge": 3}, encoder_oracle.vit_diffrate(oracle, model, x[0], [2] * 4, [3] * 4)),
    }
    for name, (options, result) in cases.items():
        with tokenreduce.attach(model, name, **options):
            torch.testing.assert_close(model(x)[0], result.logits, rtol=1e-4, atol=1e-4)
