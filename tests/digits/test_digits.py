"""The embedded task: honest data, a model that has learnt it, a training that can be run again."""

import numpy as np
import pytest
import torch

from tokenreduce_digits import scenes, words
from tokenreduce_digits.evaluation import accuracy_by_kind
from tokenreduce_digits.model import load
from tokenreduce_digits.task import vilt_digits


def test_train_and_held_out_images_are_apart():
    train, _ = scenes.load_images("train")
    held, labels = scenes.load_images("held-out")
    assert len(train) + len(held) == 1797 and len(held) == 382
    seen = {image.tobytes() for image in train}
    assert not [image for image in held if image.tobytes() in seen]
    assert set(labels.tolist()) == set(range(10))
    with pytest.raises(ValueError, match="held-out"):
        scenes.load_images("test")


def test_a_scene_is_a_function_of_seed_and_number():
    a, b = scenes.SceneFactory("held-out", 5)(17), scenes.SceneFactory("held-out", 5)(17)
    assert np.array_equal(a.pixels, b.pixels) and a.question == b.question
    assert not np.array_equal(a.pixels, scenes.SceneFactory("held-out", 5)(18).pixels)


def test_questions_have_the_answers_that_the_scene_shows():
    factory, kinds = scenes.SceneFactory("train", 0), set()
    for i in range(300):
        scene = factory(i)
        kinds.add(scene.kind)
        word = scene.question.split()[-1]
        shown = dict(zip(scene.colours, scene.digits, strict=True))
        if scene.kind == "digit-of-colour":
            expected = str(shown[word])
        elif scene.kind == "colour-of-digit":
            expected = {str(d): c for c, d in shown.items()}[word]
        elif scene.kind == "is-there":
            expected = "yes" if int(word) in shown.values() else "no"
        else:
            expected = str(len(shown))
        assert scene.answer == expected
        assert len(set(scene.digits)) == len(scene.digits) == len(set(scene.colours))
        boxes = np.zeros((scenes.GRID, scenes.GRID), dtype=int)
        for row, column in scene.places:
            boxes[row : row + scenes.CELL, column : column + scenes.CELL] += 1
        assert boxes.max() == 1 and boxes.sum() == 9 * len(scene.digits)
    assert kinds == set(scenes.KINDS)


def test_patch_labels_cover_the_digits():
    batch = [scenes.SceneFactory("train", 0)(i) for i in range(20)]
    digit, colour = scenes.patch_labels(batch)
    asked = scenes.asked_patches(batch)
    assert digit.shape == colour.shape == asked.shape == (20, 144)
    assert torch.equal(digit == 10, colour == len(words.COLOURS))
    assert torch.equal((digit != 10).sum(1), torch.tensor([9 * len(s.digits) for s in batch]))
    assert not asked[digit == 10].any()


def test_words():
    ids, mask = words.encode(["what digit is red", "how many zebras?"])
    assert ids.shape == (2, 8) and mask.sum(1).tolist() == [6, 5]
    assert words.VOCABULARY[ids[1, 3]] == "[UNK]"
    with pytest.raises(ValueError, match="at most 6 words"):
        words.encode(["is there a red 3 in this picture"])


def test_the_model_has_learnt_the_task():
    score = accuracy_by_kind(load(), samples=400)
    assert score["all"] >= 0.8, score
    assert min(score[kind] for kind in scenes.KINDS) >= 0.7, score


def test_the_task_gives_what_an_ablation_needs():
    task = vilt_digits()
    first, last = task.data(30, 20)
    assert (len(first), len(last)) == (20, 10)
    assert first.inputs["pixel_values"].shape == (20, 3, 48, 48)
    assert task.model.vilt.embeddings.patch_embeddings.num_patches >= 144
    assert task.model.config.num_hidden_layers == 12
    with torch.no_grad():
        score = task.metric(task.model(**first.inputs), first.targets)
    assert score.shape == (20,) and set(score.tolist()) <= {0.0, 1.0}


def test_training_runs_and_continues(python, tmp_path):
    command = ["-m", "tokenreduce_digits.train_vilt", "--out", tmp_path, "--batch", 4]
    command += ["--save-every", 1, "--final-samples", 8]
    first = python(*command, "--scenes", 8)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "vilt.safetensors").exists() and "held-out after step 2" in first.stdout
    second = python(*command, "--scenes", 12)
    assert second.returncode == 0, second.stderr
    assert "continuing at step 2 of 3" in second.stdout
    load(tmp_path / "vilt.safetensors")
