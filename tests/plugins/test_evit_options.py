"""EViT's options on whole models."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError


def left(handle, sample, stream="image"):
    """Places within the stream of the tokens that stand alone at the end, i.e. were kept; in final order."""
    begin = 0 if stream == "text" or "text" not in handle.last.trace.first else handle.last.trace.first["text"]
    groups = [group for group in handle.last.trace[sample] if len(group) == 1 and group[0] >= begin]
    return [group[0] - begin for group in groups]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["class", "key-norm"])
def test_saliency_on_a_vit(oracle, tiny_vit, images, kind):
    model, x = tiny_vit(img_size=48).double(), images(3, 48, 48).double()
    with tokenreduce.attach(model, "evit", keep=0.4, saliency=kind, layers=[0], fuse=False, trace=True) as handle:
        model(x)
        for sample, image in enumerate(x):
            keys, attention = oracle.first_signals(model, image)
            score = attention[0, 1:] if kind == "class" else keys[1:].norm(dim=-1)
            assert left(handle, sample) == [0, *(place + 1 for place in oracle.falling(score)[:15])]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["class", "text", "key-norm"])
def test_saliency_on_a_vilt(oracle, tiny_vilt, vilt_inputs, kind):
    model, inputs = tiny_vilt(max_image_length=-1).double(), vilt_inputs(3, 7)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with tokenreduce.attach(model, "evit", keep=0.4, saliency=kind, layers=[0], fuse=False, trace=True) as handle:
        model(**inputs)
        for sample, pair in enumerate(zip(inputs["input_ids"], inputs["pixel_values"], strict=True)):
            keys, attention = oracle.first_signals(model, *pair)
            score = {"class": attention[0, 7:], "text": attention[:7, 7:].sum(dim=0), "key-norm": keys[7:].norm(dim=-1)}
            assert left(handle, sample) == oracle.falling(score[kind])[:7]
            assert left(handle, sample, "text")[:7] == list(
                range(7)
            )  # no image token is protected, every text token is


@torch.no_grad()
def test_random_saliency_repeats_in_evaluation(tiny_vit, images):
    model, x = tiny_vit(img_size=48), images(2, 48, 48)

    def output(**options):
        with tokenreduce.attach(model, "evit", saliency="random", **options):
            return model(x)

    assert torch.equal(output(), output())
    assert torch.equal(output(seed=4), output(seed=4))
    assert not torch.equal(output(seed=4), output(seed=5))


def test_random_saliency_is_fresh_in_training(tiny_vit, images):
    model, x = tiny_vit(img_size=48).train(), images(2, 48, 48)
    with tokenreduce.attach(model, "evit", saliency="random"):
        assert not torch.equal(model(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["class", "key-norm", "random"])
@pytest.mark.parametrize("fuse", [True, False])
def test_counts_are_the_same_for_every_saliency(tiny_vit, images, flow, kind, fuse):
    model = tiny_vit(img_size=48)
    with tokenreduce.attach(model, "evit", keep=0.5, saliency=kind, fuse=fuse) as handle:
        assert model(images(2, 48, 48)).isfinite().all()
        assert flow(handle) == ([37, 20, 12, 8] if fuse else [37, 19, 10, 6])


@torch.no_grad()
def test_every_protected_token_stays(tiny_vit, images):
    model = tiny_vit(img_size=48, reg_tokens=3)
    with tokenreduce.attach(model, "evit", keep=0.3, trace=True) as handle:
        model(images(2, 48, 48))
        for sample in range(2):
            assert handle.last.trace[sample][:4] == [[0], [1], [2], [3]]


def test_class_attention_needs_a_class_token(tiny_vit):
    model = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(UnfitReducerError, match=r"class_attention.*keys.*Reducers that run here"):
        tokenreduce.attach(model, "evit")
    with pytest.raises(UnfitReducerError, match="text_attention"):
        tokenreduce.attach(tiny_vit(), "evit", saliency="text")
    tokenreduce.attach(model, "evit", saliency="key-norm").detach()


def test_a_list_of_rates_is_one_per_acting_block(tiny_vit):
    model = tiny_vit()
    with pytest.raises(OptionError, match="5 entries for 4 sites"):
        tokenreduce.attach(model, "evit", keep=[0.9] * 5)
    with pytest.raises(OptionError, match="2 entries for 1 sites"):
        tokenreduce.attach(model, "evit", keep=[0.9] * 2, layers=[2])


def test_gradients_reach_the_attention_weights_of_the_fused_token(tiny_vit, images):
    model = tiny_vit(depth=1)  # one block: its queries act through the softmax, and through the fused token's weights
    x = images(2)

    def slope(**options):
        model.zero_grad()
        with tokenreduce.attach(model, "evit", keep=0.5, layers=[0], restore=True, **options):
            model.forward_features(x)[:, 1:].square().sum().backward()
        return model.blocks[0].attn.qkv.weight.grad.clone()

    with_weights = slope()
    assert with_weights.isfinite().all()
    assert with_weights.abs().sum() > 0
