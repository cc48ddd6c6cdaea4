"""The plugins on whole models against the slow re-implementations in oracle.py, in float64."""

import pytest
import torch

import tokenreduce

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def same(handle, output, results):
    """Outputs, sources, sizes and counts of each sample are the oracle's."""
    trace = handle.last.trace
    for sample, result in enumerate(results):
        assert trace[sample] == result.groups
        torch.testing.assert_close(output[sample], result.logits, **TOLERANCE)
        if result.sizes is not None:
            assert trace.size[sample].tolist() == result.sizes.tolist()


TOME = [
    # image height and width in patches, r, blocks, options of the model
    ((6, 6), 5, 4, {}),  # 37 tokens: odd
    ((7, 5), 4, 4, {}),  # 36 tokens: even
    ((4, 4), 100, 5, {}),  # capped at half in every block
    ((6, 6), (6, -1.0), 4, {}),
    ((6, 6), (6, 1.0), 4, {}),
    ((6, 5), (5, 0.3), 6, {}),
    ((6, 6), [0, 9, 0, 3], 5, {}),
    ((3, 3), [1, 1, 1, 1], 4, {}),
    ((6, 6), 5, 4, {"distilled": True}),  # 38 tokens
    ((5, 5), 100, 4, {"distilled": True}),  # 27 tokens, capped
    ((6, 6), 5, 4, {"class_token": False, "global_pool": "avg"}),  # 36 tokens
    ((5, 5), 100, 4, {"class_token": False, "global_pool": "avg"}),  # 25 tokens, capped
    ((6, 6), 6, 4, {"class_token": True, "global_pool": "avg", "fc_norm": True}),
    ((6, 6), 6, 4, {"class_token": True, "global_pool": "avg", "fc_norm": False}),
    ((5, 5), [4, 0, 6], 4, {"class_token": False, "global_pool": "avg", "fc_norm": False}),
]


def schedule(r, depth):
    if isinstance(r, list):
        return r + [0] * (depth - len(r))
    if isinstance(r, int):
        return [r] * depth
    low = int(r[0] * (1 - r[1]))
    return [int(low + (2 * r[0] - 2 * low) / (depth - 1) * layer) for layer in range(depth)]


@pytest.fixture
def vit(tiny_vit, images):
    """A random float64 ViT and images for it, from patches (height, width), depth and the model's options."""

    def build(patches, depth, seed=0, **options):
        from timm.models.deit import VisionTransformerDistilled

        cls = VisionTransformerDistilled if options.pop("distilled", False) else None
        height, width = (8 * side for side in patches)
        model = tiny_vit(cls, seed=seed, img_size=(height, width), depth=depth, **options).double()
        return model, images(3, height, width, seed=seed + 1).double()

    return build


@torch.no_grad()
@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize(("patches", "r", "depth", "options"), TOME)
def test_tome(oracle, vit, shapes, patches, r, depth, options, proportional):
    model, x = vit(patches, depth, **options)
    seen = shapes(model.blocks)
    handle = tokenreduce.attach(model, "tome", r=r, proportional_attention=proportional, trace=True)
    results = [oracle.vit_tome(model, image, schedule(r, depth), proportional) for image in x]
    same(handle, model(x), results)
    assert seen == results[0].counts


@torch.no_grad()
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tome_on_other_weights(oracle, vit, seed):
    model, x = vit((6, 6), 5, seed=seed, embed_dim=48)
    handle = tokenreduce.attach(model, "tome", r=6, trace=True)
    same(handle, model(x), [oracle.vit_tome(model, image, [6] * 5, True) for image in x])


@torch.no_grad()
def test_tome_in_chosen_layers(oracle, vit):
    model, x = vit((6, 6), 5)
    handle = tokenreduce.attach(model, "tome", r=[7, 3], layers=[3, 1], trace=True)
    same(handle, model(x), [oracle.vit_tome(model, image, [0, 7, 0, 3, 0], True) for image in x])


