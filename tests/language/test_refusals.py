"""What cannot be right is refused before anything is computed, with what to type."""

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce.errors import LayerError, OptionError, UnfitReducerError, UnsupportedCallError, UnsupportedModelError

from . import tinies
from .oracle import write

CUT = {"language": {"reducer": "evit", "layers": [1], "keep": 0.5, "fuse": False}}
HANDOVER = {"handover": {"reducer": "random", "keep": 8}}


@pytest.mark.parametrize("plan", [HANDOVER, CUT], ids=["hand-over", "cut"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_implementation": "static"}, "StaticCache.*cache_implementation"),
        ({"cache_implementation": "offloaded"}, "offload.*DynamicCache"),
        ({"prefill_chunk_size": 7}, "prefill_chunk_size"),
        ({"prefill_chunk_size": 3}, "prefill_chunk_size"),
    ],
)
def test_caches_and_chunks(tiny, family, plan, options, words):
    if options.get("cache_implementation") == "offloaded" and not torch.cuda.is_available():
        cache = transformers.DynamicCache()
        cache.offloading = True
        options = {tinies_cache(tiny): cache}
    plain = write(tiny.model, tiny.inputs())[1]
    with tokenreduce.attach(tiny.model, plan), pytest.raises(UnsupportedCallError, match=words):
        write(tiny.model, tiny.inputs(), **options)
    assert torch.equal(write(tiny.model, tiny.inputs())[1], plain)


def tinies_cache(tiny):
    from .oracle import cache_name

    return cache_name(tiny.model)


def test_a_cache_with_layers_of_another_kind(tiny):
    class Other(transformers.cache_utils.DynamicLayer):
        pass

    cache = transformers.DynamicCache()
    cache.layers = [Other() for _ in range(4)]
    cache.layer_class_to_replicate = None
    with tokenreduce.attach(tiny.model, CUT), pytest.raises(UnsupportedCallError, match=r"Other.*dynamic"):
        tiny.model(**tiny.inputs(), **{tinies_cache(tiny): cache})


def test_flex_attention(tiny):
    with tokenreduce.attach(tiny.model, HANDOVER):
        tiny.model.model.language_model.config._attn_implementation = "flex_attention"
        with pytest.raises(UnsupportedCallError, match=r"flex_attention.*'sdpa'"):
            tiny.model(**tiny.inputs())


def test_packed_sequences():
    tiny = tinies.llava()
    given = tiny.inputs()
    columns = given["input_ids"].shape[1]
    positions = torch.cat([torch.arange(columns - 3), torch.arange(3)])[None]
    with tokenreduce.attach(tiny.model, HANDOVER):
        with pytest.raises(UnsupportedCallError, match=r"packed.*attention_mask"):
            tiny.model(**given, position_ids=positions)
        with pytest.raises(UnsupportedCallError, match=r"packed"):
            tiny.model(**given, cu_seq_lens_q=torch.tensor([0, columns]))


def test_features_from_before():
    tiny = tinies.llava()
    given = tiny.inputs()
    features = tiny.model.model.get_image_features(given.pop("pixel_values"), return_dict=True)
    name = "mm_encoder_outputs"
    with tokenreduce.attach(tiny.model, HANDOVER), torch.no_grad():
        with pytest.raises(UnsupportedCallError, match=r"get_image_features"):
            tiny.model(**given, **{name: {"image": features}})
        again = tiny.model.model.get_image_features(tiny.inputs()["pixel_values"], return_dict=True)
        tiny.model(**given, **{name: {"image": again}})


@pytest.mark.parametrize(
    ("plan", "options", "error", "words"),
    [
        ({"handover": {"reducer": "random", "layers": [1]}}, {}, LayerError, "hand-over.*'language'"),
        ({"language": {"reducer": "random", "layers": [4]}}, {}, LayerError, "4"),
        ({"langauge": "tome"}, {}, UnsupportedModelError, "language"),
        ({"handover": {"reducer": "evit", "saliency": "text"}}, {}, UnfitReducerError, "text_attention"),
        ({"handover": "random"}, {"unit": "tile"}, OptionError, "'image', 'sample'"),
        ({"handover": "random"}, {"positions": "new"}, OptionError, "'original', 'compact'"),
        ({"handover": "random"}, {"restore": True}, UnsupportedModelError, "restore"),
    ],
)
def test_plans(tiny, plan, options, error, words):
    with pytest.raises(error, match=words):
        tokenreduce.attach(tiny.model, plan, **options)
    assert "forward" not in vars(tiny.model.model)


def test_an_encoder_takes_no_unit_and_no_positions():
    model = transformers.ViTModel(transformers.ViTConfig(**tinies.VISION, image_size=32, patch_size=8))
    with pytest.raises(OptionError, match=r"unit='image'"):
        tokenreduce.attach(model, "random", unit="image")
    with pytest.raises(OptionError, match=r"positions='compact'"):
        tokenreduce.attach(model, "random", positions="compact")


def test_where_a_reducer_lands(tiny, family):
    lands = [
        ({"reducer": "random", "keep": 8}, "handover"),
        ({"reducer": "random", "keep": 8, "layers": [1]}, "language"),
        ({"reducer": "tome", "r": 2}, "handover"),
        ({"reducer": "evit"}, "handover" if family == "llava" else "language"),
        ({"reducer": "evit", "saliency": "text"}, "language"),
    ]
    for options, stack in lands:
        with tokenreduce.attach(tiny.model, **options) as handle:
            assert list(handle.stacks) == [stack]
            assert {site.stack for site in handle.sites} == {stack}


def test_a_library_that_changes_is_refused(tiny, monkeypatch):
    language = type(tiny.model.model.language_model)
    forward = language.forward

    def twice(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.last_hidden_state = out.last_hidden_state * 2
        return out

    monkeypatch.setattr(language, "forward", twice)
    with pytest.raises(UnsupportedModelError, match=r"between its layers"):
        tokenreduce.attach(tiny.model, HANDOVER)
    monkeypatch.undo()
    layer = type(tiny.model.model.language_model.layers[0])
    run = layer.forward

    def mixing(self, hidden_states, *args, **kwargs):
        return run(self, hidden_states, *args, **kwargs) + hidden_states.mean(dim=1, keepdim=True)

    monkeypatch.setattr(layer, "forward", mixing)
    with pytest.raises(UnsupportedModelError, match=r"leaving out a token is not the same as hiding it"):
        tokenreduce.attach(tiny.model, HANDOVER)
    monkeypatch.undo()
    tokenreduce.attach(tiny.model, HANDOVER).detach()


def test_nothing_is_left_behind_after_an_error(tiny):
    plain = write(tiny.model, tiny.inputs())[1]
    with pytest.raises(UnfitReducerError):
        tokenreduce.attach(tiny.model, {"handover": "random", "language": "dynamicvit"})
    assert torch.equal(write(tiny.model, tiny.inputs())[1], plain)
    assert tokenreduce.attachment(tiny.model) is None
