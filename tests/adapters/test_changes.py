"""Whatever is changed on a model after attach acts as on the plain model, or the next pass says why it cannot."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm.layers
import torch
import transformers
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

import tokenreduce
from tokenreduce.errors import TokenReduceError, UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.timm.eva import TimmEva
from tokenreduce_models.torchvision.vit import TorchvisionViT
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.clip import Clip
from tokenreduce_models.transformers.dinov2 import Dinov2
from tokenreduce_models.transformers.dinov3 import Dinov3
from tokenreduce_models.transformers.siglip import Siglip
from tokenreduce_models.transformers.siglip2 import Siglip2
from tokenreduce_models.transformers.videomae import VideoMAE
from tokenreduce_models.transformers.vilt import Vilt
from tokenreduce_models.transformers.vit import ViT
from tokenreduce_models.transformers.vit_mae import ViTMAE


class LowRank(nn.Module):
    """A trainable addition to a linear layer, as adapter libraries put in its place."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base
        self.low, self.high = nn.Linear(base.in_features, rank), nn.Linear(rank, base.out_features)

    @property
    def in_features(self):
        return self.base_layer.in_features

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.high(self.low(x))


def example(adapter, label):
    made = adapter().examples()[label]()
    return made.model, made.inputs


OTHERS = {
    "Eva": (TimmEva, "Eva, EVA-02"),
    "torchvision": (TorchvisionViT, "VisionTransformer"),
}
TRANSFORMERS = {
    "ViT": (ViT, "ViTForImageClassification"),
    "DeiT": (ViT, "DeiTForImageClassification"),
    "CLIP": (Clip, "CLIPVisionModelWithProjection"),
    "SigLIP": (Siglip, "SiglipForImageClassification"),
    "SigLIP 2": (Siglip2, "Siglip2VisionModel"),
    "DINOv2": (Dinov2, "Dinov2ForImageClassification"),
    "DINOv3": (Dinov3, "DINOv3ViTModel"),
    "ViTMAE": (ViTMAE, "ViTMAEModel"),
    "VideoMAE": (VideoMAE, "VideoMAEForVideoClassification"),
    "BLIP": (Blip, "BlipVisionModel"),
    "ViLT": (Vilt, "ViltForQuestionAnswering"),
}
MODELS = {**TRANSFORMERS, **OTHERS}


@pytest.fixture
def setting(request, tensors_of):
    """A model, and what it, or another one, gives."""
    model, inputs = example(*MODELS[request.param])
    return model, lambda other=model: tensors_of(other(**inputs))[0]


def pytest_generate_tests(metafunc):
    if "setting" in metafunc.fixturenames:
        only = metafunc.function in (test_hidden_states_recorded_before_attach_do_not_count_as_hooks,)
        metafunc.parametrize("setting", TRANSFORMERS if only else MODELS, indirect=True)


def tower(model):
    """What holds the blocks of a model, and the blocks."""
    lists = [m for m in model.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m) == 4]
    return lists[0]


def wrap_linears(block):
    for module in list(block.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, LowRank(child))


def test_adapters_in_linear_layers_put_in_and_taken_out_act(setting, assert_close):
    model, run = setting
    with torch.no_grad():
        plain = run()
        handle = tokenreduce.attach(model, "none")
        before = run()
        blocks = tower(model)
        originals = [copy.copy(dict(module._modules)) for module in blocks.modules()]
        modules = list(blocks.modules())
        for block in blocks:
            wrap_linears(block)
        got = run()
        handle.detach()
        expected = run()
        handle.install()
        assert_close(got, expected)
        assert (got - before).abs().max() > 1e-3 * before.abs().max()
        for module, children in zip(modules, originals, strict=True):
            module._modules.update(children)
        assert_close(run(), plain)


