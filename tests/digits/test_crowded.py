"""The crowded scenes: questions that the picture answers, a model that looks where the text says, a training."""

import re

import numpy as np
import pytest
import torch

import tokenreduce
from tokenreduce_digits.crowded.alignment import alignment
from tokenreduce_digits.crowded.evaluation import accuracy_by_kind
from tokenreduce_digits.crowded.model import WEIGHTS, load, start
from tokenreduce_digits.crowded.questions import KINDS, PLACES
from tokenreduce_digits.crowded.scenes import CELL, DIGITS, STEP, CrowdFactory, collate, patch_labels
from tokenreduce_digits.crowded.task import vilt_scenes
from tokenreduce_digits.model import WEIGHTS as DIGITS_WEIGHTS
from tokenreduce_digits.scenes import GRID
from tokenreduce_digits.words import COLOURS


def answer(scene):
    """The answer to a scene's question, found from the digits, colours and places alone."""
    words, at = scene.question.text.split(), dict(zip(scene.places, scene.digits, strict=True))
    colour = {digit: COLOURS[tint] for digit, tint in zip(scene.digits, scene.tints, strict=True)}
    if words[:2] == ["what", "colour"]:
        return colour[int(words[-1])]
    if words[:2] == ["how", "many"]:
        return str(list(colour.values()).count(words[2]))
    if words[:2] == ["is", "there"]:
        return "yes" if colour.get(int(words[-1])) == words[3] else "no"
    if words[-1] in COLOURS:
        (digit,) = (d for d, c in colour.items() if c == words[-1])
        return str(digit)
    down, across = PLACES[" ".join(words[-2:])]
    (digit,) = (d for (row, column), d in at.items() if (row >= GRID / 2, column >= GRID / 2) == (down, across))
    return str(digit)


@pytest.fixture(scope="module")
def scenes():
    factory = CrowdFactory("train", 0)
    return [factory(i) for i in range(400)]


def test_questions_have_the_answers_that_the_scene_shows(scenes):
    assert {scene.question.kind for scene in scenes} == set(KINDS)
    for scene in scenes:
        assert scene.question.answer == answer(scene), scene.question
        assert DIGITS[0] <= len(scene.digits) == len(set(scene.digits)) <= DIGITS[1]
        boxes = np.zeros((GRID + 1, GRID + 1), dtype=int)
        for row, column in scene.places:
            assert max(row, column) <= GRID - CELL
            boxes[row : row + STEP, column : column + STEP] += 1
        assert boxes.max() == 1, "digits stand a patch apart"


def test_answers_do_not_follow_from_the_question(scenes):
    """Where there are two answers, each is right about half of the time; what was asked does not place the digits."""
    said = [scene.question.answer for scene in scenes if scene.question.kind == "is-there"]
    assert 0.3 < said.count("yes") / len(said) < 0.7
    placed = [len(scene.digits) for scene in scenes if scene.question.kind == "digit-at-place"]
    others = [len(scene.digits) for scene in scenes if scene.question.kind != "digit-at-place"]
    assert abs(np.mean(placed) - np.mean(others)) < 0.8


def test_a_scene_is_a_function_of_seed_and_number():
    a, b = CrowdFactory("held-out", 5)(17), CrowdFactory("held-out", 5)(17)
    assert np.array_equal(a.pixels, b.pixels) and a.question == b.question
    assert not np.array_equal(a.pixels, CrowdFactory("held-out", 5)(18).pixels)


def test_patch_labels_cover_the_digits(scenes):
    digit, colour, asked = patch_labels(scenes)
    assert digit.shape == colour.shape == asked.shape == (400, GRID**2)
    assert torch.equal(digit == 10, colour == len(COLOURS))
    assert torch.equal((digit != 10).sum(1), torch.tensor([CELL**2 * len(s.digits) for s in scenes]))
    assert torch.equal(asked.sum(1), torch.tensor([CELL**2 * len(s.question.asked) for s in scenes]).float())
    assert not asked[digit == 10].any()


