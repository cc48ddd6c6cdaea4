"""``transformers.pipeline`` around attached models: the model that is given is the one that runs, reduced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import tokenreduce

from ..helpers import WORDS
from ..language import tinies

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
SQUARE = {"height": 32, "width": 32}


@pytest.fixture
def picture():
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def words(*more):
    """A tokenizer that splits at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate([*WORDS, *more])}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=20, **special)


def vit(kind=transformers.ViTForImageClassification):
    return kind(transformers.ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=3)).eval()


@pytest.mark.parametrize("when", ["before", "after"])
def test_image_classification(when, picture):
    model, processor = vit(), transformers.ViTImageProcessor(size=SQUARE)
    make = lambda: transformers.pipeline("image-classification", model=model, image_processor=processor)  # noqa: E731
    classify = make() if when == "after" else None
    plain = make()([picture, picture], batch_size=2)
    handle = tokenreduce.attach(model, "tome", r=3)
    classify = classify or make()
    reduced = classify([picture, picture], batch_size=2)
    assert classify.model is model
    assert handle.last.tokens == {"image": 8}
    assert reduced != plain and reduced[0] == reduced[1]
    handle.detach()
    assert classify([picture, picture], batch_size=2) == plain


def test_image_features_of_every_patch(picture):
    model = vit(transformers.ViTModel)
    handle = tokenreduce.attach(model, "tome", r=3)
    processor = transformers.ViTImageProcessor(size=SQUARE)
    features = transformers.pipeline("image-feature-extraction", model=model, image_processor=processor)(picture)
    assert len(features[0]) == 17 and handle.last.tokens == {"image": 8}


def test_zero_shot_image_classification(picture):
    text = {**SIZES, "vocab_size": 40, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**SIZES, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = transformers.CLIPModel(config).eval()
    handle = tokenreduce.attach(model, "tome", r=3)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    tokenizer = words()
    label = transformers.pipeline(
        "zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor
    )
    found = label(picture, candidate_labels=["red", "two"], hypothesis_template="a photo of {} [SEP]")
    assert {one["label"] for one in found} == {"red", "two"}
    assert handle.last.tokens == {"image": 8}


def test_image_text_to_text(picture):
    tiny = tinies.llava()
    handle = tokenreduce.attach(tiny.model, "random", keep=4)
    fill = [f"w{i}" for i in range(100 - len(WORDS))]
    tokenizer = words(*fill, "<image>", *[f"x{i}" for i in range(27)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert tokenizer.convert_tokens_to_ids("<image>") == tiny.model.config.image_token_id
    size = {"height": 24, "width": 24}
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=size)
    processor = transformers.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    write = transformers.pipeline("image-text-to-text", model=tiny.model, processor=processor)
    out = write(images=picture, text="<image> what colour", generate_kwargs={"max_new_tokens": 3, "do_sample": False})
    assert out and torch.isfinite(torch.tensor(handle.last.macs[1])) and handle.last.tokens["image"] == 4