def test_adapters_in_linear_layers_get_gradients(setting):
    model, run = setting
    tokenreduce.attach(model, "tome", r=1)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in tower(model):
        wrap_linears(block)
    run().square().sum().backward()
    low = [p for name, p in model.named_parameters() if ".low." in name or ".high." in name]
    last = list(tower(model))[-1]
    assert low and all(p.grad is not None for p in low if not any(p is q for q in last.parameters()))


@pytest.mark.parametrize("change", ["shorter", "longer", "replaced", "swapped"])
def test_another_list_of_blocks_is_refused(change, setting):
    model, run = setting
    tokenreduce.attach(model, "none")
    blocks = tower(model)
    if change == "shorter":
        del blocks[-1]
    elif change == "longer":
        blocks.append(copy.deepcopy(blocks[0]))
    elif change == "swapped":
        blocks[1] = copy.deepcopy(blocks[2])
    else:
        holder, name = next((m, key) for m in model.modules() for key, child in m.named_children() if child is blocks)
        setattr(holder, name, blocks[:3])
    with torch.no_grad(), pytest.raises(TokenReduceError, match="detach"):
        run()


@pytest.mark.parametrize("change", ["shorter", "replaced"])
def test_another_list_of_blocks_of_timm_is_refused(change, tiny_vit, images):
    model = tiny_vit()
    handle = tokenreduce.attach(model, "none")
    if change == "shorter":
        del model.blocks[-1]
    else:
        model.blocks = model.blocks[:3]
    with torch.no_grad(), pytest.raises(UnsupportedCallError, match="detach"):
        model(images())
    if change == "shorter":
        handle.detach()
        model(images())


