"""Methods at the hand-over on whole models: each image alone, what they choose, what a text guides."""

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce.errors import UnsupportedCallError

from ..plugins import handover_oracle as oracle
from . import tinies
from .oracle import language_of
from .test_signals import listen

NAMES = ("divprune", "cdpruner", "visionzip", "vispruner", "scope", "pooling", "uniform")
ENERGY = tokenreduce.Budget.energy(0.9, cap=20).to_json()
FAMILIES = ("llava", "gemma3", "qwen2_5_vl", "llava_next")


@pytest.fixture(scope="module")
def models():
    """A tiny model of each family, in float64."""
    return {name: tinies.ALL[name]().double() for name in FAMILIES}


@pytest.fixture(scope="module")
def llava(models):
    """The tiny LLaVA."""
    return models["llava"]


@pytest.fixture(scope="module")
def clip():
    """A CLIP whose image tower is as wide as LLaVA's."""
    torch.manual_seed(0)
    text = {**tinies.VISION, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**tinies.VISION, "image_size": 24, "patch_size": 4}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    return transformers.CLIPModel(config).eval().double()


def space_of(clip):
    return lambda x: clip.visual_projection(clip.vision_model.post_layernorm(x))


def kept(handle, image=0, sample=0):
    """Places of the tokens of an image that are still there."""
    return [i for i, end in enumerate(handle.last.trace.image(sample, image).tolist()) if end >= 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0.3, ENERGY], ids=["share", "rule"])
def test_each_image_is_judged_alone(models, family, name, keep):
    """Two prompts, one with two images, padded: the answers of each alone, as many tokens of each image."""
    tiny = models[family]
    other = tiny.size if tiny.fixed else tiny.other
    sizes, tails = [[tiny.size], [other, tiny.size]], [4, 6]
    given = tiny.batch(sizes, tails=tails, seeds=[3, 4])
    with tokenreduce.attach(tiny.model, {"handover": {"reducer": name, "keep": keep}}) as handle, torch.no_grad():
        logits = tiny.model(**given).logits
        counts = []
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = tiny.model(**tiny.batch([images], tails=[tail], seeds=[3 + b])).logits[0]
            counts.append(handle.last.mean_image_tokens)
            mine = logits[b][given["attention_mask"][b].bool()]
            torch.testing.assert_close(mine, alone, atol=1e-5, rtol=1e-5)
        assert 0 < counts[0] < tiny.size[0] * tiny.size[1]


def test_choices_on_llava_are_those_of_plain_loops(llava):
    given = llava.inputs(batch=2, seed=5)
    heard = listen(llava, given, "handover", "class_attention", "encoder_features")[0]
    rows = list(zip(heard["x"], heard["class_attention"], heard["encoder_features"], strict=True))
    for name, wanted in {
        "divprune": [oracle.divprune(x, 11) for x, _, _ in rows],
        "cdpruner": [oracle.cdpruner(x, 11) for x, _, _ in rows],
        "scope": [oracle.scope(x, attention, 11) for x, attention, _ in rows],
        "vispruner": [oracle.vispruner(seen, attention, 11, 0.5) for _, attention, seen in rows],
    }.items():
        with tokenreduce.attach(llava.model, name, keep=11, trace=True) as handle, torch.no_grad():
            llava.model(**given)
            assert [kept(handle, sample=b) for b in range(2)] == [sorted(one) for one in wanted], name


def test_what_visionzip_gives_to_the_language_model(llava):
    """Class token, dominant patches, contextual tokens, as published, when positions are numbered anew."""
    given = llava.inputs(seed=2)
    names = ("class_attention", "encoder_features", "class_features", "keys", "projector")
    heard = listen(llava, given, "handover", *names)[0]
    parts = [heard[name][0] for name in ("encoder_features", "class_attention", "keys")]
    inside = torch.cat([heard["class_features"][0], oracle.visionzip(*parts, 8, 3)])
    with torch.no_grad():
        wanted = heard["projector"](inside[None])[0]
    seen = []
    hook = language_of(llava.model).layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    options = {"keep": 12, "contextual": 3, "positions": "compact"}
    with tokenreduce.attach(llava.model, "visionzip", **options), torch.no_grad():
        llava.model(**given)
    hook.remove()
    torch.testing.assert_close(seen[0][0, 3:15], wanted)


def test_a_text_guides_cdpruner_on_llava(llava, clip):
    given, space = llava.inputs(batch=2, seed=7), space_of(clip)
    heard = listen(llava, given, "handover", "encoder_features")[0]
    with torch.no_grad():
        ids = torch.tensor([[1, 5, 8, 2], [1, 9, 3, 2], [1, 30, 31, 2]])
        texts = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        joint = torch.nn.functional.normalize(space(heard["encoder_features"]), dim=-1)
    unit = torch.nn.functional.normalize(texts, dim=-1)
    with tokenreduce.attach(llava.model, "cdpruner", keep=9, trace=True) as handle, torch.no_grad():
        assert any("diversity alone" in note for note in handle.notes)
        for features, mine in (
            (texts[0], [unit[:1], unit[:1]]),  # one for all
            (texts[:2], [unit[:1], unit[1:2]]),  # one for each sample
            (texts[None], [unit, unit]),  # a long question in three parts
        ):
            handle.guide(features, space=space)
            assert not handle.notes
            llava.model(**given)
            for b in range(2):
                wanted = oracle.cdpruner(heard["x"][b], 9, joint[b] @ mine[b].T)
                assert kept(handle, sample=b) == sorted(wanted)
        handle.guide(texts, space=space)
        with pytest.raises(UnsupportedCallError, match="3 samples, this is a batch of 2"):
            llava.model(**given)
        handle.guide(None)
        llava.model(**given)
        assert kept(handle) == sorted(oracle.cdpruner(heard["x"][0], 9)) and handle.notes


def test_a_text_guides_cdpruner_on_clip(clip):
    pixels = torch.randn(2, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    text = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with tokenreduce.attach(clip, "cdpruner", keep=9, trace=True) as handle, torch.no_grad():
        plain = clip.get_image_features(pixel_values=pixels)
        with handle.guide(text):
            assert not handle.notes
            guided = clip.get_image_features(pixel_values=pixels)
            assert handle.last.tokens == {"image": 10}
        assert handle.notes
        again = clip.get_image_features(pixel_values=pixels)
    one, other, third = (getattr(out, "pooler_output", out) for out in (plain, guided, again))
    assert torch.equal(one, third) and not torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_from_one_token_to_more_than_there_are(llava, name):
    given = llava.inputs(batch=2)
    blank = {**given, "pixel_values": given["pixel_values"] * 0}
    with torch.no_grad():
        plain = llava.model(**given).logits
        for keep in (1, 2, 35, 36, 100):
            with tokenreduce.attach(llava.model, name, keep=keep) as handle:
                logits = llava.model(**given).logits
                assert handle.last.tokens["image"] == min(keep, 36) and logits.isfinite().all()
                assert torch.equal(logits, plain) == (keep >= 36)
        with tokenreduce.attach(llava.model, name, keep=7):
            assert llava.model(**blank).logits.isfinite().all()


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_towers_alone(kind):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}VisionConfig")(**tinies.VISION, image_size=24, patch_size=4)
    model = getattr(transformers, f"{kind}VisionModel")(config).eval()
    pixels = torch.randn(2, 3, 24, 24)
    for name in NAMES:
        with tokenreduce.attach(model, name, keep=10, layers=[1]) as handle, torch.no_grad():
            model(pixel_values=pixels)
            assert handle.last.tokens == {"image": 10 + (kind == "CLIP")}, name
