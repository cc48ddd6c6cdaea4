"""Text features that guide the reduction of a dual encoder's image tokens."""

from __future__ import annotations

import copy
import json
import pickle
from typing import ClassVar

import pytest
import torch
from torch.nn import functional as F

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError
from tokenreduce_models.open_clip.adapter import OpenClip
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.clip import Clip
from tokenreduce_models.transformers.siglip import Siglip

MAKERS = {**Clip().examples(), **Siglip().examples(), **Blip().examples(), **OpenClip().examples()}
GUIDABLE = ["CLIPModel", "CLIPVisionModelWithProjection", "SiglipModel", "SiglipVisionModel", "CLIP"]
GUIDABLE += ["BlipModel", "BlipForImageTextRetrieval"]
UNGUIDABLE = ["CLIPVisionModel", "CLIPForImageClassification", "SiglipForImageClassification", "BlipVisionModel"]
UNGUIDABLE += ["BlipForQuestionAnswering", "BlipForConditionalGeneration"]


class Probe(Reducer):
    """Drops by text attention, and shows what it was given."""

    needs = {"text_attention"}
    seen: ClassVar[list] = []

    def reduce(self, tokens, signals, remove):
        self.seen.append((tokens.x.clone(), signals.text_attention.clone()))
        return tokens.keep_top(signals.text_attention, remove=remove)


class Clipped:
    """A model, its inputs, and what its projection makes of tokens (B, N, C), written out by hand."""

    def __init__(self, label):
        made = MAKERS[label]()
        self.label, self.model = label, made.model
        self.inputs = {k: v for k, v in made.inputs.items() if k in ("pixel_values", "image")}
        self.call = made.inputs
        self.width = self.project(torch.zeros(1, 1, 32)).shape[-1]

    @property
    def tower(self):
        return getattr(self.model, "vision_model", getattr(self.model, "visual", self.model))

    def project(self, x):
        model, tower = self.model, self.tower
        if self.label == "CLIP":
            return tower.ln_post(x) @ tower.proj
        if "Siglip" in self.label:
            return torch.stack([tower.head(tower.post_layernorm(x[:, i : i + 1])) for i in range(x.shape[1])], dim=1)
        if self.label == "BlipModel":
            return model.visual_projection(tower.post_layernorm(tower.post_layernorm(x)))
        if self.label == "BlipForImageTextRetrieval":
            return model.vision_proj(tower.post_layernorm(x))
        return model.visual_projection(tower.post_layernorm(x))

    def run(self, model=None, **inputs):
        with torch.no_grad():
            return (self.model if model is None else model)(**{**self.call, **inputs})

    def vector(self, model=None, **inputs):
        """The first tensor of what the model puts out for the image."""
        output = self.run(model, **inputs)
        names = ("image_embeds", "pooler_output", "itm_score", "image_features")
        if isinstance(output, tuple):
            return output[0]
        return next(output[name] for name in names if getattr(output, name, None) is not None)

    def features(self, *shape, seed=0):
        return torch.randn(*shape, self.width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=GUIDABLE)
def clip(request):
    return Clipped(request.param)


@pytest.fixture
def one():
    return Clipped("CLIPVisionModelWithProjection")


@torch.no_grad()
@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 3), (1, 4)], ids=str)
def test_saliency_is_the_softmax_of_cosines(clip, shape):
    texts, probe = clip.features(*shape), Probe(keep=0.6)
    probe.seen.clear()
    with tokenreduce.attach(clip.model, probe, layers=[1, 2], guide=texts):
        clip.run()
    texts = texts.expand(2, clip.width) if len(shape) < 2 else texts
    texts = texts[:, None] if texts.ndim == 2 else texts.expand(2, *texts.shape[1:])
    assert len(probe.seen) == 2
    for x, score in probe.seen:
        space = clip.project(x)
        for sample in range(2):
            cosine = torch.stack([F.cosine_similarity(space[sample], text[None], dim=-1) for text in texts[sample]])
            expected = cosine.max(dim=0).values.exp()
            torch.testing.assert_close(score[sample], expected / expected.sum(), rtol=1e-5, atol=1e-6)


