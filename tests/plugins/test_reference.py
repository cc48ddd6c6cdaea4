"""The numbers of the methods' published implementations."""

import pytest
import torch

import tokenreduce

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def vit(reference):
    """Load a reference ViT: (model, images, configuration, outputs)."""
    from timm.models.vision_transformer import VisionTransformer

    def load(name):
        config, weights, io = reference(name)
        names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")
        model = VisionTransformer(**{key: config[key] for key in names}).eval()
        model.load_state_dict(weights)
        return model, io["pixel_values"].float(), config, io

    return load


@pytest.fixture(scope="module")
def vilt(reference):
    """The reference ViLT: (model, inputs, configuration, outputs)."""
    from transformers import ViltConfig, ViltForQuestionAnswering

    config, weights, io = reference("vilt_pumer_a")
    model = ViltForQuestionAnswering(
        ViltConfig(
            hidden_size=config["hidden"],
            num_attention_heads=config["heads"],
            num_hidden_layers=config["layers"],
            intermediate_size=4 * config["hidden"],
            vocab_size=config["vocab"],
            num_labels=config["labels"],
            image_size=config["model_image_size"],
            patch_size=config["patch"],
            layer_norm_eps=1e-6,
            max_image_length=-1,
        )
    ).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    inputs = {name: io[name] for name in ("input_ids", "attention_mask")}
    return model, {**inputs, "pixel_values": io["pixel_values"].float()}, config, io


def reduction_of(config):
    if "keep_rate" in config:
        return {"reducer": "evit", "keep": [float(k) for k in config["keep_rate"]], "fuse": config["fuse_token"]}
    return {"reducer": "tome", "r": config["r"], "proportional_attention": config["prop_attn"]}


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tome_a", "vit_tome_c", "vit_evit_a"])
def test_vit(name, vit, shapes, flow):
    model, images, config, io = vit(name)
    torch.testing.assert_close(model(images), io["base_logits"], **TOLERANCE)
    seen = shapes(model.blocks)
    with tokenreduce.attach(model, **reduction_of(config), trace=True) as handle:
        logits = model(images)
        torch.testing.assert_close(logits, io["logits"], **TOLERANCE)
        assert seen == config["tokens_after_block"]
        assert flow(handle)[1:] == config["tokens_after_block"]
        if "source" in io:
            assert torch.equal(handle.last.trace.source, io["source"])
            assert torch.equal(handle.last.trace.size, io["size"])
    assert (logits - io["base_logits"]).abs().max() > 1e-2  # the reduction changes something
    torch.testing.assert_close(model(images), io["base_logits"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tome_a", "vit_tome_c", "vit_evit_a"])
def test_vit_one_by_one(name, vit):
    model, images, config, io = vit(name)
    with tokenreduce.attach(model, **reduction_of(config)):
        logits = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(logits, io["logits"], **TOLERANCE)


@torch.no_grad()
def test_vilt_pumer(vilt, shapes, flow):
    model, inputs, config, io = vilt
    torch.testing.assert_close(model(**inputs).logits, io["base_logits"], **TOLERANCE)
    seen = shapes(model.vilt.encoder.layer)
    with tokenreduce.attach(model, "pumer") as handle:  # the defaults are the published setting
        assert handle.config["layers"] == config["reduction"]["reduce_layers"]
        output = model(**inputs)
        assert seen == config["tokens_after_block"]
        texts = config["text_tokens_after_block"]
        assert flow(handle, "text") == [config["text_len"], *(texts[layer] for layer in handle.config["layers"])]
        counts = [total - text for total, text in zip(seen, texts, strict=True)]
        assert flow(handle) == [counts[0], *(counts[layer] for layer in handle.config["layers"])]
        inner = model.vilt(**inputs)
    torch.testing.assert_close(output.logits, io["logits"], **TOLERANCE)
    torch.testing.assert_close(inner.pooler_output, io["pooled"], **TOLERANCE)
    text = io["text_feats"].shape[1]
    torch.testing.assert_close(inner.last_hidden_state[:, :text], io["text_feats"], **TOLERANCE)
    torch.testing.assert_close(inner.last_hidden_state[:, text:], io["image_feats"], **TOLERANCE)


@torch.no_grad()
def test_vilt_pumer_spelled_out_and_with_an_all_ones_pixel_mask(vilt):
    model, inputs, config, io = vilt
    wanted = config["reduction"]
    options = {"prune": wanted["prune_r"], "merge": wanted["merge_r"], "text_merge": wanted["merge_text"]}
    mask = torch.ones_like(inputs["pixel_values"][:, 0], dtype=torch.long)
    with tokenreduce.attach(model, "pumer", layers=wanted["reduce_layers"], saliency="text", **options):
        torch.testing.assert_close(model(**inputs, pixel_mask=mask).logits, io["logits"], **TOLERANCE)


@torch.no_grad()
def test_the_oracle_gives_the_published_numbers_too(oracle, vit, vilt):
    for name in ("vit_tome_c", "vit_evit_a"):
        model, images, config, io = vit(name)
        if "keep_rate" in config:
            result = oracle.vit_evit(model, images[0], config["keep_rate"], config["fuse_token"])
        else:
            r = config["r"] + [0] * (config["depth"] - len(config["r"]))
            result = oracle.vit_tome(model, images[0], r, config["prop_attn"])
            assert torch.equal(result.sizes, io["size"][0])
        assert result.counts == config["tokens_after_block"]
        torch.testing.assert_close(result.logits, io["logits"][0], **TOLERANCE)
    model, inputs, config, io = vilt
    layers = config["reduction"]["reduce_layers"]
    result = oracle.vilt_pumer(model, inputs["input_ids"][0], inputs["pixel_values"][0], layers, eps=1e-6)
    torch.testing.assert_close(result.logits, io["logits"][0], **TOLERANCE)
    torch.testing.assert_close(result.tokens, torch.cat([io["text_feats"][0], io["image_feats"][0]]), **TOLERANCE)
