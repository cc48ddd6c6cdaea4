"""Multiply-adds, memory and timing."""

import contextlib
import time

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import ViltConfig, ViltForQuestionAnswering

import tokenreduce
from tokenreduce.measure.memory import peak_activation_bytes
from tokenreduce.measure.timing import interleave


@pytest.fixture(scope="module")
def vilt_base():
    torch.manual_seed(0)
    model = ViltForQuestionAnswering(ViltConfig(num_labels=3129)).eval()
    inputs = {
        "input_ids": torch.randint(5, 1000, (1, 32)),
        "attention_mask": torch.ones(1, 32, dtype=torch.long),
        "pixel_values": torch.randn(1, 3, 384, 384),
    }
    return model, inputs


@pytest.mark.parametrize(
    ("layers", "published", "image"), [(None, 8.70e9, 31), ([2, 4, 6, 8], 7.64e9, 19), ("dense", 15.95e9, 145)]
)
def test_published_multiply_adds_of_vilt_base(vilt_base, layers, published, image):
    model, inputs = vilt_base
    dense = layers == "dense"
    with tokenreduce.attach(model, "none" if dense else "pumer", layers=None if dense else layers) as handle:
        measured = tokenreduce.count_macs(model, inputs)
        assert measured == pytest.approx(published, rel=0.01)
        assert handle.last.tokens["image"] == image
        before, after = handle.last.macs
        assert after <= before
        assert after == pytest.approx(measured, rel=0.06)  # patch embedding, head and the reducer's own come on top


def test_macs_are_per_sample():
    model = nn.Linear(10, 20)
    assert tokenreduce.count_macs(model, (torch.randn(4, 10),), samples=4) == 200
    assert tokenreduce.count_macs(model, {"input": torch.randn(1, 10)}) == 200


def test_peak_memory_counts_what_lives_together():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1000))

        def forward(self, x):
            for _ in range(5):
                x = x + 1  # two of 4000 bytes alive at a time; the first one is the input
            return x

    x = torch.zeros(1000)
    assert peak_activation_bytes(Chain(), (x,)) == 8000


def test_training_memory_keeps_the_graph_and_shrinks_with_the_tokens():
    model = VisionTransformer(img_size=64, patch_size=8, embed_dim=32, depth=6, num_heads=2, num_classes=3).eval()
    x = (torch.randn(4, 3, 64, 64),)
    inference, graph = peak_activation_bytes(model, x), peak_activation_bytes(model, x, graph=True)
    assert graph > 3 * inference
    with tokenreduce.attach(model, "tome", r=10):
        assert peak_activation_bytes(model, x, graph=True) < 0.8 * graph
    assert peak_activation_bytes(model, x) == inference


def test_interleaved_timing_finds_the_slower_one():
    calls = []

    @contextlib.contextmanager
    def candidate(name, seconds):
        calls.append(name)
        yield lambda: time.sleep(seconds)

    candidates = {"fast": lambda: candidate("fast", 0.01), "slow": lambda: candidate("slow", 0.03)}
    *ticks, result = interleave(candidates, baseline="slow", rounds=3)
    assert len(ticks) == 4
    assert calls[:4] == ["slow", "fast", "fast", "slow"]
    assert result["slow"].ratio == 1
    assert 1.5 < result["fast"].ratio < 4
    assert result["fast"].median >= 0.01


def test_torchs_own_fused_attention_is_counted():
    """In evaluation it is one operator, which torch's flop counter does not know."""
    attention = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    enabled = torch.backends.mha.get_fastpath_enabled()
    counted = tokenreduce.count_macs(attention, (torch.randn(3, 10, 64),), samples=3)
    assert counted == 10 * (4 * 64 * 64 + 2 * 64 * 128) + 2 * 10 * 10 * 64
    assert torch.backends.mha.get_fastpath_enabled() == enabled
