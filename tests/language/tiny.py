"""A tiny language model with images and random weights, and its inputs made by hand. Axes: B batch."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 127,
    "pad_token_id": 0,
    "initializer_range": 0.25,  # so that attention is far from uniform
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
IMAGE, VIDEO = 100, 101


def everything(size: tuple[int, int]) -> tuple[list[int], int]:
    """Every placeholder is a token of the image."""
    return list(range(math.prod(size))), math.prod(size)


@dataclass(frozen=True)
class Tiny:
    """A model and how its inputs are made.

    Args:
        model: with random weights.
        pixels: inputs for images of the sizes (h, w in tokens) asked for.
        size: the usual one, in tokens.
        around: tokens before and after each image.
        columns: places of the tokens of an image of a size among its placeholders, and how many of these there are; by
            default all are the image's.
        fixed: whether images are all of one size.
        other: another size than the usual one.
    """

    model: nn.Module
    pixels: Callable[..., dict[str, Any]]
    size: tuple[int, int]
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    columns: Callable[[tuple[int, int]], tuple[list[int], int]] = everything
    fixed: bool = True
    other: tuple[int, int] = (2, 4)

    def double(self) -> "Tiny":
        """The same in float64, in which rounding hides nothing."""
        self.model.double()
        return self

    def inputs(self, batch: int = 1, seed: int = 0, images: int = 1, head: int = 3, tail: int = 5) -> dict[str, Any]:
        """A batch of prompts of equal length: text, images side by side, text."""
        return self.batch([[self.size] * images for _ in range(batch)], seed, head, [tail] * batch)

    def batch(
        self, sizes: Any, seed: int = 0, head: int = 3, tails: Any = None, side: str = "left", seeds: Any = None
    ) -> dict[str, Any]:
        """Prompts with images of these sizes, padded on one side; each sample drawn by a seed of its own."""
        tails = tails or [5] * len(sizes)
        seeds = seeds or [seed * 100 + i for i in range(len(sizes))]
        rows, pictures = [], []
        for images, tail, own in zip(sizes, tails, seeds, strict=True):
            generator = torch.Generator().manual_seed(own)
            text = torch.randint(5, 90, (head + tail,), generator=generator)
            before, after = (torch.tensor(one, dtype=torch.long) for one in self.around)
            marks = [torch.cat([before, torch.full((self.columns(one)[1],), IMAGE), after]) for one in images]
            rows.append(torch.cat([text[:head], *marks, text[head:]]))
            pictures += [(size, own * 10 + i) for i, size in enumerate(images)]
        longest = max(map(len, rows))
        padding = [(longest - len(row), 0) if side == "left" else (0, longest - len(row)) for row in rows]
        ids = torch.stack([nn.functional.pad(row, pad) for row, pad in zip(rows, padding, strict=True)])
        given: dict[str, Any] = {"input_ids": ids}
        if any(sum(pad) for pad in padding):
            ones = [nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, padding, strict=True)]
            given["attention_mask"] = torch.stack(ones)
        given |= self.pixels(ids, pictures)
        dtype = self.model.dtype
        return {name: side.to(dtype) if side.is_floating_point() else side for name, side in given.items()}

    def features(self, given: dict[str, Any], sizes: Any) -> list[Tensor]:
        """The tokens (n, C) of every image of a batch, as the projector gives them."""
        inner: Any = self.model.model
        names = inspect.signature(type(inner).get_image_features).parameters
        with torch.no_grad():
            output = inner.get_image_features(
                **{name: side for name, side in given.items() if name in names}, return_dict=True
            )
        places = [self.columns(size) for images in sizes for size in images]
        whole = torch.cat(list(output.pooler_output))
        if hasattr(inner.config, "adapter_config"):  # Molmo2 adds them to the placeholder's embedding
            whole = whole + inner.get_input_embeddings().weight[IMAGE].detach()
        parts = whole.split([count for _, count in places])
        return [part[columns] for part, (columns, _) in zip(parts, places, strict=True)]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
