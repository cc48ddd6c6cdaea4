"""The zero-shot task: honest scenes, captions read where they end, a model that has learnt it."""

import numpy as np
import pytest
import torch

from tokenreduce.errors import OptionError
from tokenreduce_digits import captions, clutter
from tokenreduce_digits.clip_model import load
from tokenreduce_digits.clip_task import accuracy, clip_digits
from tokenreduce_digits.scenes import CELL, GRID, PATCH, PIXELS, load_images
from tokenreduce_digits.words import COLOURS


def test_a_scene_is_a_function_of_seed_and_number():
    a, b = clutter.ClutterFactory("held-out", 5)(17), clutter.ClutterFactory("held-out", 5)(17)
    assert np.array_equal(a.pixels, b.pixels) and (a.target, a.fragments) == (b.target, b.fragments)
    for other in (clutter.ClutterFactory("held-out", 5)(18), clutter.ClutterFactory("held-out", 6)(17)):
        assert not np.array_equal(a.pixels, other.pixels)


def test_training_scenes_hold_no_held_out_image():
    for split, other in (("train", "held-out"), ("held-out", "train")):
        factory = clutter.ClutterFactory(split, 0)
        foreign = {image.tobytes() for image in load_images(other)[0]}
        assert not [image for image in factory.images if image.tobytes() in foreign]
        assert factory.augment == (split == "train")
    with pytest.raises(OptionError, match="held-out"):
        clutter.ClutterFactory("test", 0)


def test_one_whole_digit_and_fragments_apart_from_it():
    factory, counts, seen = clutter.ClutterFactory("train", 0), set(), set()
    for i in range(300):
        scene = factory(i)
        assert scene.pixels.shape == (3, PIXELS, PIXELS) and 0 <= scene.pixels.min() <= scene.pixels.max() <= 1
        counts.add(len(scene.fragments))
        seen.add(scene.target)
        row, col = scene.place
        assert 0 <= row <= GRID - CELL and 0 <= col <= GRID - CELL
        taken = np.zeros((PIXELS, PIXELS), dtype=bool)
        top, left = row * PATCH - clutter.MARGIN, col * PATCH - clutter.MARGIN
        side = clutter.SIDE + 2 * clutter.MARGIN
        taken[max(top, 0) : top + side, max(left, 0) : left + side] = True
        for (top, left, height, width), colour in scene.fragments:
            assert 4 <= height <= 8 and 4 <= width <= 8 and top + height <= PIXELS and left + width <= PIXELS
            assert not taken[top : top + height, left : left + width].any()
            assert colour in COLOURS
    assert counts == {3, 4, 5, 6}
    assert len(seen) > 55  # 300 draws leave few of 60 classes out


def test_patch_labels_show_the_digit_the_fragments_and_the_ground():
    scenes = [clutter.ClutterFactory("train", 0)(i) for i in range(20)]
    digit, colour, part = clutter.patch_labels(scenes)
    assert digit.shape == colour.shape == part.shape == (20, GRID * GRID)
    assert torch.equal(part != clutter.NO_PART, digit < 10)
    assert ((digit < 10).sum(1) == CELL * CELL).all()
    assert torch.equal(digit == clutter.GROUND, colour == len(COLOURS))
    assert (digit == clutter.FRAGMENT).any(1).all()
    for scene, digits, colours, parts in zip(scenes, digit, colour, part, strict=True):
        assert parts[parts != clutter.NO_PART].tolist() == list(range(9))
        assert set(digits[digits < 10].tolist()) == {scene.digit}
        assert {COLOURS[c] for c in colours[digits < 10].tolist()} == {scene.colour}


