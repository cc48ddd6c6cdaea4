"""A teacher beside a reduced model: the loss as formulas say it, in any loop, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import tokenreduce
from tokenreduce.errors import NoForwardError, OptionError, UnsupportedCallError
from tokenreduce.train.losses import hidden_term, logits_term


@settings(deadline=None)
@given(seed=st.integers(0, 99), classes=st.integers(1, 9), temperature=st.floats(0.3, 5))
def test_logits_term_is_the_divergence(seed, classes, temperature):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(4, classes, generator=generator) for _ in range(2))
    p, q = ((logits / temperature).double().softmax(-1) for logits in (teacher, student))
    expected = (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(logits_term(student, teacher, temperature).double(), expected, rtol=1e-4, atol=1e-5)
    assert logits_term(student, student, temperature).abs() < 1e-6
    by_token = logits_term(student.view(2, 2, classes), teacher.view(2, 2, classes), temperature)
    torch.testing.assert_close(by_token.double(), expected, rtol=1e-4, atol=1e-5)


def test_hidden_term_is_a_weighted_mean():
    student, teacher, weight = torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.rand(2, 5).round()
    weight[0, 0] = 1
    apart = (student - teacher).square().mean(-1)
    torch.testing.assert_close(hidden_term(student, teacher, weight), apart[weight > 0].mean())
    assert hidden_term(student, teacher, torch.zeros(2, 5)) == 0
    with pytest.raises(UnsupportedCallError, match="one shape"):
        hidden_term(student, teacher[:, 1:], weight)


@pytest.fixture
def vilt(tiny_vilt, vilt_inputs):
    """A student, a teacher, and inputs with labels."""
    model = tiny_vilt(hidden_dropout_prob=0.0)
    return model.train(), tiny_vilt(), {**vilt_inputs(3), "labels": torch.rand(3, 5)}


def test_the_published_loss(vilt):
    """Task + KL at temperature 1, mean over the batch (algorithms of PuMer)."""
    model, teacher, inputs = vilt
    with torch.no_grad():
        said = teacher(**inputs).logits
    with tokenreduce.attach(model, "pumer") as handle:
        distillation = tokenreduce.distill(handle, teacher)
        lesson = distillation(inputs)
        own = model(**inputs)
        divergence = F.kl_div(own.logits.log_softmax(-1), said.softmax(-1), reduction="batchmean")
        torch.testing.assert_close(lesson.terms["task"], own.loss)
        torch.testing.assert_close(lesson.terms["logits"], divergence)
        torch.testing.assert_close(lesson.loss, own.loss + divergence)
        assert sorted(lesson.terms) == ["logits", "task"]
        lesson.loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert model.vilt.encoder.layer[0].attention.attention.query.weight.grad.abs().sum() > 0


def test_weights_and_temperature(vilt):
    model, teacher, inputs = vilt
    with tokenreduce.attach(model, "tome") as handle:
        one = tokenreduce.distill(handle, teacher)(inputs).terms
        other = tokenreduce.distill(handle, teacher, task=0, logits=3, temperature=2)(inputs).terms
        assert list(other) == ["logits"]
        assert not torch.allclose(other["logits"], 3 * one["logits"])
        own = tokenreduce.distill(handle, teacher)(inputs, lambda output: output.logits.sum())
        torch.testing.assert_close(own.terms["task"], own.output.logits.sum())


def test_the_same_weights_teach(case):
    model, run = case
    model.train()
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    with torch.no_grad():
        plain = run(model)
    for name, module in model.named_modules():
        module.training = modes[name]
    with tokenreduce.attach(model, "pumer") as handle:
        distillation = tokenreduce.distill(handle)
        whole = Whole(model, run)
        teacher_output = distillation.teach((), whole)
        torch.testing.assert_close(teacher_output.logits, plain, rtol=1e-4, atol=1e-5)
        assert not teacher_output.logits.requires_grad
        assert {name: module.training for name, module in model.named_modules()} == modes
        assert handle.last is None  # the teacher's pass leaves no record
        output = run(model)
        terms = distillation.compare(output, teacher_output, output.square().mean())
        assert terms["logits"] > 0
        sum(terms.values()).backward()


class Whole(nn.Module):
    """A model with its inputs inside, as something that wraps it."""

    def __init__(self, model, run):
        super().__init__()
        self.model, self.run = model, run

    def forward(self):
        return self.run(self.model)


@pytest.mark.parametrize("reducer", ["tome", "evit", "pumer", "dynamicvit"])
def test_hidden_states(reducer, vilt):
    """Each of the teacher's tokens beside the student's that stands for it."""
    model, _, inputs = vilt
    teacher = copy.deepcopy(model)
    with tokenreduce.attach(model, reducer, trace=True) as handle:
        lesson = tokenreduce.distill(handle, teacher, hidden=2)(inputs)
        assert lesson.terms["hidden"] > 0
        lesson.loss.backward()
        handle.scale(0) if reducer != "dynamicvit" else model.eval()
        if reducer != "dynamicvit":
            same = tokenreduce.distill(handle, teacher, hidden=2)(inputs).terms
            assert same["hidden"] < 1e-8 and same["logits"] < 1e-6
    assert not any(module._forward_hooks for part in (model, teacher) for module in part.modules())


def test_hidden_states_by_hand(vilt):
    model, _, inputs = vilt
    teacher = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = teacher.vilt(**{k: v for k, v in inputs.items() if k != "labels"}, output_hidden_states=True)
    with tokenreduce.attach(model, "evit", trace=True) as handle:
        distillation = tokenreduce.distill(handle, hidden=1)
        teacher_output = distillation.teach(inputs)
        (name,) = teacher_output.hidden
        assert teacher_output.hidden[name].shape == expected.hidden_states[-1].shape
        assert not torch.allclose(teacher_output.hidden[name], expected.hidden_states[-1])  # ViLT shuffles its patches
        torch.testing.assert_close(  # but they are the same tokens
            teacher_output.hidden[name].sum(1), expected.hidden_states[-1].sum(1), rtol=1e-3, atol=1e-4
        )
        ends = []
        hook = model.vilt.encoder.layer[-1].register_forward_hook(lambda m, a, out: ends.append(out))
        output = model(**inputs)
        hook.remove()
        with pytest.raises(NoForwardError, match="listening"):
            distillation.compare(output, teacher_output)
        value = distillation(inputs).terms["hidden"]
        source = handle.last.trace.source
        mask = (source >= 0) & (handle.last.trace.size > 0).gather(1, source.clamp(min=0))
        tokens = ends[0][0] if isinstance(ends[0], tuple) else ends[0]
        found = tokens.gather(1, source.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1]))
        apart = (found - teacher_output.hidden[name]).square().mean(-1)[mask].mean()
        torch.testing.assert_close(value, apart, rtol=1e-4, atol=1e-6)


def test_own_losses_are_among_the_terms(vilt):
    model, teacher, inputs = vilt
    with tokenreduce.attach(model, "dynamicvit") as handle:
        lesson = tokenreduce.distill(handle, teacher, own=0.5)(inputs)
        torch.testing.assert_close(lesson.terms["ratio"], 0.5 * handle.last.losses["ratio"])
        assert "ratio" not in tokenreduce.distill(handle, teacher, own=0)(inputs).terms


def test_under_autocast_the_student_keeps_its_gradients(vilt):
    model, _, inputs = vilt
    with tokenreduce.attach(model, "pumer") as handle:
        with torch.autocast("cpu", torch.bfloat16):
            lesson = tokenreduce.distill(handle)(inputs)
        lesson.loss.backward()
        assert all(p.grad is not None for p in model.vilt.encoder.parameters())


def test_bad_input(vilt, tiny_vit):
    model, teacher, inputs = vilt
    with tokenreduce.attach(model, "pumer") as handle:
        for wrong in ({"task": -1}, {"logits": float("nan")}, {"hidden": "1"}, {"temperature": 0}, {"logits": 0}):
            with pytest.raises(OptionError):
                tokenreduce.distill(handle, teacher, **wrong)
        with pytest.raises(OptionError, match="leave teacher out"):
            tokenreduce.distill(handle, model)
        with pytest.raises(OptionError, match="leave teacher out"):
            tokenreduce.distill(handle, nn.Sequential(model))
        with pytest.raises(OptionError, match=r"torch\.nn\.Module"):
            tokenreduce.distill(handle, "vilt")
        with pytest.raises(OptionError, match="trace=True"):
            tokenreduce.distill(handle, teacher, hidden=1)
        assert all(p.requires_grad for p in model.parameters())
        distillation = tokenreduce.distill(handle, teacher)
        without = {k: v for k, v in inputs.items() if k != "labels"}
        with pytest.raises(UnsupportedCallError, match="labels"):
            distillation(without)
        with pytest.raises(UnsupportedCallError, match="one shape"):
            distillation.compare(torch.randn(3, 4), distillation.teach(inputs), torch.tensor(0.0))
        with pytest.raises(UnsupportedCallError, match="read"):
            tokenreduce.distill(handle, nn.Identity())((object(),))
