"""No size is baked in: exported and traced models take other batches."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import tokenreduce
from tokenreduce.errors import UnsupportedCallError
from tokenreduce_models.timm.eva import TimmEva
from tokenreduce_models.torchvision.vit import TorchvisionViT
from tokenreduce_models.transformers.blip import Blip
from tokenreduce_models.transformers.dinov3 import Dinov3
from tokenreduce_models.transformers.siglip2 import Siglip2
from tokenreduce_models.transformers.videomae import VideoMAE
from tokenreduce_models.transformers.vit import ViT
from tokenreduce_models.transformers.vit_mae import ViTMAE

REDUCERS = [
    ("random", {"keep": 0.6}),
    ("tome", {"r": 3}),
    ("evit", {"keep": 0.6}),
    ("pumer", {"prune": 0.3, "merge": 0.3}),
    ("dynamicvit", {"keep": 0.6}),
]


@pytest.mark.filterwarnings("ignore")  # torch's, about tracing
@pytest.mark.parametrize("pool", ["token", "avg", ""])
@pytest.mark.parametrize(("reducer", "options"), REDUCERS)
def test_a_traced_model_takes_another_batch(pool, reducer, options, tiny_vit, images, assert_close):
    model = tiny_vit(global_pool=pool)
    with torch.no_grad(), tokenreduce.attach(model, reducer, layers=[0, 2], **options):
        traced = torch.jit.trace(model, images(2), check_trace=False)
        assert_close(traced(images(5)), model(images(5)))


@pytest.mark.parametrize(("reducer", "options"), REDUCERS)
def test_an_exported_model_takes_another_batch(reducer, options, tiny_vit, images, assert_close):
    model = tiny_vit(depth=2, global_pool="avg" if reducer == "tome" else "token")
    with torch.no_grad(), tokenreduce.attach(model, reducer, layers=[0, 1], **options):
        batch = torch.export.Dim("batch", min=2, max=64)
        exported = torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},))
        assert_close(exported.module()(images(5)), model(images(5)))


NEWER = {
    "ViT": (ViT, "ViTModel"),
    "ViTMAE": (ViTMAE, "ViTMAEModel"),
    "VideoMAE": (VideoMAE, "VideoMAEForVideoClassification"),
    "SigLIP 2": (Siglip2, "Siglip2VisionModel"),
    "DINOv3": (Dinov3, "DINOv3ViTModel"),
    "Eva": (TimmEva, "Eva, EVA-02"),
    "torchvision": (TorchvisionViT, "VisionTransformer"),
}
ALL = [pair for pair in REDUCERS if pair[0] != "dynamicvit"] + [("pitome", {}), ("tofu", {}), ("diffrate", {})]


class Positional(nn.Module):
    """A model of keywords, called with positional arguments; it gives one tensor."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given):
        output = self.model(**dict(zip(self.names, given, strict=True)))
        return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.filterwarnings("ignore")  # torch's, about tracing
@pytest.mark.parametrize("how", ["export", "trace"])
@pytest.mark.parametrize(("reducer", "options"), ALL, ids=[name for name, _ in ALL])
@pytest.mark.parametrize("label", NEWER)
def test_every_adapter_takes_another_batch(label, reducer, options, how, assert_close):
    adapter, name = NEWER[label]
    example = adapter().examples()[name]()
    small = dict(example.inputs)
    large = {key: torch.cat([value, value, value[:1]]) for key, value in small.items()}
    if label in ("VideoMAE", "SigLIP 2") and reducer in ("evit", "pumer", "diffrate"):
        options = {**options, "saliency": "key-norm"}  # no class token
    model = Positional(example.model, list(small)).eval()
    with torch.no_grad(), tokenreduce.attach(example.model, reducer, layers=[0, 2], **options):
        if how == "export":
            sizes = tuple({0: torch.export.Dim("batch", min=2, max=64)} for _ in small)
            made = torch.export.export(model, tuple(small.values()), dynamic_shapes=(sizes,)).module()
        else:
            made = torch.jit.trace(model, tuple(small.values()), check_trace=False)
        assert_close(made(*large.values()), model(*large.values()))


def test_a_tower_is_exported_by_itself(assert_close):
    """Its own forward is replaced, which export asks for its names and its code."""
    example = ViT().examples()["ViTModel"]()
    small = example.inputs["pixel_values"]
    large = torch.cat([small, small, small[:1]])
    with torch.no_grad(), tokenreduce.attach(example.model, "tome", r=2):
        shapes = {"pixel_values": {0: torch.export.Dim("batch", min=2, max=64)}}
        made = torch.export.export(example.model, (), {"pixel_values": small}, dynamic_shapes=shapes).module()
        expected = example.model(large).last_hidden_state
        assert_close(made(pixel_values=large).last_hidden_state, expected)


def test_a_mask_of_your_own_is_refused_in_export_too():
    example = ViTMAE().examples()["ViTMAEModel"]()
    mask = torch.ones(2, 26, dtype=torch.long)
    mask[0, 4:] = 0
    with tokenreduce.attach(example.model, "tome", r=1):
        for given in ({"attention_mask": mask}, (None, mask)):
            args, kwargs = ((), given) if isinstance(given, dict) else (given, {})
            values = (example.inputs["pixel_values"], example.inputs["noise"], *args)
            with pytest.raises(UnsupportedCallError, match="attention_mask was given"):
                torch.export.export(example.model, values, kwargs)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_refused_by_whatever_name(name, tiny_meter):
    example = Blip().examples()["BlipForQuestionAnswering"]()
    meter, _ = tiny_meter()
    cache = transformers.DynamicCache()
    with torch.no_grad():
        with tokenreduce.attach(example.model, {"cross": "tome"}):
            encoder, x = example.model.text_encoder.encoder, torch.randn(1, 4, 32)
            with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="cache"):
                encoder(x, encoder_hidden_states=torch.randn(1, 9, 32), **{name: cache})
        with tokenreduce.attach(meter, {"text": "tome"}):
            width = meter.config.text_config.hidden_size
            with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="cache"):
                meter.text_transformer.encoder(torch.randn(1, 4, width), **{name: cache})


def test_the_defaults_of_meter_are_those_of_the_published_model():
    from tokenreduce_models.meter import MeterConfig

    text = MeterConfig().text_config
    assert (text.layer_norm_eps, text.vocab_size, text.max_position_embeddings, text.type_vocab_size) == (
        1e-5,
        50265,
        514,
        1,
    )
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (768, 12, 12)


def test_shares_of_a_double_model_are_double():
    from tokenreduce.backbones import Layout
    from tokenreduce.core.composition import combine
    from tokenreduce.core.reduction import Reduction

    part = Reduction(torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), torch.tensor([[0, 0]]), length=4)
    layout = Layout.of({"text": 4, "image": 3}, {})
    whole, _ = combine(layout, {"text": part}, 1, torch.device("cpu"), torch.float64)
    x = torch.randn(1, 7, 5, dtype=torch.float64)
    error = (whole.apply(x)[:, 0] - (x[:, 0] + x[:, 2] + x[:, 3]) / 3).abs().max()
    assert error < 1e-14
