"""What a pass asks of the machine: fused causal attention, no matrix, and no waiting in decoding."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import tokenreduce

from . import tinies
from .oracle import cache_name

PLANS = {
    "hand-over": {"handover": {"reducer": "random", "keep": 8}},
    "cuts": {"language": {"reducer": "evit", "layers": [0, 1], "keep": 0.5, "fuse": False}},
    "text": {"language": {"reducer": "evit", "layers": [1], "keep": 0.5, "saliency": "text"}},
}


class Attention(TorchFunctionMode):
    """Notes every fused attention: query and key lengths, whether there was a mask, whether it was causal."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            masked = kwargs.get("attn_mask") is not None
            self.calls.append((args[0].shape[2], args[1].shape[2], masked, bool(kwargs.get("is_causal"))))
        return function(*args, **kwargs)


class Work(TorchDispatchMode):
    """Counts what makes the host wait, and notes the largest result of a softmax."""

    def __init__(self):
        super().__init__()
        self.waits, self.softmax = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = str(function)
        self.waits += "local_scalar_dense" in name or "is_nonzero" in name or "nonzero.default" in name
        if "softmax" in name:
            self.softmax = max(self.softmax, out.shape[-2])
        return out


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_causal_kernel_stays_where_nothing_is_ragged(tiny, plan):
    given = tiny.inputs(batch=2)
    columns = given["input_ids"].shape[1]
    with tokenreduce.attach(tiny.model, PLANS[plan]) as handle, torch.no_grad():
        features = tiny.model.model.get_image_features(
            **{name: side for name, side in given.items() if "pixel" in name or "grid" in name}, return_dict=True
        )
        rest = {name: side for name, side in given.items() if "pixel" not in name}
        with Attention() as seen, Work() as work:
            out = tiny.model(**rest, mm_encoder_outputs={"image": features}, use_cache=True)
        lengths = [query for query, *_ in seen.calls]
        assert len(lengths) == 4 and lengths[-1] < columns and lengths == sorted(lengths, reverse=True)
        assert all(query == key and not masked and causal for query, key, masked, causal in seen.calls)
        text = columns - int(handle.last.initial["image"])
        assert work.softmax <= text, "rows of attention are asked for, never the matrix"
        name = cache_name(tiny.model)
        token = {"input_ids": torch.full((2, 1), 7), name: out[name]}
        with Attention() as seen:
            tiny.model(**token, use_cache=True)
        assert [key for _, key, *_ in seen.calls] == [length + 1 for length in lengths]
        assert not any(masked for _, _, masked, _ in seen.calls)


@pytest.mark.parametrize("plan", PLANS)
def test_decoding_waits_no_more_than_the_plain_model(family, tiny, plan):
    """Of a ragged batch, too: what is padding is known from the prompt on."""
    given = tiny.batch([[tiny.size], []], tails=[4, 9])
    name = cache_name(tiny.model)

    def waits():
        with torch.no_grad():
            out = tiny.model(**given, use_cache=True)
            mask = torch.cat([given["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
            token = {"input_ids": torch.full((2, 1), 7), "attention_mask": mask, name: out[name]}
            if family == "qwen2_5_vl":
                token["position_ids"] = torch.full((3, 2, 1), 40)
            with Work() as work:
                tiny.model(**token, use_cache=True)
        return work.waits

    plain = waits()
    with tokenreduce.attach(tiny.model, PLANS[plan]):
        assert waits() <= plain


def test_features_as_a_tuple():
    tiny = tinies.llava()
    pixels = tiny.inputs()["pixel_values"]
    with tokenreduce.attach(tiny.model, PLANS["hand-over"]), torch.no_grad():
        assert isinstance(tiny.model.model.get_image_features(pixels, return_dict=False), tuple)
