"""The embedded tasks' pictures, questions and answers go both ways."""

import pytest
import torch

from tokenreduce.tasks import Batch

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module", params=["vilt-digits", "clip-digits", "meter-digits"])
def task(request, embedded):
    return embedded(request.param)


def test_samples_prepared_again_give_the_same_answers(task):
    (batch,) = task.data(4, 4)
    samples = task.samples(batch)
    pictures = [
        Image.fromarray((sample.image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()) for sample in samples
    ]
    inputs = task.prepare(pictures, [sample.text for sample in samples])
    assert inputs.keys() == batch.inputs.keys()
    for name, value in batch.inputs.items():
        assert torch.allclose(inputs[name].float(), value.float(), atol=0.005), name
    with torch.inference_mode():
        answers = [task.answers(task.model(**found)) for found in (batch.inputs, inputs)]
    assert answers[0] == answers[1]


def test_answers_are_right_as_often_as_the_metric_says(task):
    (batch,) = task.data(30, 30)
    with torch.inference_mode():
        output = task.model(**batch.inputs)
    scores = task.metric(output, batch.targets).tolist()
    pairs = zip(task.answers(output), task.samples(batch), strict=True)
    assert scores == [float(answer == sample.answer) for answer, sample in pairs]


def test_pictures_of_any_size_and_kind(task):
    kinds = [Image.new("RGB", (7, 90)), Image.new("L", (500, 20), 255), Image.new("RGBA", (48, 48))]
    inputs = task.prepare(kinds, [""] * 3)
    assert inputs["pixel_values"].shape == (3, 3, 48, 48)
    assert inputs["pixel_values"][1].min() == 1
    samples = task.samples(Batch(inputs, None))
    assert [sample.answer for sample in samples] == [""] * 3
    assert all(sample.image.shape == (3, 48, 48) for sample in samples)
