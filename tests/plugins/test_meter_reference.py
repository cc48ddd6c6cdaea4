"""METER: the published numbers, and PuMer on it against the slow re-implementation in oracle.py."""

import itertools

import pytest
import torch
from transformers import RobertaConfig

import tokenreduce

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def meter(reference):
    """Load a reference METER: (model, inputs, configuration, outputs)."""
    from tokenreduce_models.meter import MeterConfig, MeterForQuestionAnswering

    def load(name):
        config, weights, io = reference(name)
        text = RobertaConfig(
            vocab_size=config["vocab"],
            hidden_size=config["text_width"],
            num_hidden_layers=config["text_layers"],
            num_attention_heads=config["text_heads"],
            intermediate_size=4 * config["text_width"],
            max_position_embeddings=config["max_text_len"] + 2,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        )
        model = MeterForQuestionAnswering(
            MeterConfig(
                text_config=text,
                image_size=config["image"],
                patch_size=config["patch"],
                vision_hidden_size=config["vision_width"],
                vision_layers=config["vision_layers"],
                vision_heads=config["vision_heads"],
                hidden_size=config["hidden_size"],
                num_attention_heads=config["num_heads"],
                num_top_layer=config["num_top_layer"],
                num_labels=config["labels"],
                level_order="sequential" if "image_layer_attends_to" in config else "parallel",
            )
        ).eval()
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not missing
        assert all(name.startswith("text_transformer.pooler.") for name in unexpected)
        inputs = {key: io[key] for key in ("input_ids", "attention_mask")}
        return model, {**inputs, "pixel_values": io["pixel_values"].float()}, config, io

    return load


@torch.no_grad()
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("attached", [False, True])
def test_meter_without_reduction(attn, attached, meter):
    model, inputs, _, io = meter("meter_base_a")
    model.set_attn_implementation(attn)
    assert not bool(inputs["attention_mask"].all())
    if attached:
        tokenreduce.attach(model, {"cross": "none", "vision": "none", "text": "none"})
    output = model.encode(**inputs)
    torch.testing.assert_close(output.text_features, io["text_feats"], **TOLERANCE)
    torch.testing.assert_close(output.image_features, io["image_feats"], **TOLERANCE)
    torch.testing.assert_close(output.pooler_output, io["cls_feats"], **TOLERANCE)
    torch.testing.assert_close(model(**inputs).logits, io["logits"], **TOLERANCE)


@torch.no_grad()
def test_meter_pumer(meter, flow):
    model, inputs, config, io = meter("meter_pumer_a")
    torch.testing.assert_close(model(**inputs).logits, io["base_logits"], **TOLERANCE)
    with tokenreduce.attach(model, "pumer", protect_class=False) as handle:  # the defaults are the published setting
        assert handle.config["layers"] == config["layer_pairs"]
        assert [handle.config[name] for name in ("prune", "merge", "text_merge")] == [0.2, 0.2, 0.2]
        torch.testing.assert_close(model(**inputs).logits, io["logits"], **TOLERANCE)
        counts = config["text_image_tokens_after_text_layer"]
        assert flow(handle, "text")[1:] == [text for text, _ in counts[:4]]
        assert flow(handle)[1:] == [image for _, image in counts[:4]]
        assert handle.last.tokens == {"text": counts[-1][0], "image": counts[-1][1]}
        torch.testing.assert_close(model.encode(**inputs).pooler_output, io["cls_feats"], **TOLERANCE)
    torch.testing.assert_close(model(**inputs).logits, io["base_logits"], **TOLERANCE)


@torch.no_grad()
def test_by_default_the_class_token_stays_and_is_pooled(meter):
    model, inputs, _, io = meter("meter_pumer_a")
    with tokenreduce.attach(model, "pumer", trace=True) as handle:
        assert (model(**inputs).logits - io["logits"]).abs().max() > 1e-4
        first = handle.last.trace.first["text"]
        for sample in handle.last.trace:
            assert sample[handle.last.tokens["text"]] == [first]
    with tokenreduce.attach(model, "pumer", trace=True, protect_class=False) as handle:
        model(**inputs)
        assert any(sample[handle.last.tokens["text"]] != [first] for sample in handle.last.trace)


