"""Signals at the hand-over and between layers against matrices that the library makes itself."""

import pytest
import torch

import tokenreduce
from tokenreduce.methods import BaseReducer, Reduction

from . import tinies
from .oracle import write


class Listen(BaseReducer):
    """Notes signals, keeps everything."""

    wanted: tuple = ()
    heard = {}

    @property
    def needs(self):
        return frozenset(self.wanted)

    def layers(self, backbone):
        return list(range(backbone.depth))

    def reduce_streams(self, streams, site):
        stream = streams["image"]
        self.heard[site.layer] = {"x": stream.tokens.x, **{name: getattr(stream.signals, name) for name in self.wanted}}
        return {}


def listen(tiny, inputs, stack, *names, **options):
    Listen.heard.clear()
    with tokenreduce.attach(tiny.model, {stack: Listen(wanted=names)}, **options), torch.no_grad():
        tiny.model(**inputs)
    return dict(Listen.heard)


def matrices(model, inputs, parts):
    """Attention matrices (B, H, n, n) of attention modules in an eager pass."""
    seen = {}
    hooks = [
        part.register_forward_hook(lambda module, args, out, i=i: seen.update({i: out[1]}))
        for i, part in enumerate(parts)
    ]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        model(**inputs)
    [hook.remove() for hook in hooks]
    model.set_attn_implementation("sdpa")
    return seen


def test_llavas_tower():
    tiny = tinies.llava()
    given = tiny.inputs(batch=2)
    names = ("class_attention", "received_attention", "keys", "encoder_features", "class_features", "projector")
    heard = listen(tiny, given, "handover", *names)[0]
    tower = tiny.model.model.vision_tower
    read = tower.encoder.layers[1] if hasattr(tower, "encoder") else tower.vision_model.encoder.layers[1]
    weights = matrices(tiny.model, given, [read.self_attn])[0].mean(dim=1)
    torch.testing.assert_close(heard["class_attention"], weights[:, 0, 1:])
    torch.testing.assert_close(heard["received_attention"], weights[:, 1:, 1:].mean(dim=1))
    with torch.no_grad():
        states = tower(given["pixel_values"], output_hidden_states=True).hidden_states
        keys = read.self_attn.k_proj(read.layer_norm1(states[1])).unflatten(-1, (4, -1)).mean(dim=2)
    torch.testing.assert_close(heard["keys"], keys[:, 1:])
    torch.testing.assert_close(heard["encoder_features"], states[-2][:, 1:])
    torch.testing.assert_close(heard["class_features"], states[-2][:, :1])
    torch.testing.assert_close(heard["projector"](heard["encoder_features"]), heard["x"])


def test_gemma3s_tower_in_cells():
    tiny = tinies.gemma3()
    given = tiny.inputs()
    heard = listen(tiny, given, "handover", "received_attention", "keys", "encoder_features")[0]
    tower = tiny.model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    weights = matrices(tiny.model, given, [tower.encoder.layers[-1].self_attn])[0].mean(dim=1)
    received = weights.mean(dim=1).view(6, 2, 6, 2).mean(dim=(1, 3)).flatten()
    torch.testing.assert_close(heard["received_attention"][0], received)
    with torch.no_grad():
        last = tower(given["pixel_values"]).last_hidden_state[0].view(6, 2, 6, 2, -1).mean(dim=(1, 3)).flatten(0, 1)
    torch.testing.assert_close(heard["encoder_features"][0], last)