@pytest.mark.parametrize("kind", ["forward", "pre", "backward", "forward replaced", "class"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_hung_on_an_attention_module_is_refused(kind, when, tiny_vit, images):
    class Doubled(timm.layers.Attention):
        def forward(self, x, *args, **kwargs):
            return 2 * super().forward(x, *args, **kwargs)

    model = tiny_vit()
    attention = model.blocks[1].attn

    def change():
        if kind == "forward":
            attention.register_forward_hook(lambda module, args, output: output * 0)
        elif kind == "pre":
            attention.register_forward_pre_hook(lambda module, args: None)
        elif kind == "backward":
            attention.register_full_backward_hook(lambda module, given, got: None)
        elif kind == "class":
            attention.__class__ = Doubled
        else:
            attention.forward = lambda x, **_: x

    if when == "before":
        change()
        with pytest.raises(UnsupportedModelError):
            tokenreduce.attach(model, "none")
        return
    handle = tokenreduce.attach(model, "none")
    change()
    with torch.no_grad():
        with pytest.raises(UnsupportedCallError, match="attn"):
            model(images())
        handle.detach()
        model(images())


def test_hooks_on_what_a_view_calls_act(setting, assert_close):
    model, run = setting
    for block in tower(model):
        for module in block.modules():
            if type(module) is nn.Linear:
                module.register_forward_hook(lambda module, args, output: 1.1 * output)
    with torch.no_grad():
        expected = run()
        with tokenreduce.attach(model, "none"):
            assert_close(run(), expected)


def test_hidden_states_recorded_before_attach_do_not_count_as_hooks(setting):
    """The library leaves its own hooks on attention modules once hidden states were asked for."""
    model, run = setting
    model.config.output_hidden_states = True
    with torch.no_grad():
        run()
        model.config.output_hidden_states = False
        with tokenreduce.attach(model, "none"):
            run()


@pytest.mark.parametrize("when", ["before", "after"])
def test_other_heads_and_rates_of_attention_act(when, tiny_vit, images, assert_close):
    model = tiny_vit()
    handle = tokenreduce.attach(model, "none") if when == "after" else None
    model.blocks[0].attn.num_heads, model.blocks[0].attn.head_dim = 2, 16
    model.blocks[2].attn = timm.layers.Attention(32, num_heads=8, qkv_bias=True)
    model.blocks[3].attn.attn_drop.p = 1.0
    handle = handle or tokenreduce.attach(model, "none")
    with torch.no_grad():
        got = model(images())
        handle.detach()
        assert_close(got, model(images()))
        handle.install()
        model.blocks[3].train()
        got = model(images())
        handle.detach()
        assert_close(got, model(images()))


def test_pruned_linear_layers_act(tiny_vit, images, assert_close):
    from torch.nn.utils import prune

    model = tiny_vit()
    prune.l1_unstructured(model.blocks[0].attn.qkv, "weight", 0.5)
    with torch.no_grad():
        with tokenreduce.attach(model, "none"):
            got = model(images())
            prune.l1_unstructured(model.blocks[1].mlp.fc1, "weight", 0.5)
            late = model(images())
        assert_close(late, model(images()))
    assert not torch.equal(got, late)


@pytest.mark.parametrize("impl", CheckpointImpl)
def test_checkpoint_wrappers_around_blocks(impl, tiny_vit, images, assert_close):
    model, x = tiny_vit(global_pool="avg").train(), images()
    with tokenreduce.attach(model, "tome", r=2):
        model(x).sum().backward()
        expected = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        for index, block in enumerate(model.blocks):
            model.blocks[index] = checkpoint_wrapper(block, checkpoint_impl=impl)
        model(x).sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient)


def test_checkpoint_wrappers_that_would_lose_gradients_are_refused(tiny_vit, images):
    model = tiny_vit().train()
    tokenreduce.attach(model, "evit", keep=0.5, fuse=False, restore=True)
    for index, block in enumerate(model.blocks):
        model.blocks[index] = checkpoint_wrapper(block, checkpoint_impl=CheckpointImpl.REENTRANT)
    with pytest.raises(UnsupportedCallError, match="use_reentrant=False"):
        model(images())


@pytest.mark.parametrize(("name", "options"), [("tome", {"r": 3}), ("evit", {"keep": 0.5})])
@pytest.mark.parametrize("pool", ["avg", "max", ""])
def test_the_end_follows_a_classifier_that_is_set_anew(name, options, pool, tiny_vit, images):
    model = tiny_vit()
    with torch.no_grad():
        handle = tokenreduce.attach(model, name, **options)
        model.reset_classifier(7, pool)
        late = model(images())
        handle.detach()
        with tokenreduce.attach(model, name, **options):
            assert torch.equal(model(images()), late)


def test_a_head_of_your_own_gets_every_token(tiny_vit, images, assert_close):
    from timm.models.vision_transformer import VisionTransformer

    class Own(VisionTransformer):
        def forward_head(self, x, pre_logits=False):
            assert x.shape[1] == 17
            return self.head(x[:, 1:].mean(dim=1))

    class Around(nn.Module):
        def __init__(self, vit):
            super().__init__()
            self.vit = vit

        def forward(self, x):
            return self.vit.forward_features(x)[:, 1:].mean(dim=1)

    for model in (tiny_vit(Own), Around(tiny_vit())):
        with torch.no_grad():
            with tokenreduce.attach(model, "evit", keep=0.5, restore=True):
                expected = model(images())
            with tokenreduce.attach(model, "evit", keep=0.5) as handle:
                assert_close(model(images()), expected)
                assert handle.last.tokens["image"] < 17


def test_two_wrappers_that_only_call_the_tower_change_nothing(tiny_vit, images):
    model = tiny_vit(global_pool="avg")
    with torch.no_grad():
        with tokenreduce.attach(model, "evit", keep=0.5):
            expected = model(images())
        outer = nn.Sequential(nn.Sequential(model))
        with tokenreduce.attach(outer, "evit", keep=0.5):
            assert torch.equal(outer(images()), expected)


def replicated(model, scale):
    """What ``torch.nn.parallel.replicate`` makes of a model on another device, here with scaled weights."""
    modules = list(model.modules())
    place = {module: i for i, module in enumerate(modules)}
    replicas = [module._replicate_for_data_parallel() for module in modules]
    for module, replica in zip(modules, replicas, strict=True):
        for key, child in module._modules.items():
            if child is not None:
                setattr(replica, key, replicas[place[child]])
        for key, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[key] = None
            else:
                setattr(replica, key, parameter.detach() * scale)
        for key, buffer in module._buffers.items():
            setattr(replica, key, buffer)
    return replicas[0]


def test_replicas_of_data_parallel_are_refused(tiny_vit, images):
    model = tiny_vit()
    with torch.no_grad():
        assert replicated(model, 0.0)(images()).abs().max() == 0
        handle = tokenreduce.attach(model, "none")
        for method in ("__call__", "forward_features"):
            with pytest.raises(UnsupportedCallError, match="DistributedDataParallel"):
                getattr(replicated(model, 0.0), method)(images())
        handle.detach()
        assert replicated(model, 0.0)(images()).abs().max() == 0


def test_replicas_of_every_kind_of_model_are_refused(setting):
    model, run = setting
    with tokenreduce.attach(model, "none"), torch.no_grad():
        run()
        with pytest.raises(UnsupportedCallError, match="DistributedDataParallel"):
            run(replicated(model, 1.0))


RATES = {
    "DINOv3": lambda block: setattr(block.attention, "dropout", 1.0),
    "ViTMAE": lambda block: setattr(block.attention, "attention_dropout", 1.0),
    "VideoMAE": lambda block: setattr(block.attention.attention, "dropout_prob", 1.0),
    "SigLIP 2": lambda block: setattr(block.self_attn, "dropout", 1.0),
    "Eva": lambda block: setattr(block.attn.attn_drop, "p", 1.0),
    "torchvision": lambda block: setattr(block.self_attention, "dropout", 1.0),
}
"""With attention dropout of one nothing of it is left, which needs no random numbers to compare."""


@pytest.mark.parametrize("label", RATES)
def test_a_rate_of_attention_dropout_that_is_set_after_attach_acts(label, tensors_of, assert_close):
    model, inputs = example(*MODELS[label])
    with torch.no_grad():
        handle = tokenreduce.attach(model, "none")
        before = tensors_of(model(**inputs))[0]
        block = tower(model)[1]
        RATES[label](block)
        block.train()
        got = tensors_of(model(**inputs))[0]
        handle.detach()
        assert_close(got, tensors_of(model(**inputs))[0])
        assert not torch.equal(got, before)


def test_a_tower_that_is_exchanged_is_refused_by_the_next_pass_and_by_the_handle():
    """Nothing inside would run in such a pass, and nothing would be reduced."""
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    model = transformers.ViTForImageClassification(config).eval()
    other, x = copy.deepcopy(model), torch.randn(1, 3, 32, 32)
    handle = tokenreduce.attach(model, "tome", r=2)
    with torch.no_grad():
        model(x)
    assert handle.last is not None
    old = model.vit
    model.vit = other.vit
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for look in (lambda: model(x), lambda: handle.last, lambda: str(handle)):
        with pytest.raises(UnsupportedCallError, match="no part of the ViTForImageClassification any more"):
            look()
    model.vit = old
    assert handle.last is not None
    kept = copy.deepcopy(model)
    with torch.no_grad():
        reduced = compiled(x).logits
        assert torch.equal(model(x).logits, reduced)
    model.vit = kept.vit = other.vit
    with pytest.raises(UnsupportedCallError, match="no part of the ViTForImageClassification any more"):
        kept(x)
    with pytest.raises(Exception, match="no part of the ViTForImageClassification any more"):
        compiled(x)
    handle.detach()
    assert not model._forward_pre_hooks and model(x).logits.shape == reduced.shape


def test_scripting_is_refused_in_words():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2).eval()
    with tokenreduce.attach(model, "tome", r=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates scripting
        with pytest.raises(UnsupportedCallError, match=r"torch\.export\.export\(model, inputs\)"):
            torch.jit.script(model)
    assert "__prepare_scriptable__" not in vars(model)
