"""timm's ``Eva``: EVA, EVA-02, the Perception Encoder, DINOv3, and ViTs with rotary positions.

The angles travel with the tokens; a merged token has the place of the one that it was merged into.

Axes: B batch, N tokens, C width, H heads, d head width, L blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from tokenreduce.backbones import Adapter, BlockView, Example, Pass, Positions, Size, Stack, current, pair
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.patch_dropout import drops

from .eva_view import tokens_first, view_of
from .vit import check_tower


class EvaStack(Stack):
    """The blocks of an ``Eva``, which its ``forward_features`` runs one by one."""

    name = "vision"
    entry = "forward_features"
    drops_patches = current(lambda stack: drops(stack.model.patch_drop))

    def __init__(self, model: Eva) -> None:
        self.model, self.module = model, model
        self.blocks = list(model.blocks)
        self.prefix = {"image": model.num_prefix_tokens}
        self.readout = None if model.cls_token is None else 0
        self.head_rows = int(model.cls_token is not None and model.global_pool == "token")
        self.passing = (model.norm,)
        self.output = "reduced" if model.global_pool == "token" else "repeated" if model.global_pool else "full"

    def view(self, block: nn.Module) -> BlockView:
        return view_of(block, next((i for i, own in enumerate(self.blocks) if own is block), 0))

    def forward(self, run: Pass, *args: Any, **kwargs: Any) -> Tensor:
        """timm's own ``forward_features``, on a stand-in whose blocks are one: all of them, run by the engine."""
        stand_in = object.__new__(type(self.model))
        stand_in.__dict__.update(vars(self.model))
        stand_in.__dict__.update(blocks=(Whole(self, run),), grad_checkpointing=False, rope_mixed=False)
        features: Tensor = type(self.model).forward_features(stand_in, *args, **kwargs)
        return features

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
        positions: Positions | None = None,
    ) -> Tensor:
        if positions is None:
            plain: Tensor = block.forward(x)
            return plain
        copied: Any = block  # attach probes copies of blocks
        copied.attn.num_prefix_tokens = 1  # however many there are, a few probes must be turned
        out: Tensor = block.forward(x, rope=positions["rope"][0, 1:])
        return out

    def probe_positions(self, x: Tensor) -> Positions | None:
        model = self.model
        if model.rope is None:
            return None
        turned, width = x.shape[1] - 1, 2 * model.blocks[0].attn.head_dim
        angles = torch.linspace(-1, 1, turned * width).reshape(turned, width).to(x)
        return {"rope": tokens_first(angles, 1, mixed=False)}

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        model = self.model
        return partial(torch.utils.checkpoint.checkpoint, use_reentrant=False) if model.grad_checkpointing else None

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.module, "forward_features", Eva.forward_features)]


class Whole:
    """All blocks as the one block of a stand-in."""

    def __init__(self, stack: EvaStack, run: Pass) -> None:
        self.stack, self.run = stack, run

    def __call__(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedCallError(
                "attn_mask or is_causal was given, but a mask over all tokens does not fit fewer tokens; call without "
                "one, or handle.detach() first"
            )
        prefix, mixed = self.stack.prefix["image"], bool(getattr(self.stack.model, "rope_mixed", False))
        positions = None if rope is None else {"rope": tokens_first(rope, prefix, mixed=mixed)}
        self.run.start(x, {"image": x.shape[1]}, positions=positions)
        return self.run(x)


class TimmEva(Adapter):
    """An ``Eva``, or a model with exactly one inside."""

    def accepts(self, model: nn.Module) -> bool:
        return bool(_towers(model))

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        towers = _towers(model)
        if len(towers) != 1:
            raise UnsupportedModelError(f"{type(model).__name__} holds {len(towers)} Evas; attach to one of them")
        return {"vision": EvaStack(towers[0])}

    def patch_size(self, model: nn.Module) -> Size | None:
        return pair(_towers(model)[0].patch_embed.patch_size)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        check_tower(_towers(model)[0], height, width)
        copied = copy.deepcopy(model)
        _towers(copied)[0].set_input_size((height, width))
        return copied

    def examples(self) -> dict[str, Callable[[], Example]]:
        from .eva_examples import EXAMPLES

        return dict(EXAMPLES)


def _towers(model: nn.Module) -> list[Eva]:
    return [module for module in model.modules() if isinstance(module, Eva)]
