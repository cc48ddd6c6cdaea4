"""BridgeTower: every reducer on it, its bridges, its heads, and all of it again in an ordinary loop."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from transformers import BridgeTowerConfig, BridgeTowerForContrastiveLearning, BridgeTowerForMaskedLM, BridgeTowerModel

import tokenreduce
from tokenreduce.errors import LayerError, UnfitReducerError, UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.transformers.bridgetower import BridgeTower

from ..helpers import assert_same_gradients, gradients

MAKERS = BridgeTower().examples()
MASKED, MODEL = "BridgeTowerForMaskedLM", "BridgeTowerModel"
SHRINKING = {"tome": {"r": 3}, "evit": {"keep": 0.6}, "random": {"keep": 0.6}, "pumer": {}}
TEXT = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 64}
TEXT |= {"vocab_size": 60, "max_position_embeddings": 16, "initializer_factor": 1}
VISION = {"hidden_size": 64, "num_hidden_layers": 5, "patch_size": 8, "image_size": 48}


@functools.cache
def made_once(label):
    return MAKERS[label]()


def build(label):
    return copy.deepcopy(made_once(label))


@pytest.fixture(params=MAKERS)
def example(request):
    return build(request.param)


def bridgetower(model):
    return getattr(model, "bridgetower", model)


def flat(output, real=None):
    """The tensors of an output, its texts without their padding."""
    tensors = {key: value for key, value in output.items() if isinstance(value, torch.Tensor)}
    if real is None:
        return tensors
    return {key: t[real] if t.shape[:2] == real.shape else t for key, t in tensors.items()}


@torch.no_grad()
def test_layers_are_levels():
    example = build(MODEL)
    model = example.model
    with tokenreduce.attach(model, "pumer", layers=[0, 3]) as handle:
        model(**example.inputs)
        assert {row.layer for row in handle.last.sites} == {0, 3}
    with pytest.raises(LayerError, match=r"0\.\.3"):
        tokenreduce.attach(model, "pumer", layers=[4])
    for stack in ("text", "vision"):
        with pytest.raises(UnsupportedModelError, match="bridge"):
            tokenreduce.attach(model, {stack: "tome"})


class Reduced:
    """One sequence of one sample in the loop below: its tokens and what was done to it so far."""

    def __init__(self, x):
        self.x, self.steps, self.members = x, [], [[token] for token in range(len(x))]

    def reduce(self, oracle, x, groups, weight=None):
        """``x`` (N, C) with groups of tokens averaged, by weight if asked; the same is done to later bridges."""
        self.steps.append((groups, weight))
        self.members = oracle.gather(self.members, groups)
        return average(x, groups, weight)

    def follow(self, x, steps=0):
        for groups, weight in self.steps[steps:]:
            x = average(x, groups, weight)
        return x

    def sizes(self):
        return torch.tensor([float(len(group)) for group in self.members], dtype=self.x.dtype)


def average(x, groups, weight=None):
    weight = torch.ones(len(x), dtype=x.dtype) if weight is None else weight
    return torch.stack([sum(weight[t] * x[t] for t in g) / sum(weight[t] for t in g) for g in groups])


def loop(oracle, model, ids, pixels, levels, method, **options):
    """BridgeTower on one sample, written out: what the library's forward does, with tokens merged in between."""
    text_layers = model.text_model.encoder.layer
    blocks = model.vision_model.visual.transformer.resblocks
    split = len(text_layers) - model.config.num_hidden_layers
    kinds = model.token_type_embeddings.weight
    own_text, own_image = model.text_model.embeddings(input_ids=ids), model.vision_model.visual.forward_pre(pixels)
    text = image = None
    for depth in range(len(text_layers)):
        own_text, own_image = text_layers[depth](own_text), blocks[depth](own_image)
        if depth < split:
            continue
        level = depth - split
        bridge = model._apply_text_transform(own_text, level)[0] + kinds[0]
        other = model._apply_image_transform(model.vision_model.visual.forward_post(own_image), level)[0] + kinds[1]
        if level == 0:
            text = Reduced(model.cross_modal_text_layernorm(bridge))
            image = Reduced(model.cross_modal_image_layernorm(other))
        else:
            bridge, other = text.follow(bridge), image.follow(other)
            text.x = model.cross_modal_text_link_tower[level - 1](bridge, text.x, None)
            image.x = model.cross_modal_image_link_tower[level - 1](other, image.x, None)
        acts = level in levels
        log_size = image.sizes().log() if method == "tome" else None
        old, steps = text.x, len(text.steps)
        block = model.cross_modal_text_layers[level]
        x = block.attention(text.x[None])[0]
        y = block.crossattention(x, None, image.x[None], log_size)
        x, maps = y[0][0], y[1][0]
        if acts and method == "pumer":
            groups, source = pumer_groups(oracle, block, image.x, maps, **options)
            image.x = image.reduce(oracle, image.x, [[source[i] for i in group] for group in groups])
            keys = heads(block.attention.self, block.attention.self.key(old))
            groups = oracle.match(keys, round(options["text_merge"] * len(old)), class_token=True)
            x = text.reduce(oracle, x, groups)
        text.x = block.feed_forward_chunk(x)
        block = model.cross_modal_image_layers[level]
        entered = image.x
        x = block.attention(entered[None], log_size)[0]
        x = block.crossattention(x, None, text.follow(old, steps)[None])[0][0]
        if acts and method == "tome":
            keys = heads(block.attention.self, block.attention.self.key(entered))
            groups = oracle.match(keys, options["r"], class_token=True)
            x = image.reduce(oracle, x, groups, image.sizes())
        image.x = block.feed_forward_chunk(x)
    return text, image


