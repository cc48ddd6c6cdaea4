"""The vision tower of SigLIP 2 as a stack: pictures of several shapes in one batch, padded to one length.

While attached, the tower's own ``forward`` runs on a stand-in: its encoder has one block, all of them, run by the
engine; its pooling head gets the mask of the tokens that are left.

Axes: B batch, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.models.siglip2.modeling_siglip2 import Siglip2Encoder, Siglip2VisionModel

from tokenreduce.backbones import Pass
from tokenreduce.errors import UnsupportedCallError

from .bert import additive
from .towers import TowerStack, Whole, stand_in


class Siglip2Stack(TowerStack):
    """The encoder of a ``Siglip2VisionModel``, with what pools its tokens."""

    padded = True

    def __init__(self, family: Any, tower: Any, *rest: Any) -> None:
        super().__init__(family, tower, *rest)
        self.tower, self.module = tower, tower

    def forward(self, run: Pass, *args: Any, **kwargs: Any) -> Any:
        self.capture(run, kwargs)
        encoder = stand_in(self.tower.encoder, layers=(Whole(self, run),))
        changed: dict[str, Any] = {"encoder": partial(type(self.tower.encoder).forward, encoder)}
        if self.tower.use_head:
            changed["head"] = Pooling(self.tower.head, run)
        return type(self.tower).forward(stand_in(self.tower, **changed), *args, **kwargs)

    def start(self, run: Pass, x: Tensor, mask: Any, given: Mapping[str, Any]) -> None:
        run.start(x, {"image": x.shape[1]}, real_patches(mask))

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        return self.plain(block, x, None if real is None else additive(real, x))

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [
            (self.tower, "forward", Siglip2VisionModel.forward),
            (self.tower.encoder, "forward", Siglip2Encoder.forward),
        ]


class Pooling:
    """The pooling head of a tower, with the mask of the tokens that are left."""

    def __init__(self, head: nn.Module, run: Pass) -> None:
        self.head, self.run = head, run

    def __call__(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None and attention_mask.shape[1] != x.shape[1]:
            left = self.run.follow("image", attention_mask.unsqueeze(-1).to(x.dtype)).squeeze(-1)
            attention_mask = (left > 0.5).to(attention_mask.dtype)
        pooled: Tensor = self.head(x, attention_mask)
        return pooled


def real_patches(mask: Any) -> Tensor | None:
    """(B, N) False for padding, of a mask as the library makes it for its blocks; None where all are real.

    Raises:
        UnsupportedCallError: a mask of another kind.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise UnsupportedCallError(
            f"the attention mask is a {type(mask).__name__}; expected (B, N) or (B, 1, N, N). Load the model with "
            "attn_implementation='sdpa': the reducer's engine runs the attention anyway"
        )
    row = mask if mask.ndim == 2 else mask[:, 0, 0]
    return row == 0 if row.is_floating_point() else row.bool()
