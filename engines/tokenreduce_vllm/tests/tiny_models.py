"""Tiny checkpoints with random weights, as published ones are laid out, with a tokenizer and a processor.

Axes: none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = ["what colour is the car in the picture ? red blue green yes no how many dogs are there USER: ASSISTANT:"] * 4
IMAGE, VIDEO = "<image>", "<video>"
TEXT = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
VISION = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2}
PINPOINTS = [[56, 112], [112, 56], [112, 112]]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}\n{% endfor %}ASSISTANT:"
)


def tokenizer(special: tuple[str, ...] = (), **named: str) -> Any:
    """A byte-level tokenizer of a few hundred words."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    marks = ["<unk>", "<s>", "</s>", "<pad>", IMAGE, VIDEO, *special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=310, special_tokens=marks, initial_alphabet=alphabet)
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO, **named},
    )
    fast.chat_template = TEMPLATE
    return fast


def sharpened(model: Any) -> Any:
    """The model with wider weights, so that what it says differs between pictures."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(3)
    return model.eval()


def write(model: Any, processor: Any, folder: Path, within: str = "vision_model.") -> Path:
    """Save a checkpoint whose tower is named as in published ones, which vLLM expects.

    Args:
        within: what published names have behind ``vision_tower.``.
    """
    sharpened(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    path, place = folder / "model.safetensors", "vision_tower."
    names = {name: name.replace(place + within, place).replace(place, place + within) for name in load_file(path)}
    save_file({names[name]: value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


def clip(size: int = 112) -> Any:
    """CLIP's processor of pictures."""
    crop = {"height": size, "width": size}
    return transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size=crop)


def llava(folder: Path, size: int = 112, vision: Any = VISION, text: Any = TEXT) -> Path:
    """LLaVA-1.5: 64 image tokens."""
    torch.manual_seed(0)
    words = tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision, image_size=size, patch_size=14),
        text_config=transformers.LlamaConfig(**text),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(size // 14) ** 2,
    )
    processor = transformers.LlavaProcessor(
        clip(size),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return write(transformers.LlavaForConditionalGeneration(config), processor, folder)


def large_llava(folder: Path) -> Path:
    """The same with 576 image tokens and 12 layers, for timing."""
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12}
    vision = {**sizes, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 6}
    text = {**TEXT, **sizes, "num_hidden_layers": 12, "num_key_value_heads": 12}
    return llava(folder, 336, vision, text)


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: the whole picture and tiles of it, 16 tokens each, and separators between rows."""
    torch.manual_seed(0)
    words = tokenizer()
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=56, patch_size=14),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )
    pictures = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS
    )
    processor = transformers.LlavaNextProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model = transformers.LlavaNextForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.image_newline)
    return write(model, processor, folder)


def llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: SigLIP, tiles that are made smaller where there are many."""
    torch.manual_seed(0)
    words = tokenizer()
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=56, patch_size=14, vision_use_head=False),
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        video_token_id=words.convert_tokens_to_ids(VIDEO),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    pictures = transformers.LlavaOnevisionImageProcessor(
        size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS
    )
    videos = transformers.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56})
    processor = transformers.LlavaOnevisionProcessor(
        pictures,
        words,
        videos,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.image_newline)
    return write(model, processor, folder)


def internvl(folder: Path) -> Path:
    """InternVL: tiles of 4 tokens, each of four patches."""
    torch.manual_seed(0)
    marks = ("<img>", "</img>", "<IMG_CONTEXT>")
    words = tokenizer(marks, start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>")
    words.chat_template = TEMPLATE.replace(IMAGE, "<IMG_CONTEXT>")
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**VISION, image_size=[56, 56], patch_size=[14, 14]),
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    pictures = transformers.GotOcr2ImageProcessor(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    videos = transformers.InternVLVideoProcessor(size={"height": 56, "width": 56})
    processor = transformers.InternVLProcessor(
        pictures, words, videos, image_seq_length=4, chat_template=words.chat_template
    )
    return write(transformers.InternVLForConditionalGeneration(config), processor, folder, within="")


MODELS = {one.__name__: one for one in (llava, llava_next, llava_onevision, internvl)}
