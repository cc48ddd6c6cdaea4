"""A view is proved against its block before anything is touched: one that is wrong, in any part, is refused."""

from __future__ import annotations

import contextlib
import functools

import pytest
import timm.layers
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from transformers import ViltModel
from transformers.models.vilt.modeling_vilt import ViltEmbeddings, ViltEncoder, ViltLayer

import tokenreduce
from tokenreduce.engine.equivalence import prove
from tokenreduce_models.timm import vit
from tokenreduce_models.transformers import vilt


class NoLayerScale(vit.PreNormView):
    def attend(self, x, context, projected):
        return x + self.block.drop_path1(self.mixed(context, projected.extra))


class NoLayerScaleInMlp(vit.PreNormView):
    def mlp(self, x):
        return x + self.block.drop_path2(self.block.mlp(self.block.norm2(x)))


class NoQueryNorm(vit.PreNormView):
    def project(self, x):
        attn, x = self.attn, self.normed(x)
        query, key, value = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return tokenreduce.backbones.Projected(query, attn.k_norm(key), value)


class NoGate(vit.PreNormView):
    def mixed(self, context, gate):
        return super().mixed(context, None)


class NoResidual(vit.PreNormView):
    def mlp(self, x):
        return super().mlp(x) - x


class NoNorm(vit.PreNormView):
    def normed(self, x):
        return x


class WrongScale(vit.PreNormView):
    def __init__(self, block):
        super().__init__(block)
        self.scale = 1.0


class SwappedHeads(vit.PreNormView):
    def attend(self, x, context, projected):
        return super().attend(x, context.flip(-1), projected)


def stack_with(view, base=vit.TimmStack):
    class Lying(base):
        def view(self, block):
            return view(block)

    return Lying


WRONG_VIEWS = {
    NoLayerScale: {"init_values": 1e-5},
    NoLayerScaleInMlp: {"init_values": 1e-5},
    NoQueryNorm: {"qk_norm": True},
    NoGate: {},
    NoResidual: {},
    NoNorm: {},
    WrongScale: {},
    SwappedHeads: {},
}


@pytest.mark.parametrize("view", WRONG_VIEWS, ids=lambda view: view.__name__)
def test_a_wrong_view_is_refused(view, tiny_vit, monkeypatch, snapshot):
    model = tiny_vit(**WRONG_VIEWS[view])
    if view is NoGate:
        for block in model.blocks:
            block.attn = timm.layers.Attention(32, num_heads=4, qkv_bias=True, gated=True)
    untouched, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(tokenreduce.errors.UnsupportedModelError) as caught:
        prove(stack_with(view)(model))
    for word in ("Block 0", "'vision'", "largest difference", "report"):
        assert word in str(caught.value)
    monkeypatch.setattr(vit, "TimmStack", stack_with(view))  # what an adapter with this view would give
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="does not compute what the block computes"):
        tokenreduce.attach(model, "tome", r=1)
    assert snapshot(model) == untouched
    assert torch.equal(torch.get_rng_state(), state)


def test_a_mistake_that_tiny_layer_scale_would_hide(tiny_vit):
    """LayerScale as initialised (1e-5) makes the mistake small with the model's own weights; the proof uses others."""
    model = tiny_vit(init_values=1e-5)
    with torch.no_grad():
        for block in model.blocks:
            block.ls1.gamma.fill_(1e-5)
            block.attn.proj.weight.zero_()
    with pytest.raises(tokenreduce.errors.UnsupportedModelError):
        prove(stack_with(NoLayerScale)(model))


class MaskIgnored(vilt.ViltView):
    def attend(self, x, context, projected):
        full = torch.nn.functional.scaled_dot_product_attention(projected.query, projected.key, projected.value)
        return super().attend(x, full.transpose(1, 2).flatten(2), projected)


class NoOutputResidual(vilt.ViltView):
    def attend(self, x, context, projected):
        return self.layer.attention.output(context, x)


@pytest.mark.parametrize("view", [MaskIgnored, NoOutputResidual])
def test_a_wrong_view_of_vilt_is_refused(view, tiny_vilt, monkeypatch, snapshot):
    model = tiny_vilt()
    untouched = snapshot(model)
    monkeypatch.setattr(vilt, "ViltStack", stack_with(view, vilt.ViltStack))
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="does not compute"):
        tokenreduce.attach(model, "tome", r=1)
    assert snapshot(model) == untouched