@pytest.mark.sweep
def test_windows_are_squares_that_hold_the_digit():
    scenes = [clutter.ClutterFactory("train", 0)(i) for i in range(100)]
    seen = clutter.windows(scenes, 6, seed=3)
    assert seen.shape == (100, 36) and torch.equal(seen, clutter.windows(scenes, 6, seed=3))
    rows, columns = seen // GRID, seen % GRID
    assert rows.min() >= 0 and rows.max() < GRID
    for at in (rows, columns):
        assert ((at.max(1).values - at.min(1).values) == 5).all()
    digit = clutter.patch_labels(scenes)[0]
    assert ((digit.gather(1, seen) < 10).sum(1) == 9).all()
    assert len(set(seen[:, 0].tolist())) > 20


def test_captions_name_every_class_once():
    assert len(captions.CAPTIONS) == len(set(captions.CAPTIONS)) == 60
    assert captions.CAPTIONS[captions.class_of(7, "red")] == "a photo of a red 7"
    ids, mask = captions.encode_captions()
    assert ids.shape == mask.shape == (60, captions.CONTEXT)
    assert len({tuple(row) for row in ids.tolist()}) == 60
    assert mask.sum(1).tolist() == [8] * 60 and not ids[mask == 0].any()
    with pytest.raises(OptionError, match="'a photo of a red zebra'"):
        captions.encode_captions(["a photo of a red zebra"])
    with pytest.raises(OptionError, match="at most 8 words"):
        captions.encode_captions(["a photo of a photo of a red 7"])


def test_captions_are_pooled_where_they_end():
    model = load()
    ids, mask = model.input_ids, model.attention_mask
    end = mask.sum(1) - 1
    assert (ids.gather(1, end[:, None]) == captions.END_ID).all() and ((ids == captions.END_ID).sum(1) == 1).all()
    with torch.no_grad():
        output = model.clip.text_model(input_ids=ids, attention_mask=mask)
        assert torch.equal(output.pooler_output, output.last_hidden_state[torch.arange(60), end])
        short = model.clip.text_model(input_ids=ids[:, :8], attention_mask=mask[:, :8])
    torch.testing.assert_close(short.pooler_output, output.pooler_output, atol=1e-5, rtol=1e-5)


def test_the_model_has_learnt_the_task():
    score = accuracy(load(), samples=400)
    assert score["all"] >= 0.8, score
    assert min(score.values()) >= 0.6, score


def test_the_task_gives_what_an_ablation_needs():
    task = clip_digits()
    first, last = task.data(30, 20)
    assert (len(first), len(last)) == (20, 10)
    assert list(first.inputs) == ["pixel_values"] and first.inputs["pixel_values"].shape == (20, 3, 48, 48)
    assert first.groups is not None and set(first.groups) <= set(COLOURS)
    assert task.model.clip.config.vision_config.num_hidden_layers == 6 and not task.model.training
    with torch.no_grad():
        output = task.model(**first.inputs)
        score = task.metric(output, first.targets)
        # scores are those of the CLIP model itself, and of one image whatever stands beside it
        direct = task.model.clip(
            input_ids=task.model.input_ids,
            attention_mask=task.model.attention_mask,
            pixel_values=first.inputs["pixel_values"][3:4],
        ).logits_per_image
    assert output.logits.shape == (20, 60)
    torch.testing.assert_close(output.logits[3:4], direct, atol=1e-4, rtol=1e-4)
    assert score.shape == (20,) and set(score.tolist()) <= {0.0, 1.0}
    assert torch.equal(score == 1, output.logits.argmax(1) == first.targets)


@pytest.mark.sweep
def test_training_runs_and_continues(python, tmp_path):
    command = ["-m", "tokenreduce_digits.train_clip", "--out", tmp_path, "--batch", 4]
    command += ["--save-every", 1, "--final-samples", 8]
    first = python(*command, "--scenes", 8)
    assert first.returncode == 0, first.stderr
    assert "held-out after step 2" in first.stdout
    before = load(tmp_path / "clip.safetensors").state_dict()
    second = python(*command, "--scenes", 12)
    assert second.returncode == 0, second.stderr
    assert "continuing at step 2 of 3" in second.stdout
    after = load(tmp_path / "clip.safetensors").state_dict()
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
