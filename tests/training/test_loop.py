"""The training loop: interrupted or not it is the same, it does what its settings say, and refuses in words."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokenreduce import Recipe
from tokenreduce.errors import OptionError
from tokenreduce.train import Loop, LoopSettings, adamw, linear_decay, progress_text, trapezoid
from tokenreduce.train.checkpoint import load_checkpoint, save_checkpoint, write_atomically

from ..helpers import Killed

SETTINGS = LoopSettings(samples=24, batch=4, lr=1e-2, weight_decay=0.1, save_every=3, validate_every=4, seed=5)


@pytest.fixture
def make(tmp_path):
    """A loop over a small network with dropout and a head beside it; every call begins with the same weights."""
    torch.manual_seed(0)
    model, head = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.5)), nn.Linear(8, 3)

    def build(folder="run", settings=SETTINGS, dies_at=None, optimizer=None, **more):
        parts = {"model": copy.deepcopy(model), "head": copy.deepcopy(head)}
        both = nn.ModuleList(parts.values())
        lines, evaluated = [], []

        def batch(step):
            if step == dies_at:
                raise Killed
            return torch.randn(4, 5), torch.randint(3, (4,))

        def losses(drawn):
            logits = parts["head"](parts["model"](drawn[0]))
            terms = {"task": F.cross_entropy(logits.float(), drawn[1]), "norm": 0.01 * logits.float().square().mean()}
            return terms["task"] + terms["norm"], terms

        def evaluate(step):
            both.eval()  # the loop must not rely on the mode it is left in, nor on the random state
            torch.randn(step)
            evaluated.append(step)
            return {"accuracy": step / 10}

        (tmp_path / folder).mkdir(exist_ok=True)
        callbacks = {"batch": batch, "losses": losses, "evaluate": evaluate, "report": lines.append}
        callbacks |= {"schedule": lambda step: linear_decay(step, settings.steps, 0.2), **more}
        optimizer = (optimizer or (lambda m: adamw(m, settings)))(both)
        loop = Loop(parts, optimizer, settings, tmp_path / folder / "checkpoint.pt", **callbacks)
        loop.lines, loop.evaluated = lines, evaluated
        return loop

    return build


def weights(loop):
    return {f"{part}.{key}": value for part, m in loop.modules.items() for key, value in m.state_dict().items()}


@pytest.mark.parametrize("changes", [{}, {"bf16": True}, {"max_grad_norm": 0.1}])
def test_interrupted_or_not_it_is_the_same(changes, make):
    settings = dataclasses.replace(SETTINGS, **changes)
    whole = make("whole", settings)
    assert not whole.resume()
    whole.run()
    with pytest.raises(Killed):
        make("parts", settings, dies_at=5).run()
    parts = make("parts", settings)
    assert parts.resume() and parts.progress.step == 4  # evaluated there, so saved there
    parts.run()
    one, other = weights(whole), weights(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [loop.optimizer.state_dict()["state"] for loop in (whole, parts)]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])
    seconds = ("seconds", "samples_per_second")
    last = [{key: value for key, value in loop.lines[-1].items() if key not in seconds} for loop in (whole, parts)]
    assert last[0] == last[1]
    again = make("parts", settings)
    assert again.resume()
    again.run()
    assert not again.lines and again.progress.step == 6


def test_reports_evaluations_and_learning_rates(make):
    loop = make()
    loop.run()
    assert loop.evaluated == [4, 6]
    assert [line["step"] for line in loop.lines] == [4, 6]
    assert [line.get("accuracy") for line in loop.lines] == [0.4, 0.6]
    assert [line["lr"] for line in loop.lines] == [1e-2 * linear_decay(step, 6, 0.2) for step in (3, 5)]
    assert {"task", "norm", "seconds", "samples_per_second"} <= loop.lines[0].keys()
    text = progress_text({key: value for key, value in loop.lines[0].items() if key != "accuracy"})
    assert text.startswith("step 4/6  task ") and " norm " in text and text.endswith("min left")


def test_it_stops_early(make):
    loop = make()
    loop.stop = lambda: loop.progress.step == 3
    loop.run()
    assert loop.progress.step == 3 and not loop.evaluated
    other = make()
    other.resume()
    assert other.progress.step == 3


def test_the_gradient_is_clipped(make):
    steps = []
    for norm in (0.0, 1e-3):
        settings = dataclasses.replace(SETTINGS, samples=4, max_grad_norm=norm)
        loop = make(
            f"norm-{norm}",
            settings,
            schedule=lambda step: 1.0,
            optimizer=lambda m: torch.optim.SGD(m.parameters(), 1.0),
        )
        before = {name: value.clone() for name, value in weights(loop).items()}
        loop.run()
        moved = torch.cat([(value - before[name]).flatten() for name, value in weights(loop).items()])
        steps.append(moved.norm().item())
    assert steps[0] > 0.01 and steps[1] == pytest.approx(1e-3, rel=1e-2)


def test_the_learning_rate_of_the_resumed_run_counts(make):
    with pytest.raises(Killed):
        make(dies_at=4).run()
    loop = make(settings=dataclasses.replace(SETTINGS, lr=5e-2))
    assert loop.resume()
    loop.run()
    assert loop.lines[-1]["lr"] == 5e-2 * linear_decay(5, 6, 0.2)


def test_a_loss_that_is_not_finite_is_refused(make):
    loop = make(
        losses=lambda drawn: (loop.modules["head"].weight.sum() * float("nan"), {"task": torch.tensor(float("nan"))})
    )
    before = {name: value.clone() for name, value in weights(loop).items()}
    with pytest.raises(OptionError, match=r"loss of step 1 is not finite .*lower lr"):
        loop.run()
    assert all(torch.equal(value, before[name]) for name, value in weights(loop).items())


def test_bad_input(make):
    for wrong in ({"samples": 3}, {"batch": 0}, {"save_every": -1}, {"validate_every": 1.5}, {"bf16": 1}, {"lr": 0.0}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            dataclasses.replace(SETTINGS, **wrong)
    with pytest.raises(OptionError, match="takes gradients"):
        adamw(nn.Linear(2, 2).requires_grad_(False), SETTINGS)
    loop = make()
    save_checkpoint(loop.checkpoint, {"modules": {"model": {}}})
    with pytest.raises(OptionError, match="does not fit"):
        loop.resume()
    loop.checkpoint.write_bytes(b"no")
    with pytest.raises(OptionError, match="start over"):
        loop.resume()


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, {"step": 3, "weights": torch.arange(4.0)})

    def write(path):
        path.write_bytes(b"half of")
        raise Killed

    with pytest.raises(Killed):
        write_atomically(file, write)
    assert torch.equal(load_checkpoint(file)["weights"], torch.arange(4.0))
    assert load_checkpoint(tmp_path / "other.pt") is None


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"modules": Killed("would be unpickled")}, tmp_path / "checkpoint.pt")
    with pytest.raises(OptionError, match="cannot be read"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_groups_of_the_optimizer():
    class WithReducer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.tokenreduce = nn.Linear(3, 3), nn.Linear(3, 2)

    groups = adamw(WithReducer(), Recipe(lr=1e-3, weight_decay=0.05, reducer_lr=10)).param_groups
    assert [(group["weight_decay"], group["lr"], group["params"][0].ndim) for group in groups] == [
        (0.0, 1e-3, 1),
        (0.05, 1e-3, 2),
        (0.0, 1e-2, 1),
        (0.05, 1e-2, 2),
    ]


def test_trapezoid():
    shares = [trapezoid(step, 1000) for step in range(1000)]
    assert shares[0] == 1 / 200 and shares[199:801] == [1.0] * 602
    assert shares[900] == pytest.approx(0.5) and shares[-1] == 0.01
    assert all(a > b for a, b in itertools.pairwise(shares[801:998]))