@torch.no_grad()
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(
    ("patches", "keep", "seed"),
    [
        ((6, 6), [1.0, 0.7, 0.7, 0.7], 0),
        ((7, 5), [0.5, 1.0, 0.5, 1.0], 1),
        ((5, 5), [0.9, 0.9, 0.9, 0.9], 2),
        ((6, 6), [0.01, 1.0, 1.0, 1.0], 3),  # one token stays
        ((4, 4), [0.99, 0.99, 0.99, 1.0], 4),  # rounds up to all: nothing happens, no fused token
        ((6, 5), [0.31, 0.62, 0.93], 5),
    ],
)
def test_evit(oracle, vit, shapes, patches, keep, seed, fuse):
    model, x = vit(patches, 4, seed=seed)
    seen = shapes(model.blocks)
    handle = tokenreduce.attach(model, "evit", keep=keep, fuse=fuse, trace=True)
    rates = keep + [1.0] * (4 - len(keep))
    results = [oracle.vit_evit(model, image, rates, fuse) for image in x]
    output = model(x)
    for sample, result in enumerate(results):
        assert handle.last.trace[sample] == result.groups
        torch.testing.assert_close(output[sample], result.logits, **TOLERANCE)
    if fuse:
        assert handle.last.trace.size.tolist() == [result.sizes.tolist() for result in results]
    assert seen == results[0].counts


@torch.no_grad()
def test_evit_default_layers(oracle, vit):
    model, x = vit((6, 6), 12)
    handle = tokenreduce.attach(model, "evit", trace=True)
    rates = [0.7 if layer in (3, 6, 9) else 1.0 for layer in range(12)]
    output = model(x)
    for sample, image in enumerate(x):
        result = oracle.vit_evit(model, image, rates, True)
        assert handle.last.trace[sample] == result.groups
        torch.testing.assert_close(output[sample], result.logits, **TOLERANCE)


PUMER = [
    # pixels, text tokens, blocks, layers, (prune, merge, text_merge)
    (48, 8, 6, [1, 3, 4], (0.1, 0.3, 0.2)),  # 37 image tokens: odd
    (40, 7, 6, [1, 3, 4], (0.1, 0.3, 0.2)),  # 26 image tokens: even, odd text
    (48, 16, 6, [0, 2, 4], (0.2, 0.2, 0.2)),
    (48, 12, 4, [0, 1, 2, 3], (0.3, 0.5, 0.2)),  # the cap binds every time
    (48, 9, 4, [2], (0.5, 0.0, 0.2)),  # no image merging
    (48, 9, 4, [2], (0.1, 0.3, 0.0)),  # no text merging
    (48, 9, 4, [1], (0.9, 1.0, 1.0)),
    (16, 5, 4, [0, 1, 2, 3], (0.1, 0.3, 0.2)),  # round(0.1 * 5) = 0: skipped whole, text too
    (24, 5, 4, [0, 1, 2, 3], (0.1, 0.4, 0.5)),  # acts once, then skipped
    (48, 2, 4, [0, 2], (0.2, 0.2, 0.5)),  # two text tokens: nothing to merge there
    (48, 1, 4, [0, 2], (0.2, 0.2, 0.5)),
    (48, 8, 4, [0, 2], (0.0, 0.3, 0.2)),  # merging alone, in sequence order
    (48, 8, 4, [0, 2], (0.0, 1.0, 1.0)),
]


@pytest.fixture
def vilt(tiny_vilt, vilt_inputs):
    """A random float64 ViLT and inputs for it."""

    def build(pixels, text, depth, seed=0, **config):
        model = tiny_vilt(seed=seed, image_size=pixels, num_hidden_layers=depth, max_image_length=-1, **config).double()
        inputs = vilt_inputs(3, text, pixels, pixels, seed=seed + 1)
        return model, {**inputs, "pixel_values": inputs["pixel_values"].double()}

    return build


def check_pumer(oracle, model, inputs, handle, layers, ratios, seen):
    output = model(**inputs).logits
    hidden = model.vilt(**inputs).last_hidden_state
    trace = handle.last.trace
    for sample, (ids, image) in enumerate(zip(inputs["input_ids"], inputs["pixel_values"], strict=True)):
        result = oracle.vilt_pumer(model, ids, image, layers, *ratios)
        assert trace[sample] == result.groups
        torch.testing.assert_close(output[sample], result.logits, **TOLERANCE)
        torch.testing.assert_close(hidden[sample], result.tokens, **TOLERANCE)
    counts = zip(result.text_counts, result.counts, strict=True)
    assert seen[: len(result.counts)] == [text + image for text, image in counts]
    return result