def test_the_shared_space_is_where_the_model_puts_its_image_vector():
    """The class token after the last block, in the shared space, is the image's own vector."""
    for label in ("CLIPModel", "CLIPVisionModelWithProjection", "CLIP", "BlipModel"):
        clip = Clipped(label)
        blocks = getattr(getattr(clip.tower, "encoder", None), "layers", None)
        blocks = clip.tower.transformer.resblocks if blocks is None else blocks
        last = []
        hook = blocks[-1].register_forward_hook(
            lambda module, args, out, last=last: last.append(out[0] if isinstance(out, tuple) else out)
        )
        vector = clip.vector()
        hook.remove()
        with torch.no_grad():
            own = clip.project(last[0])[:, 0]
            torch.testing.assert_close(F.normalize(own, dim=-1), F.normalize(vector, dim=-1), rtol=1e-4, atol=1e-5)


def kept(handle):
    return [sorted(token for group in sample for token in group) for sample in handle.last.trace]


def test_a_guide_decides_which_tokens_stay(clip):
    with tokenreduce.attach(
        clip.model, "pumer", prune=0.4, merge=0, layers=[1], trace=True, guide=clip.features()
    ) as handle:
        clip.run()
        first = kept(handle)
        handle.guide(-clip.features())
        clip.run()
        second = kept(handle)
        handle.guide(torch.stack([clip.features(), -clip.features()]))
        clip.run()
        assert kept(handle) == [first[0], second[1]]
        handle.guide(7 * clip.features().double())  # length and dtype do not matter
        clip.run()
        assert kept(handle) == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_the_context_puts_back_what_guided_before(one):
    with tokenreduce.attach(one.model, "pumer") as handle:
        by_class, notes = one.vector(), handle.notes
        assert "guide" in notes[0]
        with handle.guide(one.features()):
            guided = one.vector()
            assert not torch.equal(guided, by_class)
            assert handle.notes == []
            with pytest.raises(OptionError), handle.guide(-one.features()):
                handle.guide("an error in between")
            assert torch.equal(one.vector(), guided)
            with handle.guide(None):
                assert torch.equal(one.vector(), by_class)
            assert torch.equal(one.vector(), guided)
        assert torch.equal(one.vector(), by_class)
        assert handle.notes == notes
        handle.guide(one.features())
        assert torch.equal(one.vector(), guided)
        handle.guide(None)
        assert torch.equal(one.vector(), by_class)


def test_none_removes_a_guide_given_to_attach(one):
    with tokenreduce.attach(one.model, "pumer") as handle:
        by_class = one.vector()
    with tokenreduce.attach(one.model, "pumer", guide=one.features()) as handle:
        assert not torch.equal(one.vector(), by_class)
        handle.guide(None)
        assert torch.equal(one.vector(), by_class)
    with tokenreduce.attach(one.model, "evit", saliency="text", guide=one.features()) as handle:
        guided = one.vector()
        with pytest.raises(UnfitReducerError, match=r"text_attention|guide"):
            handle.guide(None)  # there is nothing else that it could go by
        assert torch.equal(one.vector(), guided)


def test_evit_by_text_needs_a_guide_from_the_start(clip):
    with pytest.raises(UnfitReducerError, match="guide"):
        tokenreduce.attach(clip.model, "evit", saliency="text")
    assert tokenreduce.attachment(clip.model) is None
    plain = clip.vector()
    with tokenreduce.attach(clip.model, "evit", saliency="text", keep=0.5, guide=clip.features(2)) as handle:
        reduced = clip.vector()
        assert reduced.isfinite().all()
        assert not torch.equal(reduced, plain)
        config = handle.config
        assert json.loads(json.dumps(config)) == config
        assert not any(isinstance(value, torch.Tensor) for value in config.values())
    with tokenreduce.attach(clip.model, guide=clip.features(2), **config):
        assert torch.equal(clip.vector(), reduced)
    assert torch.equal(clip.vector(), plain)


