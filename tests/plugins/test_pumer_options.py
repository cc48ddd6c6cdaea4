"""PuMer's options on tiny ViLTs and ViTs."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError


@pytest.fixture
def vilt(tiny_vilt, vilt_inputs):
    """A float64 ViLT of 37 image tokens and inputs with 10 text tokens."""

    def build(kind="ViltForQuestionAnswering", text=10, **masks):
        model = tiny_vilt(kind, image_size=48, max_image_length=-1).double()
        inputs = vilt_inputs(3, text, 48, 48, **masks)
        return model, {**inputs, "pixel_values": inputs["pixel_values"].double()}

    return build


@torch.no_grad()
@pytest.mark.parametrize("kind", [None, "text", "class", "key-norm"])
def test_saliency_on_a_vilt(oracle, vilt, kind):
    model, inputs = vilt()
    with tokenreduce.attach(
        model, "pumer", prune=0.4, merge=0, text_merge=0, saliency=kind, layers=[0], trace=True
    ) as handle:
        model(**inputs)
        assert handle.notes == []
        for sample, pair in enumerate(zip(inputs["input_ids"], inputs["pixel_values"], strict=True)):
            keys, attention = oracle.first_signals(model, *pair)
            score = {"class": attention[0, 10:], "key-norm": keys[10:].norm(dim=-1)}.get(kind)
            score = attention[:10, 10:].sum(dim=0) if score is None else score
            wanted = [10 + place for place in oracle.falling(score)[: 37 - 15]]
            assert handle.last.trace[sample] == [[place] for place in [*range(10), *wanted]]


@torch.no_grad()
@pytest.mark.parametrize("kind", [None, "class", "key-norm"])
def test_saliency_on_a_vit(oracle, tiny_vit, images, kind):
    model, x = tiny_vit(img_size=48).double(), images(3, 48, 48).double()
    with tokenreduce.attach(model, "pumer", prune=0.4, merge=0, saliency=kind, layers=[0], trace=True) as handle:
        model(x)
        assert bool(handle.notes) == (kind is None)
        for sample, image in enumerate(x):
            keys, attention = oracle.first_signals(model, image)
            score = keys[1:].norm(dim=-1) if kind == "key-norm" else attention[0, 1:]
            wanted = [place + 1 for place in oracle.falling(score)[: 37 - 15 - 1]]
            assert handle.last.trace[sample] == [[place] for place in [0, *wanted]]


@torch.no_grad()
def test_pumer_on_a_vit_counts_as_published_and_protects_the_class_token(tiny_vit, images, flow):
    model = tiny_vit(img_size=96, depth=12)
    with tokenreduce.attach(model, "pumer", trace=True) as handle:
        model(images(2, 96, 96))
        assert flow(handle) == [145, 87, 52, 31]
        assert handle.config["layers"] == [2, 5, 8]
        for sample in range(2):
            assert handle.last.trace[sample][0] == [0]


@torch.no_grad()
def test_random_saliency(vilt):
    model, inputs = vilt()

    def output(**options):
        with tokenreduce.attach(model, "pumer", saliency="random", **options):
            return model(**inputs).logits

    assert torch.equal(output(), output())
    assert not torch.equal(output(seed=1), output(seed=2))
    model.train()
    assert not torch.equal(output(), output())


def test_errors_for_unfit_backbones_say_what_to_pass(tiny_vit):
    headless = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(UnfitReducerError, match=r"pass saliency='key-norm' or 'random', or prune=0"):
        tokenreduce.attach(headless, "pumer")
    for options in ({"saliency": "key-norm"}, {"saliency": "random"}, {"prune": 0}):
        tokenreduce.attach(headless, "pumer", **options).detach()
    with pytest.raises(UnfitReducerError, match="text_attention"):
        tokenreduce.attach(tiny_vit(), "pumer", saliency="text")
    tokenreduce.attach(tiny_vit(), "pumer", saliency="text", prune=0).detach()  # nothing is pruned: no signal needed
    with pytest.raises(UnfitReducerError, match="modality_aware=False needs text and image in one sequence"):
        tokenreduce.attach(tiny_vit(), "pumer", modality_aware=False)
    with pytest.raises(OptionError, match=r"\[0, 1\), got 1"):
        tokenreduce.attach(tiny_vit(), "pumer", prune=1)


@torch.no_grad()
def test_both_ways_of_merging_take_as_many_tokens(vilt, shapes, flow):
    model, inputs = vilt()
    seen = shapes(model.vilt.encoder.layer)
    with tokenreduce.attach(model, "pumer", layers=[0, 1]) as handle:
        model(**inputs)
        assert flow(handle, "text") == [10, 8, 6]
        assert flow(handle) == [37, 22, 13]
    with tokenreduce.attach(model, "pumer", layers=[0], modality_aware=False) as handle:
        model(**inputs)
        assert flow(handle, "text+image") == [47, 30]
    assert seen == [30, 19, 19, 19, 30, 30, 30, 30]


@torch.no_grad()
@pytest.mark.parametrize("modality_aware", [True, False])
@pytest.mark.parametrize("kind", ["text", "class", "key-norm", "random"])
def test_the_text_class_token_stays_first_and_alone(vilt, modality_aware, kind):
    model, inputs = vilt()
    options = {"prune": 0.2, "merge": 0.5, "text_merge": 0.5, "saliency": kind}
    with tokenreduce.attach(
        model, "pumer", layers=[0, 1, 2], modality_aware=modality_aware, trace=True, **options
    ) as handle:
        logits = model(**inputs).logits
        trace = handle.last.trace
    assert logits.isfinite().all()
    for sample in range(3):
        assert trace[sample][0] == [0]
        if modality_aware:  # text is merged, never pruned; over both together it may go with an image token
            assert {token for group in trace[sample] for token in group} >= set(range(10))


@torch.no_grad()
def test_modality_aware_merging_never_mixes(vilt):
    model, inputs = vilt()
    mixed = {}
    for aware in (True, False):
        with tokenreduce.attach(
            model, "pumer", layers=[0, 1, 2], merge=0.5, text_merge=0.5, modality_aware=aware, trace=True
        ) as handle:
            model(**inputs)
            groups = [group for sample in handle.last.trace for group in sample]
        mixed[aware] = sum(min(group, default=99) < 10 <= max(group, default=0) for group in groups)
    assert mixed[True] == 0


@torch.no_grad()
@pytest.mark.parametrize("modality_aware", [True, False])
def test_text_is_restored_to_its_positions_for_token_heads(vilt, modality_aware):
    model, inputs = vilt("ViltForMaskedLM")
    with tokenreduce.attach(
        model, "pumer", layers=[0, 2], text_merge=0.4, modality_aware=modality_aware, trace=True
    ) as handle:
        logits = model(**inputs).logits
        hidden = model.vilt(**inputs).last_hidden_state
        source = handle.last.trace.stream("text")
    assert logits.shape == (3, 10, 99)
    for sample in range(3):
        for one in range(10):
            for other in range(one):
                together = bool(source[sample, one] == source[sample, other])
                assert together == torch.equal(hidden[sample, one], hidden[sample, other])
                assert together == torch.allclose(logits[sample, one], logits[sample, other])
        if modality_aware:
            assert source[sample].max() < 10
    assert len(source.unique()) < 10 or not modality_aware


@torch.no_grad()
def test_restored_text_is_the_encoders_own(vilt):
    model, inputs = vilt("ViltModel")
    with tokenreduce.attach(model, "pumer", layers=[0, 2], trace=True, restore=False) as handle:
        reduced = model(**inputs).last_hidden_state
        source, lengths = handle.last.trace.stream("text"), handle.last.tokens
    with tokenreduce.attach(model, "pumer", layers=[0, 2]):
        restored = model(**inputs).last_hidden_state
    with tokenreduce.attach(model, "pumer", layers=[0, 2], restore=True):
        full = model(**inputs).last_hidden_state
    assert reduced.shape[1] == lengths["text"] + lengths["image"]
    assert restored.shape[1] == 10 + lengths["image"]
    assert full.shape[1] == 47
    for sample in range(3):
        assert torch.equal(restored[sample, :10], reduced[sample, source[sample]])
        assert torch.equal(full[sample, :10], reduced[sample, source[sample]])
        assert torch.equal(restored[sample, 10:], reduced[sample, lengths["text"] :])


@torch.no_grad()
def test_no_image_token_is_lost_where_text_comes_back_after_merging_over_both(vilt):
    model, inputs = vilt("ViltModel")
    with tokenreduce.attach(model, "pumer", layers=[0, 2], modality_aware=False, restore=False):
        reduced = model(**inputs).last_hidden_state
    with tokenreduce.attach(model, "pumer", layers=[0, 2], modality_aware=False):
        restored = model(**inputs).last_hidden_state
    assert restored.shape[1] == 10 + reduced.shape[1] - 1  # the text, and all that follows [CLS]: who knows what it is
    assert torch.equal(restored[:, 0], reduced[:, 0])
    assert torch.equal(restored[:, 10:], reduced[:, 1:])


@torch.no_grad()
def test_text_pruned_along_with_an_image_token_comes_back_as_it_was_last(vilt):
    model, inputs = vilt("ViltModel")
    options = {"prune": 0.3, "merge": 0.5, "text_merge": 0.5, "modality_aware": False, "layers": [0, 1, 2]}
    with tokenreduce.attach(model, "pumer", trace=True, **options) as handle:
        restored = model(**inputs).last_hidden_state[:, :10]
        gone = handle.last.trace.stream("text") < 0
    with tokenreduce.attach(model, "pumer", restore=True, **options):
        full = model(**inputs).last_hidden_state[:, :10]
    assert gone.any()  # merged into an image token, which was pruned later
    assert torch.equal(restored[~gone], full[~gone])
    assert torch.equal(restored[gone], full[gone])  # not zeros


@torch.no_grad()
def test_a_site_that_prunes_nothing_is_skipped_unless_pruning_is_off(vilt, flow):
    model, inputs = vilt()
    with tokenreduce.attach(model, "pumer", prune=0.01, layers=[0]) as handle:  # round(0.37) = 0
        model(**inputs)
        assert flow(handle) == [37, 37]
        assert flow(handle, "text") == [10, 10]
    with tokenreduce.attach(model, "pumer", prune=0, layers=[0]) as handle:
        model(**inputs)
        assert flow(handle) == [37, 26]
        assert flow(handle, "text") == [10, 8]


@torch.no_grad()
@pytest.mark.parametrize("modality_aware", [True, False])
def test_padded_text_neither_votes_nor_merges(vilt, modality_aware):
    model, inputs = vilt(lengths=[10, 6, 3])
    with tokenreduce.attach(
        model, "pumer", layers=[0, 1], trace=True, text_merge=0.3, modality_aware=modality_aware
    ) as handle:
        logits = model(**inputs).logits
        trace = handle.last.trace
        other = dict(inputs)
        other["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 5)
        torch.testing.assert_close(model(**other).logits, logits)
        assert torch.equal(handle.last.trace.source, trace.source)
    for sample, length in enumerate([10, 6, 3]):
        for group in trace[sample]:
            padding = [token for token in group if length <= token < 10]
            assert not padding or len(group) == 1


@torch.no_grad()
def test_ratios_may_be_lists_with_one_per_site(tiny_vit, images, flow):
    model, x = tiny_vit(img_size=48), images(2, 48, 48)
    with tokenreduce.attach(model, "pumer", prune=[0.2, 0.0, 0.1], merge=[0.0, 0.3], layers=[0, 1, 3]) as handle:
        model(x)
        assert flow(handle) == [37, 30, 21, 19]  # 7 pruned, 9 merged, 2 pruned
        assert handle.config["prune"] == [0.2, 0.0, 0.1]
        handle.scale(0.5)
        model(x)
        assert flow(handle) == [37, 33, 28, 27]

    def output(**options):
        with tokenreduce.attach(model, "pumer", **options):
            return model(x)

    same = output(prune=[0.1] * 3, merge=(0.3, 0.3, 0.3), layers=[0, 1, 3])
    assert torch.equal(same, output(prune=0.1, merge=0.3, layers=[0, 1, 3]))
    with pytest.raises(OptionError, match="merge has 3 entries for 2 sites"):
        output(merge=[0.1, 0.1, 0.1], layers=[0, 1])
    for wrong in ({"prune": [0.1, 1.0]}, {"merge": [0.1, -0.1]}, {"text_merge": [None]}, {"prune": "0.1"}):
        with pytest.raises(OptionError):
            output(**wrong)
