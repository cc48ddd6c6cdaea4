"""Heads that read every token see a merged token with its weight, and methods that lack a signal say so."""

from __future__ import annotations

import pytest
import torch

import tokenreduce

NO_CLASS = {"class_token": False, "global_pool": "avg"}


def final_tokens(model, x, *, norm=True, **attach):
    """Tokens after the last block as they are (restore=False), and the trace that tells what each stands for."""
    with tokenreduce.attach(model, trace=True, restore=False, **attach) as handle, torch.no_grad():
        tokens = model.forward_features(x) if norm else hooked(model, x)
        return tokens, handle.last.trace


def hooked(model, x):
    seen = []
    hook = model.blocks.register_forward_hook(lambda module, args, output: seen.append(output))
    model(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("arguments", [NO_CLASS, {"global_pool": "avg"}, {"global_pool": "avg", "reg_tokens": 3}])
@pytest.mark.parametrize("options", [{"reducer": "tome", "r": 4}, {"reducer": "pumer", "prune": 0}])
def test_average_pooling_weighs_merged_tokens_by_size(arguments, options, tiny_vit, images, assert_close):
    model, x = tiny_vit(**arguments), images()
    tokens, trace = final_tokens(model, x, **options)
    prefix = model.num_prefix_tokens
    size = trace.size[:, prefix:, None].to(tokens.dtype)
    assert size.max() > 1
    pooled = (tokens[:, prefix:] * size).sum(dim=1) / size.sum(dim=1)
    with torch.no_grad():
        expected = model.head(model.fc_norm(pooled))
        with tokenreduce.attach(model, **options):
            assert_close(model(x), expected)


def test_average_pooling_of_what_survived_a_random_drop(tiny_vit, images, assert_close):
    model, x = tiny_vit(**NO_CLASS), images()
    tokens, _ = final_tokens(model, x, reducer="random", keep=0.5)
    with torch.no_grad():
        expected = model.head(model.fc_norm(tokens.mean(dim=1)))
        with tokenreduce.attach(model, "random", keep=0.5):
            assert_close(model(x), expected)


WHOLE = {  # merges, or drops
    "tome": {"reducer": "tome", "r": 4},
    "tome-list": {"reducer": "tome", "r": [5, 1, 1]},
    "evit": {"reducer": "evit"},
    "evit-drop": {"reducer": "evit", "fuse": False},
    "random": {"reducer": "random", "keep": 0.5},
    "pumer-merge": {"reducer": "pumer", "prune": 0},
}
BOTH = {  # merges and drops: how many input tokens are left in the end differs from sample to sample
    "pumer": {"reducer": "pumer"},
    "pumer-more": {"reducer": "pumer", "prune": 0.3, "layers": [0, 1]},
}


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("pool", ["avg", "avg-of-normed", "avgmax", "max", "map", "prr"])
def test_pools_see_a_merged_token_as_often_as_its_size(pool, case, tiny_vit, images, assert_close):
    # with fc_norm, which follows the pooling, a mean of the wrong scale would go unseen
    model, x = tiny_vit(global_pool=pool.split("-")[0], fc_norm=False if "-" in pool else None), images()
    tokens, trace = final_tokens(model, x, **WHOLE[case])
    with torch.no_grad():
        expected = [
            model.forward_head(torch.repeat_interleave(sample, size.round().long(), dim=0)[None])
            for sample, size in zip(tokens, trace.size, strict=True)
        ]
        with tokenreduce.attach(model, **WHOLE[case]):
            assert_close(model(x), torch.cat(expected))


@pytest.mark.parametrize("case", BOTH)
@pytest.mark.parametrize("pool", ["avg", "avg-of-normed", "avgmax", "max", "map", "prr"])
def test_pools_see_every_token_at_its_position_after_merges_and_drops(pool, case, tiny_vit, images, assert_close):
    """What is left cannot be repeated to one length for all samples, so dropped tokens come back as they last were."""
    model, x = tiny_vit(global_pool=pool.split("-")[0], fc_norm=False if "-" in pool else None), images()
    with torch.no_grad():
        with tokenreduce.attach(model, restore=True, **BOTH[case]):
            tokens = model.forward_features(x)
        assert tokens.shape[1] == 17
        with tokenreduce.attach(model, **BOTH[case]):
            assert_close(model(x), model.forward_head(tokens))


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("arguments", [NO_CLASS, {"global_pool": "avg", "reg_tokens": 2}])
def test_shares_of_tokens_in_a_mean(arguments, case, tiny_vit, images):
    """Nothing but the final tokens makes up the mean, each with its share of the input tokens that are left."""
    model = tiny_vit(norm_layer=torch.nn.Identity, num_classes=0, **arguments).double()
    x, prefix, options = images(8).double(), model.num_prefix_tokens, WHOLE[case]
    if not model.has_class_token and options["reducer"] == "evit":
        options = {**options, "saliency": "key-norm"}
    tokens, trace = final_tokens(model, x, **options)
    with tokenreduce.attach(model, **options), torch.no_grad():
        mean = model(x)
    size = trace.size[:, prefix:].double()
    basis = tokens[:, prefix:].transpose(1, 2)
    share = torch.linalg.lstsq(basis, mean.unsqueeze(-1)).solution.squeeze(-1)
    assert torch.allclose(basis @ share.unsqueeze(-1), mean.unsqueeze(-1))
    assert torch.allclose(share.sum(dim=1), torch.ones(8).double())
    assert torch.allclose(share, size / size.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("arguments", [NO_CLASS, {"global_pool": "avg"}, {"global_pool": "max", "reg_tokens": 2}])
@pytest.mark.parametrize(
    "options",
    [
        {"reducer": "random", "remove": 1000},
        {"reducer": "random", "remove": 1.0},
        {"reducer": "tome", "r": 1000},
        {"reducer": "evit", "keep": 1e-9, "saliency": "key-norm"},
        {"reducer": "evit", "keep": 1e-9, "saliency": "key-norm", "fuse": False},
        {"reducer": "pumer", "prune": 0.99, "merge": 1.0, "saliency": "key-norm"},
        {"reducer": "pumer", "prune": 0.0, "merge": 1.0, "saliency": "key-norm"},
    ],
    ids=str,
)
def test_the_last_token_is_never_removed(arguments, options, tiny_vit, images):
    model = tiny_vit(**arguments)
    layers = [0, 1, 2, 3]
    with tokenreduce.attach(model, layers=layers, **options) as handle, torch.no_grad():
        assert model(images()).isfinite().all()
        assert handle.last.sites[-1].tokens_out > model.num_prefix_tokens


def test_token_pooling_gets_the_short_sequence(tiny_vit, images):
    model = tiny_vit()
    with tokenreduce.attach(model, "tome", r=3), torch.no_grad():
        assert model.forward_features(images()).shape[1] == 17 - 12


@pytest.mark.parametrize("arguments", [{}, NO_CLASS, {"global_pool": ""}, {"reg_tokens": 2}])
@pytest.mark.parametrize("options", [{"reducer": "tome", "r": 3}, {"reducer": "tome", "r": [2, 0, 5]}])
def test_restore_returns_every_token_to_its_position(arguments, options, tiny_vit, images, assert_close):
    model, x = tiny_vit(**arguments), images()
    tokens, trace = final_tokens(model, x, **options)
    with tokenreduce.attach(model, restore=True, **options), torch.no_grad():
        restored = model.forward_features(x)
    assert restored.shape[1] == model.num_prefix_tokens + 16
    assert trace.source.min() >= 0
    expected = tokens.gather(1, trace.source.unsqueeze(-1).expand(-1, -1, 32))
    assert_close(restored, expected)


@pytest.mark.parametrize("reducer", ["random", "tome", "evit", "pumer"])
def test_a_model_without_pooling_gets_the_full_length(reducer, tiny_vit, images):
    model, x = tiny_vit(global_pool=""), images()
    with torch.no_grad():
        plain = model(x)
        with tokenreduce.attach(model, reducer):
            assert model(x).shape == plain.shape == (2, 17, 7)


def test_a_dropped_token_is_restored_with_the_last_value_it_had(tiny_vit, images, assert_close):
    model, x = tiny_vit(norm_layer=torch.nn.Identity), images()
    options = {"reducer": "random", "keep": 0.5, "layers": [1]}
    tokens, trace = final_tokens(model, x, **options)
    with torch.no_grad():
        first, second = model.blocks[0], model.blocks[1]
        middle = first(model.norm_pre(model._pos_embed(model.patch_embed(x))))
        middle = middle + second.attn(second.norm1(middle))  # the site lies after the attention
        with tokenreduce.attach(model, restore=True, **options):
            restored = model.forward_features(x)
    gone = trace.source < 0
    assert gone.sum() == 2 * 8
    assert_close(restored[gone], middle[gone])
    kept = tokens.gather(1, trace.source.clamp(min=0).unsqueeze(-1).expand(-1, -1, 32))
    assert_close(restored[~gone], kept[~gone])


@pytest.mark.parametrize("reducer", ["random", "tome", "evit", "pumer"])
def test_restore_on_vilt_gives_text_and_image_back(reducer, tiny_vilt, vilt_inputs, assert_close):
    model, inputs = tiny_vilt("ViltModel"), vilt_inputs(lengths=[7, 4, 2], sizes=[(32, 32), (16, 24), (32, 8)])
    with torch.no_grad():
        with tokenreduce.attach(model, reducer, trace=True, restore=False) as handle:
            tokens = model(**inputs).last_hidden_state
            source = handle.last.trace.source
        with tokenreduce.attach(model, reducer, restore=True):
            restored = model(**inputs).last_hidden_state
    assert restored.shape[1] == 7 + 17
    real = torch.cat([inputs["attention_mask"].bool(), torch.ones(3, 1, dtype=torch.bool)], dim=1)
    patches = torch.arange(16) < torch.tensor([16, 6, 4])[:, None]
    real = torch.cat([real, patches], dim=1) & (source >= 0)
    expected = tokens.gather(1, source.clamp(min=0).unsqueeze(-1).expand(-1, -1, 32))
    assert_close(restored[real], expected[real])


def test_restore_false_leaves_the_short_sequence_even_where_the_head_would_have_more(tiny_vit, images):
    model = tiny_vit(global_pool="")
    with tokenreduce.attach(model, "tome", r=3, restore=False), torch.no_grad():
        assert model(images()).shape[1] == 17 - 12


def test_evit_without_a_class_token_is_refused_and_says_what_works(tiny_vit, images, snapshot):
    model = tiny_vit(**NO_CLASS)
    untouched = snapshot(model)
    with pytest.raises(tokenreduce.errors.UnfitReducerError) as caught:
        tokenreduce.attach(model, "evit")
    message = str(caught.value)
    assert "class_attention" in message
    assert "tome" in message
    assert snapshot(model) == untouched
    with tokenreduce.attach(model, "evit", saliency="key-norm") as handle, torch.no_grad():
        assert model(images()).shape == (2, 7)
        assert handle.last.sites[-1].tokens_out < 16


@pytest.mark.parametrize("reducer", ["evit", "pumer"])
def test_reducers_named_as_running_here_do_run_here(reducer, tiny_vit, images):
    model = tiny_vit(**NO_CLASS)
    with pytest.raises(tokenreduce.errors.UnfitReducerError) as caught:
        tokenreduce.attach(model, reducer)
    named = str(caught.value).split("Reducers that run here: ")[1].rstrip(".").split(", ")
    assert "tome" in named
    for name in named:
        with tokenreduce.attach(model, name), torch.no_grad():
            model(images())


@pytest.mark.parametrize("options", [{"saliency": "text"}, {"modality_aware": False}])
def test_pumer_options_that_need_text_are_refused_on_a_vit(options, tiny_vit):
    with pytest.raises(tokenreduce.errors.UnfitReducerError, match="text"):
        tokenreduce.attach(tiny_vit(), "pumer", **options)


def test_pumer_on_a_vit_goes_by_the_class_token_and_says_so(tiny_vit, images):
    model = tiny_vit()
    with tokenreduce.attach(model, "pumer") as handle, torch.no_grad():
        assert any("class" in note for note in handle.notes)
        assert handle.notes[0] in str(handle)
        fallen_back = model(images())
        assert handle.notes[0] in str(handle)
    with tokenreduce.attach(model, "pumer", saliency="class") as handle, torch.no_grad():
        assert handle.notes == []
        assert torch.equal(model(images()), fallen_back)


def test_pumer_without_a_class_token_can_merge_alone(tiny_vit, images):
    model = tiny_vit(**NO_CLASS)
    with pytest.raises(tokenreduce.errors.UnfitReducerError, match="key-norm"):
        tokenreduce.attach(model, "pumer")
    with tokenreduce.attach(model, "pumer", prune=0) as handle, torch.no_grad():
        assert model(images()).shape == (2, 7)
        assert handle.last.sites[-1].tokens_out < 16