def test_qwens_tower_in_cells():
    """Two images of different shapes: the matrix of the last block, in raster order, by a loop of its own."""
    tiny = tinies.qwen2_5_vl()
    given = tiny.batch([[(4, 6), (2, 4)]], seeds=[5])
    Listen.heard.clear()
    names = ("received_attention", "keys")
    heard = []

    class Each(Listen):
        def reduce_streams(self, streams, site):
            super().reduce_streams(streams, site)
            heard.append(self.heard[site.layer])
            return {}

    with tokenreduce.attach(tiny.model, {"handover": Each(wanted=names)}), torch.no_grad():
        tiny.model(**given)
    tower, seen = tiny.model.model.visual, {}
    block = tower.blocks[-1]
    hook = block.register_forward_pre_hook(lambda m, a, k: seen.update(x=a[0], **k), with_kwargs=True)
    order = {}
    merge = tower.merger.register_forward_hook(lambda m, a, out: order.update(merged=out))
    with torch.no_grad():
        raster = tower(given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output
        hook.remove(), merge.remove()
        x = block.norm1(seen["x"])
        query, key, _ = block.attn.qkv(x).view(len(x), 3, 4, -1).unbind(1)
        cosine, sine = (side[:, None] for side in seen["position_embeddings"])
        turned = [side * cosine + torch.cat([-side[..., 4:], side[..., :4]], -1) * sine for side in (query, key)]
        received = []
        for begin, end in ((0, 96), (96, 128)):
            q, k = (side[begin:end].transpose(0, 1) for side in turned)
            received.append((q @ k.mT * block.attn.scaling).softmax(-1).mean(dim=(0, 1)))
    place = [int((order["merged"] - row).abs().sum(-1).argmin()) for row in raster]  # of each token, where it stood
    cells = torch.cat(received).view(-1, 4).mean(1)[place]
    keys = key.mean(1).view(-1, 4, key.shape[-1]).mean(1)[place]
    got = sorted(heard, key=lambda one: -one["x"].shape[1])
    for one, (begin, end) in zip(got, ((0, 24), (24, 32)), strict=True):
        torch.testing.assert_close(one["received_attention"][0], cells[begin:end])
        torch.testing.assert_close(one["keys"][0], keys[begin:end])


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_the_language_model(family, tiny, side):
    sizes = [[tiny.size], [tiny.size] * 2]
    given = tiny.batch(sizes, tails=[4, 7], side=side)
    heard = listen(tiny, given, "language", "readout_attention", "text_attention", unit="image")
    layers = tiny.model.model.language_model.layers
    weights = matrices(tiny.model, given, [layer.self_attn for layer in layers])
    real = given["attention_mask"].bool()
    for index in range(len(layers)):
        mean = weights[index].mean(dim=1)
        got = heard[index]
        images = []
        for b, row in enumerate(given["input_ids"]):
            columns = torch.arange(len(row))
            marks = columns[(row == tinies.IMAGE)]
            per = marks.split([tiny.size[0] * tiny.size[1]] * len(sizes[b]))
            last = int(columns[real[b]][-1])
            for image in per:
                text = [int(c) for c in columns[real[b]] if row[c] != tinies.IMAGE and c > image[-1]]
                images.append((mean[b, last, image], mean[b, text][:, image].mean(dim=0)))
        torch.testing.assert_close(
            got["readout_attention"], torch.stack([one for one, _ in images]), atol=1e-6, rtol=1e-4
        )
        torch.testing.assert_close(got["text_attention"], torch.stack([two for _, two in images]), atol=1e-6, rtol=1e-4)


def test_prompt_embeddings(family, tiny):
    given = tiny.batch([[tiny.size], [tiny.size]], tails=[4, 7])
    heard = listen(tiny, given, "handover", "prompt_embeddings")[0]["prompt_embeddings"]
    embed = tiny.model.get_input_embeddings()
    for b, row in enumerate(given["input_ids"]):
        text = row[(row != tinies.IMAGE) & given["attention_mask"][b].bool()]
        with torch.no_grad():
            torch.testing.assert_close(heard[b, : len(text)], embed(text))
        assert not heard[b, len(text) :].any()


def test_keys_between_layers_know_no_positions():
    """Two equal tokens at different places have equal keys."""
    tiny = tinies.llava()
    given = tiny.inputs()

    class Same(tokenreduce.Reducer):
        def reduce(self, tokens, signals, remove):
            keep = torch.zeros(tokens.x.shape[0], 2, dtype=torch.long)
            keep[:, 1] = 1
            return Reduction(keep, length=tokens.count)

    with torch.no_grad():
        layer = tiny.model.model.language_model.layers[0]
        x = {}
        hook = layer.register_forward_pre_hook(lambda m, a: x.update(x=a[0]))
        heard = listen(tiny, given, "language", "keys")[0]["keys"]
        hook.remove()
        own = layer.self_attn.k_proj(layer.input_layernorm(x["x"])).unflatten(-1, (2, -1)).mean(dim=2)
    torch.testing.assert_close(heard[0], own[0, 3:39])
    with tokenreduce.attach(tiny.model, {"handover": Same(keep=2)}) as handle:
        write(tiny.model, given)
        assert handle.last.tokens["image"] == 2
