"""transformers' own tests of a model, run on one to which a reducer without a budget is attached.

The folder that this file is copied into has the mixins of transformers' source distribution.
"""

import os
import unittest
from pathlib import Path

import pytest
import torch
from language import tinies

import tokenreduce

from .test_modeling_common import ModelTesterMixin

NOTHING = {
    "handover": {"reducer": "random", "keep": 1.0},
    "language": {"reducer": "random", "layers": [0], "keep": 1.0},
}
ATTACH = os.environ["TOKENREDUCE_ATTACH"] == "1"
PASSES: list[int] = []
"""Image tokens before and after each attachment's last pass, less those that were removed: 0 each."""


def attached(cls):
    """The class with a reducer on every model of it, as soon as it is moved or its mode is set."""

    def put(model):
        plain = all(parameter.device.type == "cpu" for parameter in model.parameters())
        if ATTACH and plain and not model.__dict__.get("_putting") and model.__dict__.get("_handle") is None:
            model.__dict__["_putting"] = True
            model.__dict__["_handle"] = tokenreduce.attach(model, NOTHING, replace=True)
            model.__dict__["_putting"] = False
        return model

    def mode(self, training=True):
        cls.train(self, training)
        return put(self)

    def call(self, *args, **kwargs):
        output = cls.__call__(self, *args, **kwargs)
        handle = self.__dict__.get("_handle")
        if handle is not None and handle.last is not None:
            PASSES.append(sum(abs(site.tokens_in - site.tokens_out) for site in handle.last.sites))
        return output

    return type(cls.__name__, (cls,), {"train": mode, "__call__": call, "__module__": cls.__module__})


class Tester:
    """What the mixins ask of a model: a configuration, inputs, and a few numbers."""

    is_training = True
    batch_size = 2

    def __init__(self, family):
        self.tiny = tinies.ALL[family]()
        self.config = self.tiny.model.config
        text = self.config.get_text_config()
        self.num_hidden_layers, self.hidden_size = text.num_hidden_layers, text.hidden_size
        self.num_attention_heads = text.num_attention_heads
        self.seq_length = self.tiny.inputs(2)["input_ids"].shape[1]
        self.encoder_seq_length = self.seq_length

    def get_config(self):
        return type(self.config).from_dict(self.config.to_dict())

    def prepare_config_and_inputs_for_common(self):
        inputs = self.tiny.inputs(2)
        return self.get_config(), {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}

    def prepare_config_and_inputs_for_model_class(self, model_class):
        return self.prepare_config_and_inputs_for_common()


class Common(ModelTesterMixin):
    family = ""
    _is_composite = True
    test_torch_exportable = False

    def setUp(self):
        self.model_tester = Tester(self.family)
        self.all_model_classes = (attached(type(self.model_tester.tiny.model)),)


class TestLlava(Common, unittest.TestCase):
    family = "llava"


class TestQwen(Common, unittest.TestCase):
    family = "qwen2_5_vl"


class TestGemma(Common, unittest.TestCase):
    family = "gemma3"


@pytest.fixture(autouse=True, scope="session")
def count():
    """Say at the end how many passes there were."""
    yield
    Path(os.environ["TOKENREDUCE_PASSES"]).write_text(f"{len(PASSES)} {sum(PASSES)}")