@torch.no_grad()
@pytest.mark.parametrize(("pixels", "text", "depth", "layers", "ratios"), PUMER)
def test_pumer(oracle, vilt, shapes, pixels, text, depth, layers, ratios):
    model, inputs = vilt(pixels, text, depth)
    seen = shapes(model.vilt.encoder.layer)
    options = dict(zip(("prune", "merge", "text_merge"), ratios, strict=True))
    handle = tokenreduce.attach(model, "pumer", layers=layers, trace=True, **options)
    check_pumer(oracle, model, inputs, handle, layers, ratios, seen)


@torch.no_grad()
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pumer_on_other_weights(oracle, vilt, shapes, seed):
    model, inputs = vilt(56, 11, 12, seed=seed, hidden_size=48)
    seen = shapes(model.vilt.encoder.layer)
    handle = tokenreduce.attach(model, "pumer", trace=True)
    check_pumer(oracle, model, inputs, handle, [2, 5, 8], (0.1, 0.3, 0.2), seen)


@torch.no_grad()
@pytest.mark.parametrize(
    ("pixels", "text", "ratios"),
    [(48, 8, (0.1, 0.3, 0.2)), (40, 11, (0.2, 0.5, 0.5)), (48, 8, (0.3, 0.0, 0.0)), (48, 16, (0.05, 0.1, 0.4))],
)
def test_pumer_over_both_modalities_at_once(oracle, vilt, shapes, pixels, text, ratios):
    model, inputs = vilt(pixels, text, 5)
    seen = shapes(model.vilt.encoder.layer)
    options = dict(zip(("prune", "merge", "text_merge"), ratios, strict=True))
    handle = tokenreduce.attach(model, "pumer", layers=[0, 2, 3], modality_aware=False, trace=True, **options)
    output = model(**inputs).logits
    for sample, (ids, image) in enumerate(zip(inputs["input_ids"], inputs["pixel_values"], strict=True)):
        result = oracle.vilt_joint(model, ids, image, [0, 2, 3], *ratios)
        assert handle.last.trace[sample] == result.groups
        torch.testing.assert_close(output[sample], result.logits, **TOLERANCE)
    assert seen == result.counts


@torch.no_grad()
def test_pumer_golden_counts_are_the_oracles(oracle, vilt, shapes):
    model, inputs = vilt(96, 32, 9)  # 145 image tokens
    inputs = {name: value[:1] for name, value in inputs.items()}
    seen = shapes(model.vilt.encoder.layer)
    handle = tokenreduce.attach(model, "pumer", layers=[2, 4, 6, 8], trace=True)
    result = check_pumer(oracle, model, inputs, handle, [2, 4, 6, 8], (0.1, 0.3, 0.2), seen)
    assert result.counts == [145, 145, 87, 87, 52, 52, 31, 31, 19]
    assert result.text_counts == [32, 32, 26, 26, 21, 21, 17, 17, 14]


@torch.no_grad()
def test_float32_models_agree_too(oracle, vit, vilt):
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    model, x = vit((6, 6), 4)
    model, x = model.float(), x.float()
    with tokenreduce.attach(model, "tome", r=5):
        torch.testing.assert_close(model(x)[0], oracle.vit_tome(model, x[0], [5] * 4, True).logits, **tolerance)
    with tokenreduce.attach(model, "evit", keep=[0.7] * 4):
        torch.testing.assert_close(model(x)[0], oracle.vit_evit(model, x[0], [0.7] * 4, True).logits, **tolerance)
    model, inputs = vilt(48, 8, 4)
    model, inputs["pixel_values"] = model.float(), inputs["pixel_values"].float()
    with tokenreduce.attach(model, "pumer", layers=[1, 2]):
        result = oracle.vilt_pumer(model, inputs["input_ids"][0], inputs["pixel_values"][0], [1, 2])
        torch.testing.assert_close(model(**inputs).logits[0], result.logits, **tolerance)
