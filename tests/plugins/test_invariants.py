"""What holds for every method on whole models: zero budgets, batches, precision, gradients."""

import pytest
import torch

import tokenreduce

from ..helpers import case_id

CHAIN = "tokenreduce.methods.chain:Chain"
ZERO = [
    ("random", {"remove": 0}),
    ("random", {"remove": 0.0}),
    ("random", {"keep": 1.0}),
    ("random", {"keep": [1.0, 1.0]}),
    ("tome", {"r": 0}),
    ("tome", {"r": (0, -1.0)}),
    ("tome", {"r": [0, 0]}),
    ("tome", {"r": 0, "proportional_attention": False}),
    ("evit", {"keep": 1.0}),
    ("evit", {"keep": 1.0, "fuse": False}),
    ("evit", {"keep": [1.0, 1.0, 1.0]}),
    ("dynamicvit", {"keep": 1.0}),
    ("dynamicvit", {"keep": [1.0, 1.0]}),
    ("pitome", {"keep": 1.0}),
    ("tofu", {"r": 0}),
    ("tofu", {"r": 0, "merge_from": 0}),
    ("diffrate", {"prune": 0, "merge": 0}),
    ("diffrate", {"prune": [0.0], "merge": [0.0, 0]}),
    (CHAIN, {"parts": [{"reducer": "evit", "keep": 1.0}, {"reducer": "tome", "r": 0}, "none"]}),
    ("pumer", {"prune": 0, "merge": 0, "text_merge": 0}),
    ("pumer", {"prune": 0.0, "merge": 0.0, "text_merge": 0.0, "saliency": "class"}),
]
SOME = [
    ("tome", {"r": 4}),
    ("tome", {"r": 4, "proportional_attention": False}),
    ("evit", {"keep": 0.6}),
    ("evit", {"keep": 0.6, "fuse": False}),
    ("evit", {"keep": 0.6, "saliency": "key-norm"}),
    ("pumer", {}),
    ("pumer", {"saliency": "key-norm", "merge": 0.5}),
    ("dynamicvit", {"keep": 0.6}),
    ("pitome", {"keep": 0.8}),
    ("tofu", {"r": 4}),
    ("tofu", {"r": 4, "merge_from": 0}),
    ("diffrate", {"prune": 2, "merge": 3}),
    ("diffrate", {"merge": 4, "prune": 0, "similarity": "keys"}),
    (CHAIN, {"parts": [{"reducer": "evit", "keep": 0.8}, {"reducer": "tome", "r": 2}]}),
    (CHAIN, {"parts": [{"reducer": "tome", "r": 2}, {"reducer": "pumer", "layers": [2, 3]}]}),
]
MERGE_AND_DROP = [
    ("pumer", {}),
    ("pumer", {"saliency": "key-norm", "merge": 0.5}),
    ("pumer", {"saliency": "random"}),
    (CHAIN, {"parts": [{"reducer": "tome", "r": 2}, {"reducer": "pumer", "layers": [2, 3]}]}),
    ("tofu", {"r": 4}),
    ("diffrate", {"prune": 2, "merge": 3}),
]
RANDOM = [("random", {"keep": 0.6}), ("evit", {"keep": 0.6, "saliency": "random"}), ("pumer", {"saliency": "random"})]