@pytest.mark.parametrize("label", UNGUIDABLE)
def test_what_shares_no_space_is_refused(label):
    made = MAKERS[label]()
    saliency = "key-norm" if "Classification" in label else "class"
    handle = tokenreduce.attach(made.model, "pumer", saliency=saliency)
    with pytest.raises(UnfitReducerError, match="shares no space"):
        handle.guide(torch.randn(16))
    handle.detach()
    with pytest.raises(UnfitReducerError):
        tokenreduce.attach(made.model, "pumer", guide=torch.randn(16))
    assert tokenreduce.attachment(made.model) is None


def test_timm_shares_no_space(tiny_vit, forwards):
    model = tiny_vit()
    with tokenreduce.attach(model, "pumer") as handle, pytest.raises(UnfitReducerError, match="shares no space"):
        handle.guide(torch.randn(32))
    with pytest.raises(UnfitReducerError, match="shares no space"):
        tokenreduce.attach(model, "pumer", guide=torch.randn(32))
    assert forwards(model) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tome", {}),
        ("evit", {}),
        ("random", {}),
        ("pumer", {"saliency": "class"}),
        ("pumer", {"prune": 0}),
        ("none", {}),
    ],
)
def test_a_reducer_that_would_not_listen_is_refused(name, options, one, forwards):
    with tokenreduce.attach(one.model, name, **options) as handle:
        expected = one.vector()
        with pytest.raises(UnfitReducerError, match="does not use text attention"):
            handle.guide(one.features())
        assert torch.equal(one.vector(), expected)
    with pytest.raises(UnfitReducerError, match="does not use text attention"):
        tokenreduce.attach(one.model, name, guide=one.features(), **options)
    assert forwards(one.model) == []


@pytest.mark.parametrize(
    "wrong",
    [
        torch.randn(15),
        torch.randn(2, 32),
        torch.tensor(1.0),
        torch.randn(1, 2, 3, 16),
        torch.ones(16, dtype=torch.long),
        torch.ones(16, dtype=torch.bool),
        torch.empty(0, 16),
        torch.empty(2, 0, 16),
        [0.0] * 16,
        "a photo of a dog",
    ],
    ids=range(10),
)
def test_wrong_features_are_refused(wrong, one, forwards):
    with tokenreduce.attach(one.model, "pumer", guide=one.features()) as handle:
        expected = one.vector()
        with pytest.raises(OptionError, match="text features"):
            handle.guide(wrong)
        assert torch.equal(one.vector(), expected)
    with pytest.raises(OptionError, match="text features"):
        tokenreduce.attach(one.model, "pumer", guide=wrong)
    assert forwards(one.model) == []


@pytest.mark.parametrize(("name", "options"), [("pumer", {}), ("evit", {"saliency": "text"})])
@pytest.mark.parametrize("batch", [1, 2])
def test_features_of_another_batch_are_refused(batch, name, options, one):
    pixels = one.inputs["pixel_values"][:batch]
    with tokenreduce.attach(one.model, name, guide=one.features(3), **options) as handle:
        with pytest.raises(UnsupportedCallError, match=rf"3 samples.*batch of {batch}"):
            one.run(pixel_values=pixels)
        handle.guide(one.features(batch))
        one.run(pixel_values=pixels)


