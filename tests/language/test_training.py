"""Training with labels: losses, gradients, checkpointing, and no look at the answer."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import UnfitReducerError, UnsupportedCallError

from . import tinies
from .oracle import language_of

PLANS = {
    "hand-over": {"handover": {"reducer": "random", "keep": 8}},
    "tower": {"handover": {"reducer": "tome", "r": 20}},
    "cuts": {"language": {"reducer": "evit", "layers": [1, 2], "keep": 0.5}},
    "text": {"language": {"reducer": "evit", "layers": [1], "keep": 0.5, "saliency": "text"}},
}


def labelled(tiny, answer=4, seed=0):
    """A batch of two, right-padded, whose last tokens are the answer."""
    given = tiny.batch([[tiny.size], [tiny.size]], tails=[8, 10], side="right", seeds=[seed, seed + 1])
    labels = torch.full_like(given["input_ids"], -100)
    for b, length in enumerate(given["attention_mask"].sum(dim=1).tolist()):
        labels[b, length - answer : length] = given["input_ids"][b, length - answer : length]
    if "token_type_ids" in given:  # PaliGemma: what comes before an answer sees both ways, the answer does not
        given["token_type_ids"] = given["token_type_ids"] + (labels != -100) * (given["token_type_ids"] == 0).all()
    return given, labels


@pytest.mark.parametrize("family", tinies.ALL)
@pytest.mark.parametrize("plan", PLANS)
def test_loss_and_gradients(tiny, family, plan):
    if plan == "tower" and family in tinies.SILENT:
        with pytest.raises(UnfitReducerError, match=r"needs keys"):
            tokenreduce.attach(tiny.model, PLANS[plan])
        return
    given, labels = labelled(tiny)
    tiny.model.train()
    with tokenreduce.attach(tiny.model, PLANS[plan]):
        out = tiny.model(**given, labels=labels)
        out.loss.backward()
    language = language_of(tiny.model)
    assert out.loss.isfinite() and all(p.grad is not None for p in language.layers.parameters())
    tower = [
        p.grad
        for name, p in tiny.model.named_parameters()
        if any(one in name for one in ("projector", "merger.", "connector"))
    ]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in tower)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("plan", ["hand-over", "cuts", "text"])
def test_checkpointing_gives_the_same_gradients(tiny, plan, reentrant):
    tiny.double().model.train()
    given, labels = labelled(tiny)
    with tokenreduce.attach(tiny.model, PLANS[plan]):
        torch.manual_seed(0)
        tiny.model(**given, labels=labels).loss.backward()
        want = {name: p.grad.clone() for name, p in tiny.model.named_parameters() if p.grad is not None}
        tiny.model.zero_grad()
        enable = getattr(tiny.model, "activation_checkpointing_enable", tiny.model.gradient_checkpointing_enable)
        enable({"use_reentrant": reentrant})
        torch.manual_seed(0)
        tiny.model(**given, labels=labels).loss.backward()
    for name, p in tiny.model.named_parameters():
        if name in want:
            torch.testing.assert_close(p.grad, want[name], atol=1e-5, rtol=1e-4)  # rows have a float32 softmax


@pytest.mark.parametrize("family", tinies.ALL)
@pytest.mark.parametrize("plan", ["cuts", "text"])
def test_the_answer_does_not_choose_what_stays(tiny, family, plan):
    """Other answers behind the same prompts leave the same tokens; without labels the last token would choose."""
    with tokenreduce.attach(tiny.model, PLANS[plan], trace=True) as handle, torch.no_grad():
        given, labels = labelled(tiny)
        tiny.model(**given, labels=labels)
        kept = handle.last.trace.columns
        other = {**given, "input_ids": torch.where(labels == -100, given["input_ids"], (given["input_ids"] * 7) % 90)}
        tiny.model(**other, labels=torch.where(labels == -100, -100, other["input_ids"]))
        assert torch.equal(handle.last.trace.columns, kept)
        tiny.model(**other)
        assert family in tinies.MORE or not torch.equal(handle.last.trace.columns, kept)
        ends = (labels != -100).int().argmax(dim=1)  # the prompts alone
        for b, end in enumerate(ends.tolist()):
            alone = tiny.batch([[tiny.size]], tails=[8 - 4 + 2 * b], seeds=[b])
            alone["input_ids"][0] = given["input_ids"][b, :end]
            tiny.model(**alone)
            mine = [column for column in kept[b].tolist() if 0 <= column < end]
            assert handle.last.trace.columns[0].tolist() == mine


def test_training_without_labels_is_refused_where_the_last_token_scores(tiny):
    given, labels = labelled(tiny)
    tiny.model.train()
    with tokenreduce.attach(tiny.model, PLANS["cuts"]):
        with pytest.raises(UnsupportedCallError, match=r"pass labels"):
            tiny.model(**given)
        tiny.model(**given, labels=labels)
        with torch.no_grad():
            tiny.model(**given)
    with tokenreduce.attach(tiny.model, PLANS["hand-over"]):
        tiny.model(**given)


def test_learnable_reducers_and_gates_are_refused(tiny):
    for stack in ("handover", "language"):
        with pytest.raises(tokenreduce.errors.UnfitReducerError, match=r"learns weights|needs|provide"):
            tokenreduce.attach(tiny.model, {stack: "dynamicvit"})

    class Gated(tokenreduce.Reducer):
        def reduce(self, tokens, signals, remove):
            return tokenreduce.methods.Gate(torch.ones(tokens.x.shape[:2]))

    with (
        tokenreduce.attach(tiny.model, {"handover": Gated(keep=0.5)}),
        torch.no_grad(),
        pytest.raises(UnsupportedCallError, match=r"gates"),
    ):
        tiny.model(**tiny.inputs())
    with tokenreduce.attach(tiny.model, {"language": "tome"}) as handle:
        assert "proportional attention" in " ".join(handle.notes)


@pytest.mark.parametrize("family", tinies.ALL)
def test_trained_weights_stay_after_detach(tiny):
    given, labels = labelled(tiny)
    optimizer = torch.optim.SGD(tiny.model.parameters(), lr=0.01)
    with tokenreduce.attach(tiny.model, PLANS["cuts"]):
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = tiny.model(**given, labels=labels).loss
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert not [name for name in vars(tiny.model.model) if name in ("forward", "get_image_features")]
    assert tinies.IMAGE in given["input_ids"]