def pumer_groups(oracle, block, image, maps, prune, merge, text_merge):
    order = [0, *(token for token in oracle.falling(maps.mean(dim=(0, 1))) if token != 0)]
    order = order[: len(image) - round(prune * len(image))]
    keys = heads(block.crossattention.self, block.crossattention.self.key(image))
    return oracle.match(keys[order], round(merge * len(image)), class_token=True), order


def heads(attention, keys):
    return keys.unflatten(-1, (attention.num_attention_heads, -1)).mean(dim=-2)


def other_model(levels=4, **changes):
    text, vision = ({**config, "num_hidden_layers": levels + 1} for config in (TEXT, VISION))
    config = BridgeTowerConfig(
        hidden_size=32,
        num_hidden_layers=levels,
        num_attention_heads=2,
        text_config=text,
        vision_config=vision,
        **changes,
    )
    torch.manual_seed(0)
    model = BridgeTowerModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim != 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


SHAPES = {
    "shared": {},
    "own transforms": {"share_cross_modal_transformer_layers": False, "link_tower_type": "scaled_add"},
    "interpolated": {"link_tower_type": "interpolate"},
}
CASES = [
    ("pumer", [0, 1, 2], {"prune": 0.2, "merge": 0.2, "text_merge": 0.2}),
    ("pumer", [1, 3], {"prune": 0.3, "merge": 0.1, "text_merge": 0.4}),
    ("tome", [0, 1, 2, 3], {"r": 5}),
    ("tome", [0, 2], {"r": 8}),
]


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "levels", "options", "shape"),
    [*((*case, "shared") for case in CASES), (*CASES[1], "own transforms"), (*CASES[3], "interpolated")],
)
def test_the_same_as_an_ordinary_loop_over_the_librarys_parts(method, levels, options, shape, oracle):
    model = other_model(**SHAPES[shape]).double()
    ids = torch.randint(3, 60, (2, 11))
    pixels = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    with tokenreduce.attach(model, method, layers=levels, trace=True, **options) as handle:
        got, trace = model(input_ids=ids, pixel_values=pixels), handle.last.trace
    for sample in range(2):
        one = slice(sample, sample + 1)
        text, image = loop(oracle, model, ids[one], pixels[one], levels, method, **options)
        members = [sorted(group) for group in text.members] + [sorted(t + 11 for t in g) for g in image.members]
        assert trace[sample] == members
        whole = torch.empty(11, 32, dtype=torch.float64)
        for value, group in zip(text.x, text.members, strict=True):
            whole[group] = value
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(got.text_features[sample], whole, **close)
        torch.testing.assert_close(got.image_features[sample], image.x, **close)
        pooled = model.get_cls_features(text.x[None], image.x[None])[0]
        torch.testing.assert_close(got.pooler_output[sample], pooled, **close)
    assert not torch.allclose(got.pooler_output, model(input_ids=ids, pixel_values=pixels).pooler_output, atol=1e-3)


