"""METER's weights: published checkpoints, and what ``save_pretrained`` writes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce_models.meter import (
    MeterConfig,
    MeterForImageAndTextRetrieval,
    MeterForImagesAndTextClassification,
    MeterForQuestionAnswering,
    MeterForVisualEntailment,
    MeterModel,
)

DATA = Path(__file__).parent.parent / "data"
HEADS = {"num_attention_heads": 4, "vision_heads": 4}


class Settings(dict):
    """An object of a training program, as published files hold them beside the weights."""


class Callback:
    def __init__(self):
        self.best = 0.5


@pytest.fixture(scope="module")
def weights():
    return load_file(DATA / "meter_base_a.weights.safetensors")


@pytest.fixture(scope="module")
def text():
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=300,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=42,
        type_vocab_size=1,
    )


@pytest.fixture
def checkpoint(tmp_path, weights):
    """Write a file as the training program did; keywords add weights, ``drop`` leaves some out."""

    def write(drop=(), name="meter.ckpt", **more):
        state = {key: value for key, value in weights.items() if not key.startswith(tuple(drop))} | more
        content = {"state_dict": state, "hyper_parameters": Settings(lr=1e-5), "epoch": 3, "callbacks": {Callback: {}}}
        torch.save({**content, "loop": Callback()}, tmp_path / name)
        return tmp_path / name

    return write


@torch.no_grad()
def test_a_published_file_loads_unchanged(checkpoint, text):
    io = load_file(DATA / "meter_base_a.io.safetensors")
    model = MeterForQuestionAnswering.from_checkpoint(checkpoint(), text_config=text, **HEADS)
    logits = model(io["input_ids"], io["pixel_values"].float(), io["attention_mask"]).logits
    torch.testing.assert_close(logits, io["logits"], rtol=0, atol=1e-5)
    assert not model.training
    assert (model.config.num_labels, model.config.image_size, model.config.num_top_layer) == (13, 96, 3)


@torch.no_grad()
def test_positions_are_interpolated_to_the_image_size(checkpoint, weights, text):
    model = MeterForQuestionAnswering.from_checkpoint(checkpoint(), image_size=144, text_config=text, **HEADS)
    name = "vit_model.visual.positional_embedding"
    before, after = weights[name], model.state_dict()[name]
    assert after.shape == (82, 40)
    assert torch.equal(after[0], before[0])
    square = before[1:].view(6, 6, 40).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(square, size=(9, 9), mode="bicubic")[0].permute(1, 2, 0).reshape(81, 40)
    torch.testing.assert_close(after[1:], wanted)
    assert model(torch.tensor([[0, 5, 2]]), torch.randn(1, 3, 144, 144)).logits.shape == (1, 13)
    with pytest.raises(OptionError, match="multiple of patch_size"):
        MeterForQuestionAnswering.from_checkpoint(checkpoint(), image_size=100, text_config=text, **HEADS)


def test_shapes_tell_the_configuration(checkpoint, text):
    from tokenreduce_models.meter.checkpoint import read_config, read_weights

    found = read_config(read_weights(checkpoint()))
    config = found.pop("text_config")
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (300, 24, 2)
    assert (config.max_position_embeddings, config.intermediate_size) == (42, 96)
    assert found["vision_layers"] == 4  # the last block of the CLIP tower is not in the file
    assert (found["hidden_size"], found["vision_hidden_size"], found["patch_size"]) == (32, 40, 16)


def test_missing_and_surplus_weights_are_named(checkpoint, text):
    with pytest.raises(UnsupportedModelError, match=r"missing in the file: snli_classifier\.0\.bias"):
        MeterForVisualEntailment.from_checkpoint(checkpoint(), text_config=text, **HEADS)
    path = checkpoint(**{"my_adapter.weight": torch.zeros(2)})
    with pytest.raises(UnsupportedModelError, match=r"no place in the model for: my_adapter\.weight"):
        MeterForQuestionAnswering.from_checkpoint(path, text_config=text, **HEADS)
    with pytest.warns(UserWarning, match="my_adapter.weight"):
        MeterForQuestionAnswering.from_checkpoint(path, text_config=text, strict=False, **HEADS)
    with pytest.warns(UserWarning, match="snli_classifier"):
        model = MeterForVisualEntailment.from_checkpoint(
            checkpoint(), text_config=text, num_labels=3, strict=False, **HEADS
        )
    assert model.config.num_labels == 3


def test_other_heads_in_the_file_do_not_disturb(checkpoint, text):
    more = {
        "mlm_score.bias": torch.zeros(300),
        "itm_score.fc.weight": torch.randn(2, 64),
        "itm_score.fc.bias": torch.randn(2),
    }
    MeterForQuestionAnswering.from_checkpoint(checkpoint(**more), text_config=text, **HEADS)
    MeterModel.from_checkpoint(checkpoint(**more), text_config=text, **HEADS)
    ranking = MeterForImageAndTextRetrieval.from_checkpoint(checkpoint(**more), text_config=text, **HEADS)
    assert torch.equal(ranking.rank_output.weight[0], more["itm_score.fc.weight"][1])  # the row of "matches"
    assert torch.equal(ranking.rank_output.bias, more["itm_score.fc.bias"][1:])


def test_the_second_image_starts_as_the_first(checkpoint, weights, text):
    head = {
        f"nlvr2_classifier.{i}.{part}": torch.randn(shape)
        for i, part, shape in (
            (0, "weight", (64, 128)),
            (0, "bias", 64),
            (1, "weight", 64),
            (1, "bias", 64),
            (3, "weight", (2, 64)),
            (3, "bias", 2),
        )
    }
    model = MeterForImagesAndTextClassification.from_checkpoint(checkpoint(**head), text_config=text, **HEADS)
    types = model.token_type_embeddings.weight
    assert torch.equal(types[:2], weights["token_type_embeddings.weight"])
    assert torch.equal(types[2], types[1])


def test_files_that_are_not_checkpoints(tmp_path, text):
    with pytest.raises(FileNotFoundError, match=r"nothing\.ckpt"):
        MeterModel.from_checkpoint(tmp_path / "nothing.ckpt")
    (tmp_path / "noise.ckpt").write_bytes(b"this is no checkpoint")
    with pytest.raises(UnsupportedModelError, match="cannot be read as weights"):
        MeterModel.from_checkpoint(tmp_path / "noise.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(UnsupportedModelError, match="holds no weights"):
        MeterModel.from_checkpoint(tmp_path / "empty.ckpt")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UnsupportedModelError, match="not a METER checkpoint"):
        MeterModel.from_checkpoint(tmp_path / "other.safetensors")


def test_nothing_in_the_file_is_run(python, tmp_path, weights, text):
    """A file whose objects would write a file when unpickled."""
    trace = tmp_path / "was-here"
    code = f"""
import pathlib, torch
class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path({str(trace)!r}),)
torch.save({{"state_dict": {{"x": torch.zeros(1)}}, "evil": Evil()}}, {str(tmp_path / "evil.ckpt")!r})
"""
    python("-c", code).check_returncode()
    with pytest.raises(UnsupportedModelError):
        MeterModel.from_checkpoint(tmp_path / "evil.ckpt")
    assert not trace.exists()


@torch.no_grad()
@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_save_and_load(order, tmp_path, tiny_meter):
    model, inputs = tiny_meter(level_order=order)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["level_order"] == order
    assert (tmp_path / "model.safetensors").exists()
    again = MeterForQuestionAnswering.from_pretrained(tmp_path)
    assert isinstance(again.config, MeterConfig)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_a_wrong_order_of_levels():
    with pytest.raises(OptionError, match="'parallel' or 'sequential'"):
        MeterConfig(level_order="updated")