@torch.no_grad()
@pytest.mark.parametrize("case", ZERO, ids=case_id)
def test_a_zero_budget_changes_nothing_on_a_vit(tiny_vit, images, case):
    model, x = tiny_vit(), images()
    base = model(x)
    with tokenreduce.attach(model, "none"):
        plain = model(x)
    with tokenreduce.attach(model, case[0], trace=True, **case[1]) as handle:
        assert torch.equal(model(x), plain)
        assert all(row.tokens_in == row.tokens_out == 17 for row in handle.last.sites)
        assert handle.last.trace[0] == [[token] for token in range(17)]
    torch.testing.assert_close(plain, base, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", SOME + RANDOM, ids=case_id)
def test_restore_returns_every_token_to_its_position(tiny_vit, images, case):
    model, x = tiny_vit(img_size=48), images(2, 48, 48)
    with tokenreduce.attach(model, case[0], restore=False, trace=True, **case[1]) as handle:
        reduced = model.forward_features(x)
        source = handle.last.trace.source
    with tokenreduce.attach(model, case[0], restore=True, **case[1]):
        full = model.forward_features(x)
    assert full.shape == (2, 37, 32)
    for sample in range(2):
        for token, end in enumerate(source[sample].tolist()):
            if end >= 0:
                assert torch.equal(full[sample, token], reduced[sample, end])
    assert full.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("case", SOME + RANDOM, ids=case_id)
def test_an_average_counts_each_token_by_its_size(tiny_vit, images, case):
    model, x = tiny_vit(img_size=48, global_pool="avg", fc_norm=False), images(2, 48, 48)
    with tokenreduce.attach(model, case[0], restore=False, trace=True, **case[1]) as handle:
        reduced, size = model.forward_features(x)[:, 1:], handle.last.trace.size[:, 1:, None]
        wanted = (reduced * size).sum(dim=1) / size.sum(dim=1)
    if case in MERGE_AND_DROP:  # every token back at its place, dropped ones with their last value
        with tokenreduce.attach(model, case[0], restore=True, **case[1]):
            wanted = model.forward_features(x)[:, 1:].mean(dim=1)
    with tokenreduce.attach(model, case[0], **case[1]):
        got = model(x)
    torch.testing.assert_close(got, model.head(wanted), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "case", [("evit", {"keep": 0.97}), ("evit", {"keep": 0.97, "saliency": "random"})], ids=case_id
)
def test_restore_puts_tokens_back_when_one_is_replaced_by_the_fused_one(tiny_vit, images, case):
    model, x = tiny_vit(img_size=56), images(2, 56, 56)  # 49 patches: one goes, the fused token comes, 50 stay 50
    with tokenreduce.attach(model, case[0], layers=[1], restore=False, trace=True, **case[1]) as handle:
        reduced = model.forward_features(x)
        source = handle.last.trace.source
    assert reduced.shape == (2, 50, 32)
    assert not torch.equal(source, torch.arange(50).expand(2, -1))
    with tokenreduce.attach(model, case[0], layers=[1], restore=True, **case[1]):
        full = model.forward_features(x)
    assert torch.equal(full, torch.stack([tokens[ends] for tokens, ends in zip(reduced, source, strict=True)]))


PADDED = [
    ("random", {"remove": 6}),
    ("tome", {"r": 6}),
    ("tome", {"r": 6, "proportional_attention": False}),
    ("evit", {"keep": 0.65}),  # ceil(11.05) stay, five go
    ("evit", {"keep": 0.65, "fuse": False}),
    ("evit", {"keep": 0.65, "saliency": "text"}),
    ("evit", {"keep": 0.65, "saliency": "key-norm"}),
    ("pitome", {"keep": 0.65}),
    ("tofu", {"r": 6}),
    ("tofu", {"r": 6, "merge_from": 0}),
    ("diffrate", {"prune": 2, "merge": 4, "saliency": "key-norm"}),
    ("diffrate", {"prune": 0, "merge": 6, "similarity": "keys"}),
    ("pumer", {}),
    ("pumer", {"prune": 0, "merge": 0.4}),
    ("pumer", {"saliency": "random"}),
    (CHAIN, {"parts": [{"reducer": "evit", "keep": 0.8}, {"reducer": "tome", "r": 2}]}),
    (CHAIN, {"parts": [{"reducer": "tome", "r": 2}, {"reducer": "evit", "keep": 0.8}, "none"]}),
]


@torch.no_grad()
@pytest.mark.parametrize("case", PADDED, ids=case_id)
def test_removing_only_padding_changes_nothing(tiny_vilt, vilt_inputs, case):
    model = tiny_vilt().double()
    inputs = vilt_inputs(3, 7, lengths=[7, 4, 2], sizes=[(32, 32), (16, 32), (24, 16)])  # 0, 8 and 10 patches missing
    inputs["pixel_values"] = inputs["pixel_values"].double()
    base = model(**inputs).logits
    with tokenreduce.attach(model, case[0], layers=[0], **case[1]) as handle:
        got = model(**inputs).logits
        assert handle.last.tokens["image"] < 17
    torch.testing.assert_close(got[1:], base[1:])
    assert (got[0] - base[0]).abs().max() > 1e-4  # the sample without padding had to give


@torch.no_grad()
@pytest.mark.parametrize("case", [*PADDED, ("pumer", {"modality_aware": False})], ids=case_id)
def test_padding_never_changes_an_answer(tiny_vilt, vilt_inputs, case):
    model = tiny_vilt().double()
    inputs = vilt_inputs(3, 7, lengths=[7, 4, 2], sizes=[(32, 32), (32, 16), (24, 24)])
    inputs["pixel_values"] = inputs["pixel_values"].double()
    other = dict(inputs)
    other["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 7)
    other["pixel_values"] = torch.where(inputs["pixel_mask"][:, None].bool(), inputs["pixel_values"], 3.0)
    with tokenreduce.attach(model, case[0], layers=[0, 2], **case[1]):
        torch.testing.assert_close(model(**other).logits, model(**inputs).logits)