@torch.no_grad()
def test_every_text_token_has_a_position_where_each_is_read():
    for label, text in ((MASKED, "logits"), (MODEL, "text_features")):
        made = build(label)
        plain = made.model(**made.inputs)[text]
        with tokenreduce.attach(made.model, "pumer", text_merge=0.4, trace=True) as handle:
            got = made.model(**made.inputs)[text]
            assert handle.last.tokens["text"] < 12
            ends = handle.last.trace.stream("text")
        assert got.shape == plain.shape
        for sample, row in enumerate(ends):  # tokens that were merged say the same
            for end in row[row >= 0].unique():
                values = got[sample][row == end]
                assert torch.equal(values, values[:1].expand_as(values))


@torch.no_grad()
def test_restore_brings_both_sequences_back_or_leaves_both():
    made = build(MODEL)
    with tokenreduce.attach(made.model, "pumer", restore=True):
        whole = made.model(**made.inputs)
    assert (whole.text_features.shape[1], whole.image_features.shape[1]) == (12, 37)
    with tokenreduce.attach(made.model, "pumer", restore=False) as handle:
        short = made.model(**made.inputs)
        assert (short.text_features.shape[1], short.image_features.shape[1]) == tuple(handle.last.tokens.values())
    assert torch.equal(whole.pooler_output, short.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tome", "evit", "pumer"])
def test_padding_decides_nothing(name, assert_close):
    """What padding contains changes nothing, and a sample of full length is the same without a mask."""
    made = build(MODEL)
    model, inputs = made.model, made.inputs
    real = inputs["attention_mask"].bool()
    with tokenreduce.attach(model, name, **SHRINKING[name]):
        expected = flat(model(**inputs), real)
        noise = torch.where(real, inputs["input_ids"], torch.randint_like(inputs["input_ids"], 3, 60))
        # RoBERTa counts positions from its padding token, so real tokens must stay in front
        got = flat(model(**{**inputs, "input_ids": noise}), real)
        for key in expected:
            assert_close(got[key], expected[key])
        full = {key: value[:1] for key, value in inputs.items() if key != "attention_mask"}
        assert_close(model(**full).pooler_output, expected["pooler_output"][:1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["pumer", "tome"])
def test_image_embeds_and_tuples(name, assert_close):
    made = build(MODEL)
    model, inputs = made.model, made.inputs
    embeds = model.vision_model.visual.forward_pre(inputs["pixel_values"]).permute(1, 0, 2)
    given = {**inputs, "image_embeds": embeds}
    del given["pixel_values"]
    with tokenreduce.attach(model, name):
        expected = model(**inputs)
        assert_close(model(**given).pooler_output, expected.pooler_output)
        found = model(**inputs, return_dict=False)
        assert isinstance(found, tuple)
        assert torch.equal(found[2], expected.pooler_output)
    model.config.return_dict = False
    with tokenreduce.attach(model, name):
        assert isinstance(model(**inputs), tuple)
        assert not isinstance(model(**inputs, return_dict=True), tuple)


@torch.no_grad()
@pytest.mark.sweep
def test_compiles_without_a_break():
    model, inputs = other_model(2), build(MODEL).inputs
    tokenreduce.attach(model, "pumer", layers=[0, 1])
    expected = model(**inputs)
    torch._dynamo.reset()
    got = torch.compile(model, fullgraph=True, backend="eager")(**inputs)
    for key, value in flat(expected).items():
        torch.testing.assert_close(got[key], value, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_copies_and_pickles_are_independent():
    example = build(MASKED)
    model, inputs = example.model, example.inputs
    plain = flat(model(**inputs))
    tokenreduce.attach(model, "pumer")
    expected = flat(model(**inputs))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        own = tokenreduce.attachment(twin)
        assert own is not None and own.model is twin
        assert all(torch.equal(value, expected[key]) for key, value in flat(twin(**inputs)).items())
        own.detach()
        assert all(torch.equal(value, plain[key]) for key, value in flat(twin(**inputs)).items())
        assert all(torch.equal(value, expected[key]) for key, value in flat(model(**inputs)).items())


def loss(model, inputs):
    tensors = flat(model(**inputs)).values()
    return sum((t * torch.linspace(-1, 1, t.numel()).view(t.shape)).sum() for t in tensors)


@pytest.mark.parametrize(("name", "options"), [("none", {}), *((name, SHRINKING[name]) for name in SHRINKING)])
def test_gradients_in_training(name, options):
    made = build(MASKED)
    model, inputs = made.model, made.inputs
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    plain = gradients(model, loss(model, inputs))
    with tokenreduce.attach(model, name, **options):
        assert all(module.training for module in model.modules())
        found = gradients(model, loss(model, inputs))
    assert found.keys() == plain.keys()
    for key, gradient in found.items():
        assert gradient.isfinite().all()
        if "link_tower" in key or plain[key].abs().max() > 1e-4:
            assert gradient.abs().max() > 0, key
    assert any("link_tower" in key for key in found)
    if name == "none":
        assert_same_gradients(found, plain)


def test_checkpointed_text_layers_of_the_tower_give_the_same_gradients():
    made = build(MODEL)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    made.model.train()
    with tokenreduce.attach(made.model, "pumer"):
        plain = gradients(made.model, loss(made.model, made.inputs))
        for layer in made.model.text_model.encoder.layer:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = lambda f, *args: torch.utils.checkpoint.checkpoint(
                f, *args, use_reentrant=False
            )
        again = gradients(made.model, loss(made.model, made.inputs))
    assert_same_gradients(again, plain)


class TestRefused:
    def test_contrastive_learning(self):
        config = build(MODEL).model.config
        config.contrastive_hidden_size, config.logit_scale_init_value = 16, 2.6
        model = BridgeTowerForContrastiveLearning(config)
        with pytest.raises(UnsupportedModelError, match="hidden states of both towers"):
            tokenreduce.attach(model, "pumer")
        assert tokenreduce.attachment(model) is None

    @pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
    def test_outputs_that_a_reduced_pass_does_not_have(self, name):
        example = build(MODEL)
        reason = {"output_hidden_states": "both towers", "output_attentions": "fused"}[name]
        with tokenreduce.attach(example.model, "none"):
            with pytest.raises(UnsupportedCallError, match=f"{name}=True.*{reason}.*detach"):
                example.model(**example.inputs, **{name: True})
            example.model(**example.inputs, **{name: False})

    def test_two_models_at_once_and_options_for_one_sequence(self):
        model = build(MODEL).model
        with pytest.raises(UnsupportedModelError, match="2 BridgeTowers"):
            tokenreduce.attach(torch.nn.ModuleList([model, build(MODEL).model]), "pumer")
        with pytest.raises(UnfitReducerError, match="one sequence"):
            tokenreduce.attach(model, "pumer", modality_aware=False)
        with tokenreduce.attach(model, "pumer") as handle, pytest.raises(UnfitReducerError, match="shares no space"):
            handle.guide(torch.randn(32))

    def test_a_users_own_forward(self):
        class Mine(BridgeTowerModel):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs)

        with pytest.raises(UnsupportedModelError, match=r"own forward\(\)"):
            tokenreduce.attach(Mine(build(MODEL).model.config), "pumer")

    def test_a_block_alone_and_missing_ids(self):
        made = build(MODEL)
        with tokenreduce.attach(made.model, "pumer"):
            with pytest.raises(UnsupportedCallError, match="called by itself"):
                made.model.cross_modal_text_layers[0](torch.randn(1, 3, 32), torch.randn(1, 4, 32))
            with pytest.raises(UnsupportedCallError, match="input_ids"):
                made.model(inputs_embeds=torch.randn(1, 3, 32), pixel_values=made.inputs["pixel_values"])


@torch.no_grad()
def test_a_users_own_head():
    class Mine(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, **inputs):
            return self.inner(**inputs).text_features

    made = build(MODEL)
    model = Mine(made.model)
    with tokenreduce.attach(model, "pumer") as handle:
        assert model(**made.inputs).shape == (2, 12, 32)
        assert handle.last.tokens["image"] < 37


@torch.no_grad()
def test_masked_words_with_labels():
    made = build(MASKED)
    assert isinstance(made.model, BridgeTowerForMaskedLM)
    with tokenreduce.attach(made.model, "pumer"):
        output = made.model(**made.inputs, labels=made.inputs["input_ids"])
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), made.inputs["input_ids"].flatten())
    torch.testing.assert_close(output.loss, expected)