def test_alignment_is_least_where_words_look_at_what_they_should(scenes):
    """A uniform attention over what is wanted costs its entropy; one that looks elsewhere costs more."""
    few = scenes[:16]
    digit, _, asked = patch_labels(few)
    mask = collate(few)["attention_mask"]
    shown, text, length = (digit < 10).float(), mask.shape[1], mask.shape[1] + 1 + GRID**2
    about = asked.where(asked.sum(1, keepdim=True) > 0, shown)

    def layer(where):
        attention = torch.zeros(16, 2, length, length)
        attention[:, :, :text, -(GRID**2) :] = (where / where.sum(1, keepdim=True))[:, None, None]
        return attention

    best = float(alignment([layer(shown)] * 2 + [layer(about)] * 2, mask, digit, asked))
    entropy = shown.sum(1).log().mean() + 2 * about.sum(1).log().mean()
    assert best == pytest.approx(float(entropy / 3), abs=1e-3)
    assert float(alignment([layer(1 - shown)] * 4, mask, digit, asked)) > best + 5


def test_the_model_has_learnt_the_task():
    score = accuracy_by_kind(load(), samples=400)
    assert score["all"] >= 0.88, score
    assert min(score[kind] for kind in KINDS) >= 0.75, score


@torch.no_grad()
def test_the_trimmers_that_come_with_it():
    """Learnt on these scenes: samples keep different numbers of patches, and the answers stay right."""
    task = vilt_scenes()
    (batch,) = task.data(100, 100)
    with tokenreduce.load(task.model, task.settings["smarttrim trained"]["weights"]) as handle:
        right = task.metric(task.model(**batch.inputs), batch.targets).float().mean()
        counts = handle.last.mean_counts["image"]
    assert right >= 0.93 and 40 < counts.mean() < 90 and counts.std() > 10


def test_who_counts_needs_more_patches(python):
    """What ``per_sample`` prints of the trimmers that come with the task."""
    folder = vilt_scenes().settings["smarttrim trained"]["weights"]
    done = python("-m", "tokenreduce_digits.per_sample", "vilt-scenes", folder, "--samples", "100")
    assert done.returncode == 0, done.stderr
    image = done.stdout[done.stdout.index("encoder image") :]
    kept = {
        kind: float(mean) for kind, mean in re.findall(r"([\w-]+): ([\d.]+)", image.partition("kind of question")[2])
    }
    assert set(kept) == set(KINDS) and kept.pop("how-many") > 1.5 * max(kept.values()), image
    refused = python("-m", "tokenreduce_digits.per_sample", "clip-digits", folder)
    assert refused.returncode == 2 and "vilt-scenes" in refused.stderr


@torch.no_grad()
def test_the_task_gives_what_an_ablation_needs():
    task = vilt_scenes()
    first, last = task.data(70, 50)
    assert (len(first), len(last)) == (50, 20) and set(first.groups) == set(KINDS)
    for name, options in task.settings.items():
        if "weights" in options:
            continue
        with tokenreduce.attach(task.model, **{"reducer": name, **options}) as handle:
            task.model(**first.inputs)
            assert handle.last.stacks[next(iter(handle.stacks))].tokens["image"] < 60
    shown = task.samples(first)
    assert shown[0].text == CrowdFactory("held-out", 1_000_003)(0).question.text


def test_training_starts_from_other_weights_and_continues(python, tmp_path):
    command = ["-m", "tokenreduce_digits.crowded.train", "--out", tmp_path, "--batch", 4, "--near", 0.5]
    command += ["--save-every", 1, "--final-samples", 8, "--init", DIGITS_WEIGHTS]
    first = python(*command, "--scenes", 8)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "vilt.safetensors").exists() and "held-out after step 2" in first.stdout
    second = python(*command, "--scenes", 12)
    assert second.returncode == 0, second.stderr
    assert "continuing at step 2 of 3" in second.stdout
    load(tmp_path / "vilt.safetensors")


def test_starting_weights_keep_what_they_have_in_common():
    old, new = start(DIGITS_WEIGHTS).state_dict(), load(WEIGHTS).state_dict()
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}
    assert old["vilt.encoder.layer.0.attention.attention.query.weight"].std() > 0
