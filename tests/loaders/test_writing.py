"""Language models with images as checkpoints: saved on the spot with their processor, asked, judged and shown."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import tokenreduce
from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce.tasks.scoring import vqa_accuracy

from ..language import tinies

QUESTIONS = ["what colour is the ball ?", "how many cats ?", "is it red ?"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER", "ASSISTANT", ":"]


@pytest.fixture
def tokenizer():
    """A word-level tokenizer, made on the spot."""
    texts = " ".join(QUESTIONS).split()
    words = dict.fromkeys([*SPECIAL, *texts, "yes", "no", "red", "two", *(f"w{i}" for i in range(60))])
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """A folder as save_pretrained writes it: LLaVA with its processor; with or without a chat template."""

    def write(template=None, parts=True):
        model = tinies.llava().model
        model.config.image_token_id = model.config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
        folder = tmp_path / "llava"
        model.generation_config.pad_token_id = 0
        model.generation_config.eos_token_id = 2
        model.save_pretrained(folder)
        if parts:
            pictures = transformers.CLIPImageProcessor(
                size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
            )
            transformers.LlavaProcessor(
                pictures,
                tokenizer,
                patch_size=4,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
                chat_template=template,
            ).save_pretrained(folder)
        return folder

    return write


TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}ASSISTANT :"
)


@pytest.fixture
def asked(pictures, lines):
    """Three questions about pictures of several sizes."""
    rows = [{"image": name, "question": text} for name, text in zip(pictures(3), QUESTIONS, strict=True)]
    for row, answer in zip(rows, ("red", "two", "yes"), strict=True):
        row["answer"] = answer
    return lines(rows)


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_it_writes_what_the_library_writes(checkpoint, asked, load, template, tmp_path):
    folder = checkpoint(template)
    task = load(folder, asked)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    (batch,) = task.data(3, 3)
    got = task.ask(task.model, batch.inputs)
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    for row, text in zip(rows, got, strict=True):
        image = Image.open(tmp_path / row["image"]).convert("RGB")
        question = row["question"]
        words = f"USER : <image> {question} ASSISTANT :" if template else f"USER: <image>\n{question} ASSISTANT:"
        given = processor(images=image, text=words, return_tensors="pt")
        out = model.generate(**given, do_sample=False, max_new_tokens=32)
        want = processor.batch_decode(out[:, given["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
        assert text == want
    scores = task.metric(got, batch.targets)
    assert scores.tolist() == [vqa_accuracy(text, [row["answer"]]) for text, row in zip(got, rows, strict=True)]


def test_a_reducer_changes_what_is_written_and_detach_gives_it_back(checkpoint, asked, load):
    task = load(checkpoint(), asked)
    (batch,) = task.data(3, 3)
    plain = task.ask(task.model, batch.inputs)
    with tokenreduce.attach(task.model, "random", keep=2) as handle:
        reduced = task.ask(task.model, batch.inputs)
        assert handle.last.tokens["image"] == 2
    assert reduced != plain
    assert task.ask(task.model, batch.inputs) == plain


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tokenreduce", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    return done


def test_show_draws_what_is_left_of_a_picture(checkpoint, asked, tmp_path):
    folder, out = checkpoint(), tmp_path / "out.png"
    given = ("show", "--model", folder, "--data", asked, "--sample", 0, "--out", out)
    done = run(*given, "--reducer", "evit", "--set", "keep=9", "--set", "fuse=false")
    assert done.returncode == 0, done.stderr
    assert re.search(r"patches: 36 to 9 tokens", done.stdout), done.stdout
    assert "handover" in done.stdout and "keys and values" in done.stdout and "right answer: red" in done.stdout
    assert np.asarray(Image.open(out)).std() > 0
    done = run(
        *given[:-1],
        out,
        "--reducer",
        '{"handover": {"reducer": "tome", "r": 12}, "language": {"reducer": "evit", '
        '"layers": [1], "keep": 0.5, "fuse": false}}',
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"patches: 36 to 12 tokens", done.stdout), done.stdout


def test_ablate_judges_what_is_written(checkpoint, asked, tmp_path):
    out = tmp_path / "result.json"
    done = run(
        "ablate",
        "--model",
        checkpoint(),
        "--data",
        asked,
        "--reducers",
        "evit,tome",
        "--samples",
        3,
        "--batch",
        3,
        "--rounds",
        2,
        "--json",
        out,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert {"none", "random", "pooling", "uniform", "evit", "tome"} <= set(rows)  # two more controls than elsewhere
    assert [name for name, row in rows.items() if row["role"] == "control"] == ["pooling", "random", "uniform"]
    assert not [row for row in rows.values() if row["failed"]], done.stdout
    assert rows["evit"]["macs"] < rows["none"]["macs"]


def test_what_is_missing_is_said(checkpoint, asked, load):
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        load(checkpoint(parts=False), asked)


def test_choices_are_refused(checkpoint, pictures, lines, load):
    data = lines([{"image": pictures(1)[0], "question": "what ?", "answer": "red", "choices": ["red", "no"]}])
    with pytest.raises(OptionError, match="writes its answer"):
        load(checkpoint(), data)


def test_qwens_patches_are_a_picture_again():
    from tokenreduce_models.transformers.loaders.writing import unpatch

    config = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(patch_size=4)
    kind, plain = transformers.Qwen2VLImageProcessor, {"do_resize": False, "do_rescale": False, "do_normalize": False}
    processor = kind(patch_size=4, merge_size=2, temporal_patch_size=2, **plain)
    picture = torch.randint(0, 255, (3, 16, 24), dtype=torch.uint8)
    made = processor(images=[picture], return_tensors="pt")
    got = unpatch(made["pixel_values"], made["image_grid_thw"].tolist(), config)
    torch.testing.assert_close(got[0].float(), picture.float())
