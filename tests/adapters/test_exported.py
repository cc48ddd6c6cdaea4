"""No size is baked in: exported and traced models take other batches."""

from __future__ import annotations

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce_models.transformers.blip import Blip

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
    for dtype in (torch.float32, torch.float64):
        whole, _ = combine(layout, {"text": part}, 1, torch.device("cpu"), dtype)
        x = torch.randn(1, 7, 5, dtype=torch.float64)
        error = (whole.apply(x)[:, 0] - (x[:, 0] + x[:, 2] + x[:, 3]) / 3).abs().max()
        assert (error < 1e-14) == (dtype == torch.float64)
