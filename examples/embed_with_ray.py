"""Embed pictures on several processes or machines with Ray Data, a reducer attached in every worker.

pip install -e ".[transformers,digits]" "ray[data]"
python examples/embed_with_ray.py --out embeddings
python examples/embed_with_ray.py --model openai/clip-vit-base-patch16 --images photos --workers 8 --out embeddings
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import ray
import torch
from transformers import AutoImageProcessor, AutoModel

import tokenreduce


def embedded() -> tokenreduce.Task:
    """The task that comes with the library: captions of handwritten digits."""
    return tokenreduce.registry.default_registry().load("task", "clip-digits")()


class Embedder:
    """The image tower of a CLIP with ToMe; Ray makes one in each worker and hands it batches."""

    def __init__(self, model: str | None, r: int) -> None:
        torch.set_num_threads(1)
        self.clip = embedded().model.clip if model is None else AutoModel.from_pretrained(model).eval()
        self.processor = None if model is None else AutoImageProcessor.from_pretrained(model)
        self.handle = tokenreduce.attach(self.clip, {"vision": {"reducer": "tome", "r": r}})

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.processor is None:
            pixels = torch.as_tensor(batch.pop("pixel_values"))
        else:
            pixels = self.processor(images=list(batch.pop("image")), return_tensors="pt")["pixel_values"]
        tower = self.clip.vision_model(pixels.to(self.clip.device, self.clip.dtype))
        embedding = self.clip.visual_projection(tower.pooler_output).float()
        left = self.handle.last.tokens["image"]
        return {**batch, "embedding": embedding.cpu().numpy(), "tokens": np.full(len(embedding), left)}


def pictures(folder: str | None, count: int) -> ray.data.Dataset:
    """Pictures of a folder, each with its path; without one, held-out pictures of the embedded task."""
    if folder is not None:
        return ray.data.read_images(folder, mode="RGB", include_paths=True)
    pixels = embedded().data(count, count)[0].inputs["pixel_values"].numpy()
    return ray.data.from_items([{"number": i, "pixel_values": one} for i, one in enumerate(pixels)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed pictures with Ray Data and a reducer.")
    parser.add_argument("--model", help="a CLIP of transformers; left out: the embedded one")
    parser.add_argument("--images", help="a folder of pictures, with --model")
    parser.add_argument("--r", type=int, default=8, help="tokens that ToMe merges in each block")
    parser.add_argument("--count", type=int, default=64, help="held-out pictures, without --images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--out", default="embeddings", help="a folder for Parquet files")
    options = parser.parse_args()
    if (options.model is None) != (options.images is None):
        parser.error("--model and --images go together; leave both out for the embedded model and its pictures")
    made = pictures(options.images, options.count).map_batches(
        Embedder,
        fn_constructor_args=(options.model, options.r),
        batch_size=options.batch,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_gpus=options.gpus,
    )
    made.write_parquet(options.out)


if __name__ == "__main__":
    main()
