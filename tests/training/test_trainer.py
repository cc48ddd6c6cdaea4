"""transformers' Trainer as it is, on models with a reducer; compiled steps."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import Trainer, TrainerCallback, TrainingArguments

import tokenreduce
from tokenreduce.testing.models import reduced_stack
from tokenreduce_models.transformers.trainer import DistillationTrainer
from tokenreduce_models.transformers.vit import ViT

pytestmark = pytest.mark.sweep


@pytest.fixture(params=["vilt", "vit"])
def task(request, tiny_vilt, vilt_inputs):
    """A tiny model of transformers, and inputs for it one by one, with labels."""
    if request.param == "vilt":
        model, inputs = tiny_vilt(hidden_dropout_prob=0.0), vilt_inputs(8)
        inputs["labels"] = torch.rand(8, 5)
    else:
        model = ViT().examples()["ViTForImageClassification"]().model
        size = model.config.image_size
        inputs = {"pixel_values": torch.randn(8, 3, size, size), "labels": torch.randint(model.num_labels, (8,))}
    return model, [{name: value[i] for name, value in inputs.items()} for i in range(8)]


@pytest.fixture
def trainer(tmp_path):
    """A Trainer on one CPU that says nothing."""

    def make(model, data, steps=3, save=False, folder="run", cls=Trainer, **more):
        passed = ("compute_loss_func", "callbacks", "distillation", "schedule")
        own = {key: more.pop(key) for key in list(more) if key in passed}
        settings = {
            "per_device_train_batch_size": 4, "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_steps": 2,
            "logging_strategy": "no", "save_strategy": "steps" if save else "no", "remove_unused_columns": False,
            "dataloader_pin_memory": False, "learning_rate": 1e-2, "max_steps": steps,
        }  # fmt: skip
        arguments = TrainingArguments(str(tmp_path / folder), **{**settings, **more})
        return cls(model, arguments, train_dataset=data, eval_dataset=data, **own)

    return make


@pytest.mark.parametrize("name", ["pumer", "tome", "dynamicvit"])
def test_train_and_evaluate(name, task, trainer):
    model, data = task
    with tokenreduce.attach(model, name) as handle:
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        made = trainer(model, data)
        assert made.train().training_loss > 0
        assert made.evaluate()["eval_loss"] > 0
        rows = [row for row in handle.last.sites if row.stream == "image"]
        assert rows[-1].tokens_out < rows[0].tokens_in
        moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
        assert {key for key in before if "tokenreduce." in key} <= moved  # the optimizer has them
        assert len(moved) > len(before) / 2


@pytest.mark.parametrize("name", ["pumer", "dynamicvit"])
@pytest.mark.parametrize("same", [True, False], ids=["same-weights", "copy"])
def test_distillation_trainer(name, same, task, trainer, tmp_path):
    """Its loss is the sum of the terms, whatever the gradient accumulation; reducer and weights are in the folder."""
    model, data = task
    teacher = None if same else copy.deepcopy(model)
    logs = []

    class Listen(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(logs)

    def run(steps, **more):
        seen.clear()
        made = trainer(
            model,
            data,
            steps,
            True,
            cls=DistillationTrainer,
            distillation=tokenreduce.distill(handle, teacher),
            callbacks=[Listen()],
            logging_strategy="steps",
            logging_steps=1,
            learning_rate=0.0,
            **more,
        )
        made.train()
        return made, [log for log in seen if "loss" in log]

    seen = []
    with tokenreduce.attach(model, name) as handle:
        made, logs = run(2, lr_scheduler_type="constant")
        for log in logs:
            terms = [value for key, value in log.items() if key.startswith("loss_")]
            assert len(terms) == (3 if name == "dynamicvit" else 2)
            assert log["loss"] == pytest.approx(sum(terms), rel=1e-3, abs=2e-3)
        if name == "pumer":  # nothing is drawn: two halves of a batch are the batch
            _, halves = run(1, gradient_accumulation_steps=2, per_device_train_batch_size=2, folder="halves")
            assert halves[0]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-3, abs=2e-3)
        assert "loss_logits" not in made.evaluate()
    folder = tmp_path / "run" / "checkpoint-2"
    assert (folder / "tokenreduce.json").exists()
    assert (folder / "reducer.safetensors").exists() == (name == "dynamicvit")
    other = type(model)(model.config)
    with tokenreduce.load(other, folder) as again:
        assert again.config == handle.config
    with pytest.raises(tokenreduce.errors.OptionError, match="does not carry"):
        trainer(model, data, cls=DistillationTrainer, distillation=tokenreduce.distill(handle))


def test_distillation_trainer_begins_gently(tiny_vilt, vilt_inputs, trainer):
    model, inputs = tiny_vilt(), {**vilt_inputs(8), "labels": torch.rand(8, 5)}
    data = [{name: value[i] for name, value in inputs.items()} for i in range(8)]
    seen = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(handle.last.tokens["image"])

    with tokenreduce.attach(model, "evit", keep=0.5) as handle:
        made = trainer(model, data, 4, cls=DistillationTrainer, distillation=tokenreduce.distill(handle),
                       schedule=tokenreduce.Warmup(handle, length=3), callbacks=[Count()])  # fmt: skip
        made.train()
    assert seen == sorted(seen, reverse=True) and seen[0] == 17 > seen[-1]


def test_losses_schedule_and_checkpoint(tiny_vilt, vilt_inputs, trainer, total):
    """A learnable reducer with its loss and a warm-up, interrupted and continued: as if it had not been.

    (Of a ViT the Trainer of transformers 5.24 cannot read its own checkpoint, reducer or not: other names of weights.)
    """
    model, inputs = tiny_vilt(hidden_dropout_prob=0.0), {**vilt_inputs(8), "labels": torch.rand(8, 5)}
    data = [{name: value[i] for name, value in inputs.items()} for i in range(8)]
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def run(steps, folder, resume=None):
        model.load_state_dict(start, strict=False)
        torch.manual_seed(0)
        handle = tokenreduce.attach(model, "dynamicvit", replace=True)
        schedule = tokenreduce.Warmup(handle, length=4)
        states = []

        class Step(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                schedule.step()
                states.append(schedule.state_dict())

        if resume is not None:
            schedule.load_state_dict(resume)

        def loss(outputs, labels, num_items_in_batch=None):
            return outputs["logits"].float().square().mean() + total(handle)

        made = trainer(model, data, steps, True, folder, compute_loss_func=loss, callbacks=[Step()],
                       lr_scheduler_type="constant")  # fmt: skip
        made.train(resume_from_checkpoint=resume is not None)
        return (
            states[-1],
            reduced_stack(handle).factor,
            {key: value.clone() for key, value in model.state_dict().items()},
        )

    _, factor, expected = run(4, "whole")
    assert factor == 1
    state, factor, _ = run(2, "parts")
    assert 0 < factor < 1
    _, factor, got = run(4, "parts", state)
    assert factor == 1
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n in ("pumer", "dynamicvit") for o in ("bf16", "checkpointing")] + [("dynamicvit", "torch_compile")],
)
def test_options_of_the_trainer(name, option, task, trainer):
    model, data = task
    if option == "torch_compile":
        options = {"torch_compile": True, "torch_compile_backend": "eager"}
    elif option == "checkpointing":
        known = inspect.signature(TrainingArguments).parameters
        word = next(w for w in ("activation_checkpointing", "gradient_checkpointing") if w in known)
        options = {word: True, f"{word}_kwargs": {"use_reentrant": False}}
    else:
        options = {"bf16": True}
    handle = tokenreduce.attach(model, name)
    assert trainer(model, data, steps=2, **options).train().training_loss > 0
    assert handle.last.sites


def test_what_save_pretrained_writes(task, tmp_path):
    model, _ = task
    model.save_pretrained(tmp_path / "plain")
    for name in ("tome", "dynamicvit"):
        with tokenreduce.attach(model, name):
            model.save_pretrained(tmp_path / name)
    plain, same, more = (
        set(load_file(tmp_path / name / "model.safetensors")) for name in ("plain", "tome", "dynamicvit")
    )
    assert plain == same < more
    assert all(".tokenreduce.predictors." in name for name in more - plain)


@pytest.fixture
def clean():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["dynamicvit", "scorer"])
def test_a_compiled_step_of_training(name, case, clean, request, total):
    """One graph, losses among what comes out of it; and paused, as a teacher, one more."""
    model, run = case
    model.train()
    reducer = name if name == "dynamicvit" else request.getfixturevalue(name)()
    handle = tokenreduce.attach(model, reducer, layers=[1, 2])

    def step(call):
        model.zero_grad()
        torch.manual_seed(1)
        loss = run(call).square().mean() + total(handle)
        loss.backward()
        return loss.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    expected_loss, expected = step(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(2):
        loss, got = step(compiled)
        torch.testing.assert_close(loss, expected_loss)
        assert got.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=1e-6, msg=key)
    assert counters["stats"]["unique_graphs"] == 1
    with handle.paused(), torch.no_grad():
        torch.testing.assert_close(run(compiled), run(model))
    handle.scale(0.5)
    torch.testing.assert_close(step(compiled)[0], step(model)[0])
    assert not counters["graph_break"]
