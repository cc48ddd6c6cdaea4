"""CLIP says which label fits a picture best, before and after ToMe merges its image tokens.

python examples/clip_zero_shot.py
python examples/clip_zero_shot.py --model openai/clip-vit-base-patch16 --image cat.jpg --labels "a cat" "a dog" "a car"
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

import tokenreduce


def embedded(sample: int) -> tuple[Any, list[str], dict[str, torch.Tensor]]:
    """The small trained CLIP of the task clip-digits, its captions, and a held-out picture with them."""
    from tokenreduce_digits.captions import CAPTIONS

    task = tokenreduce.registry.default_registry().load("task", "clip-digits")()
    pixels = task.data(sample + 1, sample + 1)[0].inputs["pixel_values"][sample:]
    texts = {"input_ids": task.model.input_ids, "attention_mask": task.model.attention_mask}
    return task.model.clip, list(CAPTIONS), {**texts, "pixel_values": pixels}


def checkpoint(name: str, image: str, labels: list[str]) -> tuple[Any, list[str], dict[str, torch.Tensor]]:
    """A checkpoint of a hub or a folder, and a picture and labels of your own."""
    from PIL import Image
    from transformers import AutoProcessor, CLIPModel

    inputs = AutoProcessor.from_pretrained(name)(
        text=labels, images=Image.open(image).convert("RGB"), return_tensors="pt", padding=True
    )
    return CLIPModel.from_pretrained(name).eval(), labels, dict(inputs)


def seconds(clip: Any, pixels: torch.Tensor) -> float:
    begin = time.perf_counter()
    clip.get_image_features(pixel_values=pixels)
    return time.perf_counter() - begin


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a CLIP of transformers: hub id or folder (default: the embedded one)")
    parser.add_argument("--image", help="a picture, for --model")
    parser.add_argument("--labels", nargs="+", help="texts to choose among, for --model")
    parser.add_argument("--sample", type=int, default=0, help="held-out picture of the embedded model (0)")
    parser.add_argument("--r", type=int, default=13, help="tokens that ToMe merges away in each layer (13)")
    parser.add_argument("--batch", type=int, default=32, help="pictures in a timed batch (32)")
    parser.add_argument("--rounds", type=int, default=9, help="timed pairs (9)")
    given = parser.parse_args()
    if given.model and not (given.image and given.labels):
        parser.error("--model needs a picture and labels: --image cat.jpg --labels 'a cat' 'a dog'")
    clip, labels, inputs = checkpoint(given.model, given.image, given.labels) if given.model else embedded(given.sample)

    before = clip(**inputs).logits_per_image.softmax(dim=-1)[0]
    with tokenreduce.attach(clip, "tome", r=given.r) as handle:
        after = clip(**inputs).logits_per_image.softmax(dim=-1)[0]
        print(handle)
    print(f"\n{'label':28}{'before':>9}{'after':>9}")
    for best in (before + after).topk(min(5, len(labels))).indices.tolist():
        print(f"{labels[best]:28}{before[best]:9.1%}{after[best]:9.1%}")

    pixels, pairs = inputs["pixel_values"].expand(given.batch, -1, -1, -1), []
    for _ in range(given.rounds + 1):  # the first pair warms up
        plain = seconds(clip, pixels)
        with tokenreduce.attach(clip, "tome", r=given.r):
            pairs.append(plain / seconds(clip, pixels))
    low, middle, high = statistics.quantiles(pairs[1:], n=4) if given.rounds > 1 else pairs[1:] * 3
    print(f"\nspeed-up of the image tower at batch {given.batch}: {middle:.2f} (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