@torch.no_grad()
def test_the_oracle_gives_the_published_numbers_too(meter, oracle):
    model, inputs, config, io = meter("meter_pumer_a")
    for sample, pooled in enumerate(io["cls_feats"]):
        ids, image = inputs["input_ids"][sample], inputs["pixel_values"][sample]
        result = oracle.meter_pumer(model, ids, image, config["layer_pairs"])
        torch.testing.assert_close(result.logits, pooled, **TOLERANCE)
        assert [list(pair) for pair in zip(result.text_counts, result.counts, strict=True)] == config[
            "text_image_tokens_after_text_layer"
        ]


CASES = list(itertools.product(["parallel", "sequential"], [False, True], range(2)))
RATIOS = [(0.2, 0.2, 0.2, (0, 1, 2)), (0.3, 0.5, 0.2, (1, 3)), (0.1, 0.0, 0.4, (0, 2)), (0.0, 0.3, 0.0, (1, 2))]


@torch.no_grad()
@pytest.mark.parametrize(("order", "protect", "seed"), CASES)
@pytest.mark.parametrize("ratios", RATIOS, ids=str)
def test_other_sizes_and_ratios(order, protect, seed, ratios, tiny_meter, oracle):
    model, inputs = tiny_meter(seed=seed, level_order=order, image_size=40 if seed else 48)
    model = model.double()
    ids, pixels = inputs["input_ids"], inputs["pixel_values"].double()
    *shares, levels = ratios
    names = ("prune", "merge", "text_merge")
    options = dict(zip(names, shares, strict=True), layers=list(levels), protect_class=protect)
    with tokenreduce.attach(model, "pumer", trace=True, **options) as handle:
        output = model.encode(ids, pixels, None)
        for sample in range(len(ids)):
            expected = oracle.meter_pumer(
                model, ids[sample], pixels[sample], levels, *shares, updated=order == "sequential", protect=protect
            )
            torch.testing.assert_close(output.pooler_output[sample], expected.logits, rtol=1e-6, atol=1e-6)
            assert handle.last.tokens == {"text": expected.text_counts[-1], "image": expected.counts[-1]}
            assert handle.last.trace[sample] == expected.groups


@torch.no_grad()
@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize(
    "stacks", [{"cross": "pumer"}, {"vision": {"reducer": "tome", "r": 3}, "cross": "pumer"}], ids=str
)
def test_padded_text_does_not_change_the_result(order, stacks, tiny_meter):
    """A text in a batch with a longer one: as many text tokens go as for the padded length, so none are merged here."""
    model, inputs = tiny_meter(level_order=order)
    stacks = {**stacks, "cross": {"reducer": "pumer", "text_merge": 0.0}}
    with tokenreduce.attach(model, stacks):
        together = model(**inputs).logits
        short = int(inputs["attention_mask"][1].sum())
        alone = model(inputs["input_ids"][1:, :short], inputs["pixel_values"][1:]).logits
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)


PUBLISHED = {  # image pixels, text tokens, levels, ratios, image tokens and text tokens at each site
    "VQAv2": (384, 32, [0, 1, 2, 3], (0.2, 0.2), [577, 347, 209, 125, 75], [32, 26, 21, 17, 14]),
    "SNLI-VE": (384, 40, [0, 1, 2, 3], (0.3, 0.5), [577, 203, 72, 26, 10], [40, 32, 26, 21, 17]),
    "NLVR2": (288, 40, [1, 2, 3], (0.3, 0.5), [325, 114, 41, 15], [40, 32, 26, 21]),
}


@torch.no_grad()
@pytest.mark.parametrize("protect", [False, True])
@pytest.mark.parametrize("task", PUBLISHED)
def test_published_token_counts(task, protect, tiny_meter, flow):
    pixels, words, levels, (prune, merge), image, text = PUBLISHED[task]
    model, _ = tiny_meter(image_size=pixels, patch_size=16, num_top_layer=6, vision_layers=2)
    model.text_transformer.embeddings.position_embeddings = torch.nn.Embedding(64, 32)
    model.text_transformer.embeddings.register_buffer("token_type_ids", torch.zeros(1, 64, dtype=torch.long))
    with tokenreduce.attach(model, "pumer", layers=levels, prune=prune, merge=merge, protect_class=protect) as handle:
        model(torch.full((1, words), 5), torch.randn(1, 3, pixels, pixels))
        assert flow(handle) == image
        assert flow(handle, "text") == text
