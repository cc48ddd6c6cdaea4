"""Models of timm, saved on the spot the way timm saves them, read by name and judged."""

import json

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import tokenreduce
from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce_models.timm.loader import names_of, source

from .conftest import Wicked, noise

NAMES = ["n01", "cat", "dog"]


@pytest.fixture
def folder(tmp_path):
    """A small ViT of three classes in timm's form."""

    def write(classes=3, **config):
        torch.manual_seed(0)
        arguments = {"img_size": 48, "depth": 3}
        model = timm.create_model("test_vit", num_classes=classes, **arguments)
        described = {
            "label_names": NAMES,
            "label_descriptions": {"n01": "tench, Tinca tinca", "cat": "cat", "dog": "dog"},
        }
        model.pretrained_cfg["input_size"] = (3, 48, 48)
        if classes:
            noise(model)
        made = tmp_path / "timm-model"
        save_for_hf(
            model, made, model_config={"model_args": arguments, **(described if classes == 3 else {}), **config}
        )
        return made

    return write


@pytest.mark.parametrize("prefix", ["", "local-dir:", "timm:", "timm:local-dir:"])
def test_a_folder(prefix, folder, pictures, lines, load, judge):
    made = folder()
    labels = ["Tinca Tinca", "cat", 2, "dog"]
    rows = [{"image": name, "text": "shown only", "answer": a} for name, a in zip(pictures(4), labels, strict=True)]
    data = lines(rows)
    task = load(f"{prefix}{made}", data)
    model = timm.create_model(f"local-dir:{made}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = torch.stack([transform(Image.open(data.parent / row["image"]).convert("RGB")) for row in rows])
    assert images.shape == (4, 3, 48, 48)
    with torch.no_grad():
        best = model(images).argmax(-1).tolist()
    expected = [float(got == right) for got, right in zip(best, [0, 1, 2, 2], strict=True)]
    assert judge(task) == judge(task, batch=1) == expected
    judge(task, "tome", r=4)
    judge(task, "random", keep=0.5)
    batch = task.data(4, 4)[0]
    assert torch.equal(batch.inputs["x"], images)
    with torch.no_grad():
        assert task.answers(task.model(**batch.inputs)) == [["tench, Tinca tinca", "cat", "dog"][i] for i in best]
    sample = task.samples(batch)[1]
    assert (sample.text, sample.answer, sample.image.shape) == ("shown only", "cat", (3, 48, 48))
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    assert torch.allclose((sample.image - mean) / std, images[1], atol=1e-5)


def test_a_picture_without_a_file(folder, pictures, load, tmp_path):
    task = load(folder())
    inputs = task.prepare([Image.open(tmp_path / name).convert("RGB") for name in pictures(2)], ["", ""])
    with tokenreduce.attach(task.model, "tome", r=4) as handle, torch.no_grad():
        assert len(task.answers(task.model(**inputs))) == 2
        assert handle.last.sites[0].tokens_out < handle.last.sites[0].tokens_in


def test_mistakes_are_explained(folder, pictures, lines, load):
    made, (name,) = folder(), pictures(1)
    with pytest.raises(OptionError, match=r"picture-0\.png.*one of the model's 3 classes, got 'fish'.*tench, Tinca"):
        load(made, lines([{"image": name, "answer": "fish"}]))
    with pytest.raises(OptionError, match="add 'answer'"):
        load(made, lines([{"image": name}]))
    with pytest.raises(OptionError, match="'choices'"):
        load(made, lines([{"image": name, "answer": "cat", "choices": ["cat"]}]))
    with pytest.raises(UnsupportedModelError, match=r"timm cannot read 'vit_nonsense' .*timm\.list_pretrained\(\)"):
        load("timm:vit_nonsense")
    with pytest.raises(UnsupportedModelError, match=r"tried 'hf-hub:timm/nothing'.*network"):
        load("timm/nothing")
    with pytest.raises(UnsupportedModelError, match=r"tried 'test_vit' with pretrained weights"):
        load("timm:test_vit")
    for file in [file for file in made.iterdir() if file.name != "config.json"]:
        file.unlink()
    with pytest.raises(UnsupportedModelError, match="No suitable checkpoints"):
        load(made)


def test_a_model_without_classes(folder, load):
    with pytest.raises(UnsupportedModelError, match="has no classifier"):
        load(folder(classes=0))


def test_nothing_in_the_files_is_run(folder, load, trap):
    made = folder()
    for file in [file for file in made.iterdir() if file.name != "config.json"]:
        file.unlink()
    torch.save({"state_dict": Wicked(trap)}, made / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="timm cannot read"):
        load(made)


def test_names_of_the_classes(folder):
    assert names_of(timm.create_model("test_vit", num_classes=5)) == list("01234")
    assert names_of(timm.create_model("test_vit", num_classes=1000))[1] == "goldfish, Carassius auratus"
    made = folder()
    config = json.loads((made / "config.json").read_text())
    config["label_names"] = {"0": "a", "1": "b", "2": "c"}
    del config["label_descriptions"]
    (made / "config.json").write_text(json.dumps(config))
    assert names_of(timm.create_model(f"local-dir:{made}", pretrained=True)) == ["a", "b", "c"]


def test_how_a_name_is_given_to_timm(tmp_path):
    (tmp_path / "here").mkdir()
    assert source("vit_tiny") == "vit_tiny"
    assert source("timm/vit_tiny") == "hf-hub:timm/vit_tiny"
    assert source(str(tmp_path / "here")) == f"local-dir:{tmp_path / 'here'}"
    assert source("local-dir:x/y") == "local-dir:x/y"