def test_embeddings_that_changed_are_refused(tiny_vilt, monkeypatch, snapshot):
    """As if a release of transformers added something to the patches."""
    model = tiny_vilt()
    original = vilt.ViltEmbeddings.visual_embed

    def changed(self, *args, **kwargs):
        x, mask, place = original(self, *args, **kwargs)
        return 1.1 * x, mask, place

    monkeypatch.setattr(vilt.ViltEmbeddings, "visual_embed", changed)
    untouched, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="visual_embed"):
        tokenreduce.attach(model, "tome", r=1)
    assert snapshot(model) == untouched
    assert torch.equal(torch.get_rng_state(), state)


def test_every_structure_is_proved(tiny_vit):
    """Only the last block has a part that the view drops."""
    model = tiny_vit()
    model.blocks[3].ls1 = timm.layers.LayerScale(32, init_values=1.0)
    with pytest.raises(tokenreduce.errors.UnsupportedModelError, match="Block 3"):
        prove(stack_with(NoLayerScale)(model))
    prove(vit.TimmStack(model))


class Doubled(timm.layers.Attention):
    def forward(self, x, *args, **kwargs):
        return 2 * super().forward(x, *args, **kwargs)


class DoubledBlock(Block):
    def forward(self, x, *args, **kwargs):
        return 2 * super().forward(x, *args, **kwargs)


@pytest.mark.parametrize("kind", ["attention", "block", "mlp"])
@pytest.mark.parametrize("layer", [0, 2])
def test_parts_of_another_class_are_honoured_or_refused(kind, layer, tiny_vit, images, assert_close):
    model = tiny_vit()
    if kind == "attention":
        model.blocks[layer].attn.__class__ = Doubled
    elif kind == "block":
        model.blocks[layer].__class__ = DoubledBlock
    else:
        model.blocks[layer].mlp = torch.nn.Sequential(model.blocks[layer].mlp, torch.nn.Tanh())
    honoured_or_refused(model, lambda: model(images()), assert_close)


def honoured_or_refused(model, run, assert_close):
    """A change by the user to how the model computes must not be lost while a reducer is attached."""
    with torch.no_grad():
        expected = run()
        try:
            handle = tokenreduce.attach(model, "none")
        except tokenreduce.errors.UnsupportedModelError:
            return
        with handle:
            assert_close(run(), expected)
        assert_close(run(), expected)


def twisted(output):
    """Something that no later norm undoes."""
    if isinstance(output, torch.Tensor):
        return output.roll(1, dims=-1)
    if isinstance(output, tuple):
        return (twisted(output[0]), *output[1:])
    for key in ("last_hidden_state", "pooler_output"):
        if output.get(key) is not None:
            setattr(output, key, twisted(output[key]))
    return output


def replaced(module, name="forward"):
    """Replace a method on the instance, as wrappers of other libraries do."""
    original = getattr(module, name)

    @functools.wraps(original)
    def method(*args, **kwargs):
        return twisted(original(*args, **kwargs))

    setattr(module, name, method)


TIMM_PARTS = [
    "blocks",
    "blocks.0",
    "blocks.2",
    "blocks.0.attn",
    "blocks.2.attn",
    "blocks.2.attn.qkv",
    "blocks.2.attn.proj",
    "blocks.2.mlp",
    "blocks.2.norm1",
    "patch_embed",
    "norm",
]
VILT_PARTS = [
    "vilt",
    "vilt.embeddings",
    "vilt.embeddings.text_embeddings",
    "vilt.embeddings.patch_embeddings",
    "vilt.encoder",
    "vilt.encoder.layer.0",
    "vilt.encoder.layer.2",
    "vilt.encoder.layer.0.attention",
    "vilt.encoder.layer.2.attention",
    "vilt.encoder.layer.2.attention.attention",
    "vilt.encoder.layer.2.attention.attention.query",
    "vilt.encoder.layer.2.attention.output",
    "vilt.encoder.layer.2.output",
    "vilt.pooler",
]


@pytest.mark.parametrize("part", TIMM_PARTS)
def test_forwards_that_the_user_replaced_on_a_vit(part, tiny_vit, images, assert_close):
    model = tiny_vit()
    replaced(model.get_submodule(part))
    honoured_or_refused(model, lambda: model(images()), assert_close)


@pytest.mark.parametrize("part", VILT_PARTS)
def test_forwards_that_the_user_replaced_on_a_vilt(part, tiny_vilt, vilt_inputs, assert_close):
    model = tiny_vilt()
    replaced(model.get_submodule(part))
    honoured_or_refused(model, lambda: model(**vilt_inputs()).logits, assert_close)


