"""Checkpoints of transformers and METER, saved on the spot, read by name and judged."""

import json

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import tokenreduce
from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce.tasks.scoring import vqa_accuracy

from ..helpers import WORDS
from .conftest import ANSWERS, TEXT, VISION, Wicked

QUESTIONS = ["what colour is the ball ?", "how many cat ?", "is it a dog ?", "what is it ?"]


@pytest.fixture
def asked(pictures, lines):
    """A data file of four questions: one right answer, or votes."""
    rows = [{"image": name, "question": text} for name, text in zip(pictures(4), QUESTIONS, strict=True)]
    rows[0] |= {"answer": "red", "group": "colour"}
    rows[1] |= {"answers": ["two"] * 2 + ["red"] * 3 + ["no"] * 5, "group": "number"}
    rows[2] |= {"answer": "Yes."}
    rows[3] |= {"answer": "a thing that no class is"}
    return lines(rows)


@pytest.fixture
def processor():
    """An image processor of a class, for pictures of 32 pixels."""
    import transformers

    def make(kind: str, **options):
        return getattr(transformers, kind)(size={"height": 32, "width": 32}, **options)

    return make


def said_by_hand(folder, data):
    """A ViLT's answers, each question on its own, without tokenreduce."""
    from transformers import AutoTokenizer, ViltForQuestionAnswering, ViltImageProcessor

    model = ViltForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), ViltImageProcessor.from_pretrained(folder)
    said = []
    for row in map(json.loads, data.read_text().splitlines()):
        image = Image.open(data.parent / row["image"]).convert("RGB")
        text = tokenizer(row["question"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**text, **processor(images=image, return_tensors="pt")).logits
        said.append(model.config.id2label[int(logits.argmax())])
    return said


def test_vilt_answers_questions(vilt, asked, lines, load, judge):
    folder = vilt()
    said = said_by_hand(folder, asked)
    assert len(set(said)) > 1  # or it would show less
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    rows[0]["answer"] = f"{said[0].upper()}."
    rows[1]["answers"] = [said[1]] * 2 + ["nothing like it"] * 8
    rows[2]["answer"], rows[3]["answer"] = "nothing like it", said[3]
    task = load(folder, lines(rows))
    assert task.name == str(folder)
    assert judge(task) == pytest.approx([1, 0.6, 0, 1])
    assert judge(task, batch=1) == pytest.approx([1, 0.6, 0, 1])
    for reducer, options in (("tome", {"r": 3}), ("random", {"keep": 0.5}), ("pumer", {"layers": [1]})):
        assert len(judge(task, reducer, **options)) == 4
    batches = task.data(100, 3)
    assert [len(batch) for batch in batches] == [3, 1]
    assert len({batch.inputs["input_ids"].shape[1] for batch in batches}) == 1
    assert [batch.groups for batch in batches] == [["colour", "number", "(no group)"], ["(no group)"]]
    assert len(task.data(2, 3)) == 1 and len(task.data(2, 3)[0]) == 2


def test_what_a_person_sees(vilt, asked, load):
    task = load(vilt(), asked)
    batch = task.data(4, 4)[0]
    shown = task.samples(batch)
    assert [sample.text for sample in shown] == QUESTIONS
    assert [sample.answer for sample in shown] == ["red", "no", "Yes.", "a thing that no class is"]
    height, width = batch.inputs["pixel_values"].shape[-2:]
    mask = batch.inputs["pixel_mask"].bool()
    assert not mask.all()  # the pictures differ in size
    for i, sample in enumerate(shown):
        assert sample.image.shape == (3, height, width)
        assert sample.image.min() >= 0 and sample.image.max() <= 1
        back = (sample.image - 0.5) / 0.5
        assert torch.allclose(back[:, mask[i]], batch.inputs["pixel_values"][i][:, mask[i]], atol=1e-5)
    with torch.no_grad():
        assert set(task.answers(task.model(**batch.inputs))) <= set(ANSWERS)


def test_one_picture_without_a_file(vilt, pictures, load, tmp_path):
    task = load(vilt())
    image = Image.open(tmp_path / pictures(1)[0])
    inputs = task.prepare([image], ["what is it ?"])
    assert "pixel_mask" not in inputs  # one picture needs none
    with tokenreduce.attach(task.model, "tome", r=3) as handle, torch.no_grad():
        assert task.answers(task.model(**inputs))[0] in ANSWERS
        image_site = next(site for site in handle.last.sites if site.stream == "image")
        assert image_site.tokens_out == image_site.tokens_in - 3
    with pytest.raises(OptionError, match="--data"):
        task.data(1, 1)


def test_an_ablation_of_a_file(vilt, asked, load):
    task = load(vilt(), asked)
    rows = {"none": {}, "tome": {"r": 3}}
    result = tokenreduce.ablate(task.model, task.data(4, 2), rows, metric=task.metric, rounds=1, break_even=False)
    assert result.ok and all(0 <= row.accuracy <= 1 for row in result.rows)


def test_questions_are_cut_at_the_positions_of_the_model(vilt, pictures, lines, load, judge):
    rows = [{"image": name, "text": "what " * 50, "answer": "no"} for name in pictures(2)]
    task = load(vilt(), lines(rows))
    assert task.data(2, 2)[0].inputs["input_ids"].shape == (2, TEXT["max_position_embeddings"])
    judge(task)


def test_records_that_do_not_suit_questions(vilt, pictures, lines, load):
    folder, (name,) = vilt(), pictures(1)
    with pytest.raises(OptionError, match=rf"record of {name} \('why'\) has no answer; add 'answer'"):
        load(folder, lines([{"image": name, "text": "why"}]))
    with pytest.raises(OptionError, match=r"has choices.*leave 'choices' out"):
        load(folder, lines([{"image": name, "text": "why", "answer": "no", "choices": ["no"]}]))


def test_vilt_finds_the_text(vilt, pictures, lines, load, judge):
    import transformers

    folder = vilt("ViltForImageAndTextRetrieval")
    texts = ["a photo of a cat", "a dog", "two red ball"]
    rows = [{"image": name, "caption": texts[i % 3]} for i, name in enumerate(pictures(4))]
    rows[3] = {"image": rows[3]["image"], "answer": "a dog", "choices": ["a dog", "two red ball"]}
    data = lines(rows)
    task = load(folder, data)
    model = transformers.ViltForImageAndTextRetrieval.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    processor = transformers.ViltImageProcessor.from_pretrained(folder)
    expected = []
    for i, row in enumerate(rows):
        image = Image.open(data.parent / row["image"]).convert("RGB")
        pixels = processor(images=[image] * 3, return_tensors="pt")
        with torch.no_grad():
            scores = model(**tokens, **pixels).logits[:, 0]
        expected.append(float(int(scores[1:].argmax()) == 0) if i == 3 else float(int(scores.argmax()) == i))
    assert judge(task) == judge(task, batch=1) == expected
    judge(task, "tome", r=3)
    with torch.no_grad():
        assert set(task.answers(task.model(**task.data(4, 4)[0].inputs))) <= set(texts)
    alone = load(folder)
    image = Image.open(data.parent / rows[0]["image"]).convert("RGB")
    with torch.no_grad():
        (word,) = alone.answers(alone.model(**alone.prepare([image], ["a dog"])))
        assert word.startswith("score ")
        assert alone.answers(alone.model(**alone.prepare([image], [""]))) == [""]


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2", "Siglip", "CLIP"])
def test_classifiers_of_pictures(kind, save, processor, pictures, lines, load, judge):
    import transformers

    names = {0: "tench, Tinca tinca", 1: "cat", 2: "dog"}
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    if kind in ("Siglip", "CLIP"):
        both = {"vision_config": {**VISION, "image_size": 32, "patch_size": 8}, "text_config": TEXT}
        config = getattr(transformers, f"{kind}Config")(**both, **labels)
    else:
        own = {k: v for k, v in VISION.items() if kind != "Dinov2" or k != "intermediate_size"}
        config = getattr(transformers, f"{kind}Config")(**own, image_size=32, patch_size=8, **labels)
    made = processor("CLIPImageProcessor", do_center_crop=False) if kind == "CLIP" else processor("ViTImageProcessor")
    cls = getattr(transformers, f"{kind}ForImageClassification")
    folder = save(cls(config), made)
    rows = [
        {"image": name, "text": "shown only", "label": label}
        for name, label in zip(pictures(4), ["Cat", 2, "tinca tinca", "dog"], strict=True)
    ]
    data = lines(rows)
    task = load(folder, data)
    model, expected = cls.from_pretrained(folder).eval(), []
    for row, right in zip(rows, [1, 2, 0, 2], strict=True):
        image = Image.open(data.parent / row["image"]).convert("RGB")
        with torch.no_grad():
            logits = model(pixel_values=made(images=image, return_tensors="pt")["pixel_values"]).logits
        expected.append(float(int(logits.argmax()) == right))
    assert judge(task) == expected
    judge(task, "random", keep=0.5)
    batch = task.data(4, 4)[0]
    assert task.samples(batch)[2].answer == "tinca tinca" and task.samples(batch)[0].image.shape == (3, 32, 32)
    with torch.no_grad():
        assert set(task.answers(task.model(**batch.inputs))) <= set(names.values())
    with pytest.raises(OptionError, match=r"record of picture-0\.png.*'cta'.*Did you mean 'cat'.*dog"):
        load(folder, lines([{**rows[0], "label": "cta"}]))


@pytest.fixture
def clip_words(tmp_path):
    """A CLIP tokenizer of a few words, from vocab.json and merges.txt."""
    from transformers import CLIPTokenizer

    words = [word for word in WORDS if word[0] != "["]
    letters = sorted(set("".join(words)))
    pieces = ["<|startoftext|>", "<|endoftext|>", "at", *letters, *(f"{letter}</w>" for letter in letters)]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t\n")
    return CLIPTokenizer.from_pretrained(tmp_path)


@pytest.fixture
def siglip_words():
    """A tokenizer of words that can be saved as one file, as SigLIP's is."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: i + 3 for i, word in enumerate(WORDS)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_dual_encoders(kind, save, processor, clip_words, siglip_words, pictures, lines, load, judge):
    import transformers

    words = clip_words if kind == "CLIP" else siglip_words
    text = {**TEXT, "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": 0}
    vision = {**VISION, "image_size": 32, "patch_size": 8}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, projection_dim=16)
    made = (
        processor("CLIPImageProcessor", do_center_crop=False) if kind == "CLIP" else processor("SiglipImageProcessor")
    )
    cls = getattr(transformers, f"{kind}Model")
    folder = save(cls(config), words, made)
    texts = ["cat", "a dog", "two red"]
    rows = [{"image": name, "answer": texts[i % 3]} for i, name in enumerate(pictures(4))]
    rows[0]["choices"] = ["cat", "a dog"]
    rows[1] = {"image": rows[1]["image"], "caption": "a dog"}
    data = lines(rows)
    task = load(folder, data)
    model, batch = cls.from_pretrained(folder).eval(), task.data(4, 4)[0]
    length = {"padding": "max_length", "max_length": 16} if kind == "Siglip" else {"padding": True}
    tokens = words(texts, truncation=True, return_tensors="pt", **length)
    if kind == "Siglip":
        tokens.pop("attention_mask")
    images = [Image.open(data.parent / row["image"]).convert("RGB") for row in rows]
    with torch.no_grad():
        pixels = made(images=images, return_tensors="pt")["pixel_values"]
        logits = model(**tokens, pixel_values=pixels).logits_per_image
        assert torch.allclose(task.model(**batch.inputs), logits, rtol=1e-4, atol=1e-4)
    right = [float(int(logits[0, :2].argmax()) == 0), *(float(int(logits[i].argmax()) == i % 3) for i in (1, 2, 3))]
    assert judge(task) == right
    with tokenreduce.attach(task.model, "tome", r=3), torch.no_grad():
        reduced = task.model(**batch.inputs)
    with tokenreduce.attach(model, "tome", r=3), torch.no_grad():
        assert torch.allclose(reduced, model(**tokens, pixel_values=pixels).logits_per_image, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(reduced, logits, atol=1e-3)
    assert task.answers(logits) == [texts[i] for i in logits.argmax(-1)]
    assert list(task.model.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    if kind == "CLIP":
        with tokenreduce.attach(task.model, "pumer", layers=[0, 1], guide=F.normalize(torch.randn(1, 16), dim=-1)):
            task.model(**batch.inputs)
    alone = load(folder)
    with torch.no_grad():
        inputs = alone.prepare(images[:2], ["cat", "a dog"])
        said = alone.answers(alone.model(**inputs))
        assert [float(word.removeprefix("score ")) for word in said] == pytest.approx(
            [float(logits[0, 0]), float(logits[1, 1])], abs=0.01
        )
        assert alone.answers(alone.model(**alone.prepare(images[:1], [""]))) == [""]
    with pytest.raises(OptionError, match="no answer and no text"):
        load(folder, lines([{"image": rows[0]["image"]}]))
    with pytest.raises(OptionError, match="one of its choices to be right, got fish"):
        load(folder, lines([{**rows[0], "answer": "fish"}]))


@pytest.mark.parametrize("own_processor", [False, True])
def test_meter_answers_questions(own_processor, save, processor, asked, load, judge, tiny_meter, tmp_path):
    from transformers import RobertaTokenizer

    letters = sorted({*"".join(QUESTIONS).replace(" ", "Ġ")})
    (tmp_path / "vocab.json").write_text(
        json.dumps({p: i for i, p in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "at", *letters])})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t\n")
    tokenizer = RobertaTokenizer.from_pretrained(tmp_path)
    labels = {"id2label": dict(enumerate(ANSWERS)), "label2id": {name: i for i, name in enumerate(ANSWERS)}}
    model, _ = tiny_meter(**labels)
    square = processor("ViTImageProcessor", do_normalize=False)
    square.size = {"height": 48, "width": 48}
    folder = save(model, tokenizer, *([square] if own_processor else []))
    task = load(folder, asked)
    assert type(task.model) is type(model)
    batch = task.data(4, 4)[0]
    assert batch.inputs["pixel_values"].shape == (4, 3, 48, 48)
    assert batch.inputs["input_ids"].shape == (4, 14)  # 16 positions, of which RoBERTa begins at the third
    with torch.no_grad():
        said = [ANSWERS[i] for i in model(**batch.inputs).logits.argmax(-1)]
    assert judge(task) == pytest.approx(
        [vqa_accuracy(w, one.answers) for w, one in zip(said, batch.targets, strict=True)]
    )
    judge(task, "pumer", layers=[1])
    low = task.samples(batch)[0].image
    assert low.shape == (3, 48, 48) and 0 <= low.min() < 0.1 and 0.9 < low.max() <= 1


def test_models_that_cannot_be_asked(vilt, tiny_meter, save, load, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"ViltForMaskedLM, which fills in words.*Taken: Vilt"):
        load(vilt("ViltForMaskedLM", parts=False))
    with pytest.raises(UnsupportedModelError, match=r"ViltModel, which has no head.*LOADER:NAME names another"):
        load(vilt("ViltModel", parts=False))
    with pytest.raises(UnsupportedModelError, match="MeterForVisualEntailment; only MeterForQuestionAnswering"):
        load(save(tiny_meter("MeterForVisualEntailment")[0]))
    with pytest.raises(UnsupportedModelError, match=r"model_type 'meter'.*from_checkpoint"):
        load("meter:x.ckpt")
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({**config, "model_type": "vilt"}))
    with pytest.raises(UnsupportedModelError, match="names no architecture"):
        load(f"transformers:{tmp_path / 'checkpoint'}")


def test_blip_is_refused_with_its_reason(load, tmp_path):
    for kind, reason in (("BlipForQuestionAnswering", "word by word"), ("BlipForConditionalGeneration", "writes text")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip", "architectures": [kind]}))
        with pytest.raises(UnsupportedModelError, match=reason):
            load(tmp_path)


def test_files_that_are_missing_are_named(vilt, load):
    folder = vilt(parts=False)
    with pytest.raises(UnsupportedModelError, match=r"image processor \(preprocessor_config\.json\).*save_pretrained"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match=r"weights \(model\.safetensors\) of .* cannot be read \(OSError"):
        load(folder)
    with pytest.raises(
        UnsupportedModelError, match=r"of 'nobody/nothing' cannot be read.*check the id and the network"
    ):
        load("nobody/nothing")
    (folder / "config.json").write_text(json.dumps({"model_type": "new-thing", "architectures": ["NewThing"]}))
    with pytest.raises(UnsupportedModelError, match="configuration"):
        load(folder)


def test_a_head_without_weights_is_refused(vilt, load):
    folder = vilt("ViltModel")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["ViltForQuestionAnswering"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"lack weights .*classifier.*would be random"):
        load(folder)


def test_nothing_in_the_files_is_run(vilt, load, trap):
    folder = vilt()
    (folder / "model.safetensors").unlink()
    torch.save({"x": Wicked(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="weights"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(trap)!r})\nclass Evil: pass\n")
    with pytest.raises(UnsupportedModelError, match="configuration"):
        load(folder)


def test_files_in_the_form_of_published_checkpoints(vilt, asked, load, judge):
    """Configurations as the first checkpoints of ViLT have them: no type, one number for the size."""
    folder = vilt()
    before = judge(load(folder, asked))
    old = {"do_normalize": True, "do_resize": True, "resample": 3, "size": 32, "size_divisor": 8}
    old |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    for name in ("processor_config.json", "tokenizer.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 40}))
    assert judge(load(folder, asked)) == before


def test_weights_as_pytorch_writes_them_are_read(vilt, asked, load, judge):
    folder = vilt()
    before = judge(load(folder, asked))
    state = load(folder).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert judge(load(folder, asked)) == before
