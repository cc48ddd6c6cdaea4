"""SigLIP 2: padding is no token, shapes differ between samples, and the pooling head sees what is left of real ones."""

from __future__ import annotations

import pytest
import torch
from transformers.models.siglip2.modeling_siglip2 import Siglip2Model, Siglip2VisionModel

import tokenreduce
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.transformers.siglip2 import Siglip2, patches

REDUCERS = {
    "tome": {"r": 2},
    "evit": {"keep": 0.6, "saliency": "key-norm"},
    "evit-drop": {"keep": 0.6, "saliency": "key-norm", "fuse": False},
    "pumer": {"saliency": "key-norm"},
}


@pytest.fixture
def tower():
    return Siglip2().examples()["Siglip2VisionModel"]().model


@pytest.fixture(params=REDUCERS)
def reducer(request):
    return request.param.partition("-")[0], REDUCERS[request.param]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [True, False])
def test_zero_budget_is_the_identity(tower, implementation, masked, assert_close):
    tower.set_attn_implementation(implementation)
    inputs = patches()
    if not masked:
        inputs["pixel_attention_mask"] = None
    with torch.no_grad():
        plain = tower(**inputs)
        with tokenreduce.attach(tower, "none"):
            got = tower(**inputs)
    assert_close(got.pooler_output, plain.pooler_output)
    assert_close(got.last_hidden_state, plain.last_hidden_state)


def test_what_is_in_the_padding_does_not_matter(tower, reducer, assert_close):
    name, options = reducer
    inputs = patches()
    noisy = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    noisy["pixel_values"][1, 12:] = 100 * torch.randn(8, 192)
    with torch.no_grad(), tokenreduce.attach(tower, name, **options) as handle:
        expected = tower(**inputs).pooler_output
        assert handle.last.sites[-1].tokens_out < 20
        assert_close(tower(**noisy).pooler_output, expected)


def test_padding_goes_before_any_patch(tower, assert_close):
    """Twelve patches and eight of padding: where eight tokens go, the small picture is that of the plain model."""
    inputs = patches(((3, 4), (2, 6)))
    with torch.no_grad():
        plain = tower(**inputs).pooler_output
        with tokenreduce.attach(tower, "evit", keep=12, saliency="key-norm", fuse=False, layers=[1]) as handle:
            got = tower(**inputs).pooler_output
            assert handle.last.tokens == {"image": 12}
    assert_close(got, plain)


def test_the_head_pools_over_what_is_left(tower, assert_close):
    inputs, seen = patches(), []
    hook = tower.head.register_forward_hook(lambda module, args, output: seen.append(args))
    with torch.no_grad(), tokenreduce.attach(tower, "random", remove=9, layers=[2], trace=True) as handle:
        tower(**inputs)
        kept = handle.last.trace
    hook.remove()
    ((tokens, mask),) = seen
    assert tokens.shape[1] == mask.shape[1] == 11
    for sample, real in enumerate((20, 12)):
        places = [members[0] for members in kept[sample]]
        assert mask[sample].tolist() == [int(place < real) for place in places]


@pytest.mark.parametrize("label", list(Siglip2().examples()))
def test_no_head_gets_a_mask_of_another_length(label):
    example = Siglip2().examples()[label]()
    with torch.no_grad():
        for name, options in (("tome", {"r": 2}), ("random", {"remove": 3})):
            with tokenreduce.attach(example.model, name, **options):
                assert all(v.isfinite().all() for v in example.model(**example.inputs).values() if torch.is_tensor(v))


def test_a_merged_token_counts_by_its_size(tower, assert_close):
    """Patches that are all alike merge without a trace."""
    inputs = patches(((4, 5), (4, 5)))
    inputs["pixel_values"] = torch.ones_like(inputs["pixel_values"])
    torch.nn.init.zeros_(tower.embeddings.position_embedding.weight)
    with torch.no_grad():
        plain = tower(**inputs).pooler_output
        with tokenreduce.attach(tower, "tome", r=4):
            assert_close(tower(**inputs).pooler_output, plain)


def test_a_text_that_guides(assert_close):
    example = Siglip2().examples()["Siglip2Model"]()
    model: Siglip2Model = example.model
    with torch.no_grad():
        words = model.get_text_features(example.inputs["input_ids"][:1]).pooler_output
        with tokenreduce.attach(model, "evit", keep=0.5, saliency="text", guide=words) as handle:
            model(**example.inputs)
            assert handle.last.tokens["image"] < 20


def test_refusals(tower):
    example = Siglip2().examples()["Siglip2Model"]()
    with pytest.raises(UnsupportedModelError, match="last position"):
        tokenreduce.attach(example.model.text_model, "tome")
    with pytest.raises(UnsupportedModelError, match="max_num_patches"):
        Siglip2().resize(tower, 40, 40)

    class Own(Siglip2VisionModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    with pytest.raises(UnsupportedModelError, match="its own forward"):
        tokenreduce.attach(Own(tower.config), "tome")
    with tokenreduce.attach(tower, "tome"), pytest.raises(UnsupportedCallError, match="output_attentions"):
        tower(**patches(), output_attentions=True)