@pytest.mark.parametrize("name", ["forward_features", "forward_head", "_pos_embed", "pool"])
def test_methods_that_the_user_replaced_on_a_vit(name, tiny_vit, images, assert_close):
    model = tiny_vit()
    replaced(model, name)
    honoured_or_refused(model, lambda: model(images()), assert_close)


def test_the_method_that_the_user_replaced_on_the_embeddings_of_a_vilt(tiny_vilt, vilt_inputs, assert_close):
    model = tiny_vilt()
    replaced(model.vilt.embeddings, "visual_embed")
    honoured_or_refused(model, lambda: model(**vilt_inputs()).logits, assert_close)


def test_a_replaced_forward_is_back_after_detach(tiny_vilt, vilt_inputs):
    model = tiny_vilt()
    replaced(model.vilt)
    forward = model.vilt.forward
    with contextlib.suppress(tokenreduce.errors.UnsupportedModelError):
        tokenreduce.attach(model, "tome").detach()
    assert model.vilt.forward is forward


def test_subclasses_of_a_vit(tiny_vit, images, assert_close):
    class Twisted(VisionTransformer):
        def forward_features(self, x, **kwargs):
            return twisted(super().forward_features(x, **kwargs))

    model = tiny_vit(Twisted)
    honoured_or_refused(model, lambda: model(images()), assert_close)
    with tokenreduce.attach(model, "tome", r=3) as handle, torch.no_grad():
        model(images())
        assert handle.last.sites[-1].tokens_out == 5


class TwistedModel(ViltModel):
    def forward(self, *args, **kwargs):
        return twisted(super().forward(*args, **kwargs))


class TwistedImages(ViltEmbeddings):
    def visual_embed(self, *args, **kwargs):
        return twisted(super().visual_embed(*args, **kwargs))


class TwistedEmbeddings(ViltEmbeddings):
    def forward(self, *args, **kwargs):
        return twisted(super().forward(*args, **kwargs))


class TwistedEncoder(ViltEncoder):
    def forward(self, *args, **kwargs):
        return twisted(super().forward(*args, **kwargs))


class TwistedLayer(ViltLayer):
    def forward(self, *args, **kwargs):
        return twisted(super().forward(*args, **kwargs))


@pytest.mark.parametrize(
    ("part", "cls"),
    [
        ("vilt", TwistedModel),
        ("vilt.embeddings", TwistedImages),
        ("vilt.embeddings", TwistedEmbeddings),
        ("vilt.encoder", TwistedEncoder),
        ("vilt.encoder.layer.2", TwistedLayer),
    ],
)
def test_subclasses_of_the_parts_of_a_vilt(part, cls, tiny_vilt, vilt_inputs, assert_close):
    model = tiny_vilt()
    model.get_submodule(part).__class__ = cls
    honoured_or_refused(model, lambda: model(**vilt_inputs()).logits, assert_close)


class TwistedBlocks(torch.nn.Sequential):
    def forward(self, x):
        return twisted(super().forward(x))


def test_a_sequence_of_blocks_that_does_more(tiny_vit, images, assert_close):
    model = tiny_vit()
    model.blocks.__class__ = TwistedBlocks
    honoured_or_refused(model, lambda: model(images()), assert_close)


def test_adapters_that_only_wrap_linear_layers_are_honoured(tiny_vit, tiny_vilt, images, vilt_inputs, assert_close):
    """As LoRA does: a module around a linear layer."""

    class Lora(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.low = torch.nn.Linear(base.in_features, 2)
            self.high = torch.nn.Linear(2, base.out_features)

        def forward(self, x):
            return self.base(x) + self.high(self.low(x))

    vit_model, vilt_model = tiny_vit(), tiny_vilt()
    for block in vit_model.blocks[:2]:
        block.attn.qkv = Lora(block.attn.qkv)
    for layer in vilt_model.vilt.encoder.layer[1:]:
        layer.attention.attention.value = Lora(layer.attention.attention.value)
        layer.intermediate.dense = Lora(layer.intermediate.dense)
    with torch.no_grad():
        for model, run in [(vit_model, lambda m: m(images())), (vilt_model, lambda m: m(**vilt_inputs()).logits)]:
            expected = run(model)
            with tokenreduce.attach(model, "none"):
                assert_close(run(model), expected)
            with tokenreduce.attach(model, "tome", r=2) as handle:
                assert run(model).isfinite().all()
                assert handle.last.macs


def test_weights_under_a_parametrization(tiny_vit, images, assert_close):
    model = tiny_vit()
    for block in model.blocks:
        torch.nn.utils.parametrizations.weight_norm(block.attn.proj)
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)
