"""Who reads the tokens of a timm tower, and whether its blocks are run as one.

Axes: B batch, N tokens, C width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tokenreduce.backbones import Output, device_of, evaluating, loaded
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

READERS = ("forward", "forward_features", "forward_head", "pool")


def output_of(tower: VisionTransformer, by_head: bool) -> Output:
    """What follows the blocks now: timm's own head, by its pooling, or code of somebody else, which gets every token.

    Args:
        by_head: whether nothing around the tower reads its tokens.
    """
    kind = type(tower)
    foreign = any(not getattr(getattr(kind, name), "__module__", "").startswith("timm.") for name in READERS)
    if foreign or not by_head or "forward_head" in vars(tower) or "pool" in vars(tower):
        return "full"
    pool = "" if tower.global_pool is None else tower.global_pool
    return "reduced" if pool == "token" else "repeated" if pool else "full"


def head_rows(tower: VisionTransformer, by_head: bool) -> int:
    """How many tokens in front are all that timm's head reads now; 0 where it, or somebody else, reads more.

    Args:
        by_head: whether nothing around the tower reads its tokens.
    """
    if not tower.has_class_token or output_of(tower, by_head) != "reduced":
        return 0
    kind = type(tower)
    own = kind.forward_head is VisionTransformer.forward_head and kind.pool is VisionTransformer.pool
    return 1 if own else int(tower.num_prefix_tokens)  # that of a distilled DeiT reads two


class Loop:
    """All blocks as the one block of a loop: for subclasses whose ``forward_features`` runs ``for block in blocks``."""

    def __init__(self, blocks: Callable[[Tensor], Tensor]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield self.blocks

    def __len__(self) -> int:
        return 1

    def __call__(self, x: Tensor) -> Tensor:
        return self.blocks(x)

    def __getitem__(self, index: Any) -> Any:
        raise UnsupportedCallError(
            f"forward_features takes blocks[{index!r}], but while a reducer is attached the blocks run as one; call "
            "self.blocks(x), or loop over self.blocks, or detach() first"
        )


def stand_in(tower: VisionTransformer, blocks: Any) -> VisionTransformer:
    """A shallow copy of a tower with other ``blocks``, which runs them without checkpointing them itself."""
    copied = copy.copy(tower)
    copied.grad_checkpointing = False
    vars(copied)["_modules"] = {name: part for name, part in tower._modules.items() if name != "blocks"}
    vars(copied)["blocks"] = blocks
    return copied


def runs_in_a_loop(tower: VisionTransformer) -> bool:
    """Whether a ``forward_features`` that is not timm's calls the blocks one by one, rather than all as one.

    It is tried on an empty image, with additions of noise in place of the blocks: one for each, then one for all. One
    that cannot be tried is taken as it is; its calls are checked when they come.

    Raises:
        UnsupportedModelError: it reads the tokens between its blocks.
    """
    if getattr(type(tower).forward_features, "__module__", "").startswith("timm."):
        return False
    steps = Steps(*(Noise(seed) for seed in range(len(tower.blocks))))
    try:
        expected = _tried(tower, steps)
    except Exception:  # it may ask for anything
        return False
    if steps.called:
        return False
    try:
        got = _tried(tower, Loop(steps))
    except Exception as error:
        got = error
    if not _close(got, expected):
        raise UnsupportedModelError(
            f"{type(tower).__name__} has a forward_features of its own that reads the tokens between its blocks, where "
            "there will be fewer of them; let it read only what the last block gives"
        )
    return True


class Noise(nn.Module):
    """Adds noise of its own to each token."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed), device="cpu")
        return x + noise.to(x)


class Steps(nn.Sequential):
    """In place of a tower's blocks; notes whether it was called itself."""

    called = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        self.called = True
        for step in self:
            x = step(x)
        return x


def _tried(tower: VisionTransformer, blocks: Any) -> Any:
    like, device = next(tower.patch_embed.parameters()), device_of(tower.patch_embed)
    size = getattr(tower.patch_embed, "img_size", None) or (224, 224)
    channels = getattr(getattr(tower.patch_embed, "proj", None), "in_channels", 3)
    with evaluating(tower), torch.device(device), torch.random.fork_rng(devices=[]), loaded(tower):
        torch.manual_seed(0)
        empty = torch.zeros(1, channels, *size, dtype=like.dtype)
        return type(tower).forward_features(stand_in(tower, blocks), empty)


def _close(got: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(got, Tensor) and got.shape == expected.shape and torch.allclose(got, expected, atol=1e-2)
    if isinstance(expected, (list, tuple)):
        same = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return same and all(_close(a, b) for a, b in zip(got, expected, strict=True))
    return bool(got is expected)