def test_every_text_for_its_own_sample(clip):
    """A batch is the same as its samples one by one."""
    texts = clip.features(2, 3)
    key = next(iter(clip.inputs))
    with tokenreduce.attach(clip.model, "evit", saliency="text", keep=0.5, guide=texts) as handle:
        together = clip.vector()
        for sample in range(2):
            one = slice(sample, sample + 1)
            handle.guide(texts[one])
            inputs = {k: v[one] for k, v in clip.call.items()}
            torch.testing.assert_close(clip.vector(**{**inputs, key: inputs[key]}), together[one], rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_keep_the_guide(one):
    handle = tokenreduce.attach(one.model, "pumer", guide=one.features())
    expected = one.vector()
    for twin in (copy.deepcopy(one.model), pickle.loads(pickle.dumps(one.model))):
        assert torch.equal(one.vector(twin), expected)
        own = tokenreduce.attachment(twin)
        own.guide(-one.features())
        assert not torch.equal(one.vector(twin), expected)
        assert torch.equal(one.vector(), expected)
        own.detach()
    handle.detach()
    handle.install()
    assert torch.equal(one.vector(), expected)


def test_features_pass_no_gradient_and_are_not_part_of_the_weights(one):
    texts = one.features().requires_grad_()
    names = list(one.model.state_dict())
    with tokenreduce.attach(one.model, "evit", saliency="text", guide=texts):
        assert list(one.model.state_dict()) == names
        one.model(**one.call).image_embeds.sum().backward()
    assert texts.grad is None


def test_changing_the_features_afterwards_changes_nothing(one):
    texts = one.features()
    with tokenreduce.attach(one.model, "pumer", guide=texts):
        expected = one.vector()
        texts.neg_()
        assert torch.equal(one.vector(), expected)


def test_dtype_of_the_model_may_change_after_attach(one):
    with tokenreduce.attach(one.model, "pumer", guide=one.features(), layers=[1]):
        expected = one.vector()
        one.model.double()
        got = one.vector(pixel_values=one.inputs["pixel_values"].double())
        torch.testing.assert_close(got.float(), expected, rtol=1e-4, atol=1e-5)
        one.model.bfloat16()
        assert one.vector(pixel_values=one.inputs["pixel_values"].bfloat16()).isfinite().all()


@torch.no_grad()
def test_compiles_without_a_break_and_follows_a_new_guide(one):
    encoder = one.model.vision_model.encoder
    encoder.layers = encoder.layers[:2]
    tokenreduce.attach(one.model, "evit", saliency="text", guide=one.features(), layers=[0])
    handle = tokenreduce.attachment(one.model)
    torch._dynamo.reset()
    compiled = torch.compile(one.model, fullgraph=True, backend="eager")
    for texts in (one.features(), -one.features()):
        handle.guide(texts)
        expected = one.vector()
        torch.testing.assert_close(one.vector(compiled), expected, rtol=1e-5, atol=1e-5)


def test_two_stacks_are_guided_by_name():
    clip = Clipped("BlipForImageTextRetrieval")
    with tokenreduce.attach(clip.model, {"vision": "pumer", "cross": "pumer"}) as handle:
        plain = clip.run().last_hidden_state
        with pytest.raises(UnsupportedCallError, match="vision, cross"):
            handle.guide(clip.features())
        with pytest.raises(UnfitReducerError, match="shares no space"):
            handle.guide(clip.features(), stack="cross")
        with handle.guide(clip.features(), stack="vision"):
            assert not torch.equal(clip.run().last_hidden_state, plain)
        assert torch.equal(clip.run().last_hidden_state, plain)
        with handle.guide(clip.features(), stack="vision"):
            guided = clip.run().last_hidden_state
    by_text = {"reducer": "evit", "saliency": "text"}
    with tokenreduce.attach(clip.model, {"cross": "pumer", "vision": "pumer"}, guide=clip.features()):
        assert torch.equal(clip.run().last_hidden_state, guided)
    with tokenreduce.attach(clip.model, {"vision": by_text, "cross": by_text}, guide=clip.features()):
        assert clip.run().itm_score.isfinite().all()
    with pytest.raises(UnfitReducerError, match="shares no space"):
        tokenreduce.attach(clip.model, {"cross": "pumer"}, guide=clip.features())
    assert tokenreduce.attachment(clip.model) is None
