"""Checkpoints of language models with images: a tiny model, its tokenizer and its processor, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ..language import tinies

QUESTIONS = ["what colour is the ball ?", "how many cats are there ?", "is it red ?", "where ?"]
ANSWERS = ["red", "two", "yes", "left"]
TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE {% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}ASSISTANT :"
)
PLACES = {100: "<image>", 101: "<video>", 102: "<img>", 103: "</img>", 104: "<boi>", 105: "<eoi>"}
"""Numbers of tokens as the tiny models have them."""


def tokenizer(places: dict[int, str] | None = None, **special: str) -> Any:
    """A word-level tokenizer of 128 words; the numbers of special tokens are those of the tiny models."""
    fixed = {0: "<pad>", 1: "<s>", 2: "<unk>", 127: "</s>", **PLACES, **(places or {})}
    words = dict.fromkeys(" ".join([*QUESTIONS, *ANSWERS, "USER ASSISTANT : USER: ASSISTANT: answer en"]).split())
    rest = iter([*words, *(f"w{i}" for i in range(128))])
    vocabulary = {fixed.get(i) or next(rest): i for i in range(128)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    extra = [word for i, word in fixed.items() if i > 2 and word not in special.values() and i != 127]
    names = {"extra_special_tokens": special} if special else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **named, additional_special_tokens=extra, **names
    )


def clip(kind: str, side: int, **options: Any) -> Any:
    """An image processor that resizes to a square."""
    square = {"height": side, "width": side}
    return getattr(transformers, f"{kind}ImageProcessor")(size=square, **options)


def llava() -> Any:
    pictures = clip("CLIP", 24, crop_size={"height": 24, "width": 24})
    return transformers.LlavaProcessor(
        pictures, tokenizer(), patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def vipllava() -> Any:
    pictures = clip("CLIP", 16, crop_size={"height": 16, "width": 16})
    return transformers.LlavaProcessor(
        pictures, tokenizer(), patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def llava_next() -> Any:
    pictures = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=TILES
    )
    return transformers.LlavaNextProcessor(
        pictures, tokenizer(), patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def llava_onevision() -> Any:
    return transformers.LlavaOnevisionProcessor(
        clip("LlavaOnevision", 16, image_grid_pinpoints=TILES),
        tokenizer(),
        transformers.LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )


def paligemma() -> Any:
    pictures = clip("Siglip", 16)
    pictures.image_seq_length = 16
    return transformers.PaliGemmaProcessor(pictures, tokenizer(image_token="<image>"))


def gemma3() -> Any:
    names = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"}
    return transformers.Gemma3Processor(clip("Gemma3", 48), tokenizer(**names), image_seq_length=36)


def qwen(version: str) -> Callable[[], Any]:
    def make() -> Any:
        names = {"image_token": "<image>", "video_token": "<video>"}
        names |= {"vision_start_token": "<img>", "vision_end_token": "</img>"}
        cells = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
        size = {"shortest_edge": 256, "longest_edge": 1024}
        videos = transformers.Qwen3VLVideoProcessor if version == "3" else transformers.Qwen2VLVideoProcessor
        processor = getattr(transformers, f"Qwen{version}VLProcessor")
        return processor(
            transformers.Qwen2VLImageProcessor(size=size, **cells), tokenizer(**names), videos(size=size, **cells)
        )

    return make


def internvl() -> Any:
    names = {"start_image_token": "<img>", "end_image_token": "</img>"}
    names |= {"context_image_token": "<image>", "video_token": "<video>"}
    side = {"height": 32, "width": 32}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer(**names),
        transformers.InternVLVideoProcessor(size=side),
        image_seq_length=16,
    )


def idefics3() -> Any:
    places = {
        102: "<fake_token_around_image>",
        103: "<global-img>",
        104: "<end_of_utterance>",
        105: "<row_1_col_1>",
        106: "<row_1_col_2>",
        107: "<row_2_col_1>",
        108: "<row_2_col_2>",
    }
    pictures = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return transformers.Idefics3Processor(pictures, tokenizer(places), image_seq_len=16)


def mistral3() -> Any:
    places = {102: "[IMG_BREAK]", 103: "[IMG_END]"}
    pictures = transformers.PixtralImageProcessor(size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
    return transformers.PixtralProcessor(
        pictures, tokenizer(places), patch_size=4, spatial_merge_size=2, image_token="<image>"
    )


def molmo2() -> Any:
    places = {100: "<im_patch>", 102: "<im_start>", 103: "<im_end>", 104: "<low_res_im_start>", 105: "<frame_start>"}
    places |= {106: "<frame_end>", 107: "<im_col>", 108: "<im_low>", 109: "<|image|>", 110: "<|video|>"}
    side = {"height": 32, "width": 32}
    pictures = transformers.Molmo2ImageProcessor(
        size=side, patch_size=4, pooling_size=[2, 2], overlap_margins=[1, 1], max_crops=4
    )
    videos = transformers.Molmo2VideoProcessor(size=side, patch_size=4, pooling_size=[2, 2])
    return transformers.Molmo2Processor(pictures, videos, tokenizer(places))


TILES = [[16, 32], [32, 16], [32, 32]]
PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": llava,
    "vipllava": vipllava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "qwen2_vl": qwen("2"),
    "qwen2_5_vl": qwen("2_5_"),
    "qwen3_vl": qwen("3"),
    "internvl": internvl,
    "idefics3": idefics3,
    "mistral3": mistral3,
    "molmo2": molmo2,
}
"""Families whose processors run without a package of their own (SmolVLM's needs num2words)."""


def write(family: str, folder: Path, template: str | None = TEMPLATE) -> Path:
    """A checkpoint as ``save_pretrained`` writes it."""
    processor = PROCESSORS[family]()
    if template is not None:
        image = getattr(processor, "image_token", "<image>")
        framed = f"<img>{image}</img>" if family.startswith("qwen") else image
        processor.chat_template = template.replace("IMAGE", framed)
    text = {"vocab_size": len(processor.tokenizer)}
    model = tinies.ALL[family](**text).model
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 127
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
