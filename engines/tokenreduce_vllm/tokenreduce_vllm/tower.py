"""The vision tower of transformers in the place of vLLM's, with any reducer attached inside.

Axes: U pictures, N tokens of one, K of them left, C' width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import tokenreduce

from .plan import Plan

WITHIN = "vision_model."


class ReducedTower(nn.Module):
    """CLIP's or SigLIP's tower up to the block that is read.

    Where image tokens are handed on one by one there are fewer of them; where tiles are put together every token is at
    its place.

    Args:
        config: of the model.
        plan: what acts in the tower.
    """

    def __init__(self, config: Any, plan: Plan) -> None:
        super().__init__()
        assert plan.vision is not None
        self.facts, (reducer, layers) = plan.facts, plan.vision
        self.inner = tower_of(config, plan)
        self.whole = plan.facts.family.tokens != "patch"
        self.handle = tokenreduce.attach(self.inner, reducer, layers=layers, restore=self.whole, trace=not self.whole)

    def forward(self, pixel_values: Tensor, **given: Any) -> Tensor:
        """(U, K, C') of pictures (U, 3, h, w)."""
        x: Tensor = self.inner(pixel_values.to(self.dtype)).last_hidden_state
        if not self.whole:
            x = self._ordered(x)
        return x[:, self.facts.skipped :]

    def _ordered(self, x: Tensor) -> Tensor:
        """(U, K, C') each token at the place of the one that others were merged into, as in transformers."""
        last: Any = self.handle.last
        trace = last.trace
        if trace is None or trace.places is None:  # nothing has gone
            return x
        places = trace.places
        own = places == torch.arange(places.shape[1], device=places.device)
        order = (~own).int().argsort(dim=1, stable=True)[:, : x.shape[1]]
        return x.gather(1, trace.source.gather(1, order)[..., None].expand(-1, -1, x.shape[-1]))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the weights of a checkpoint, whichever way its transformers named them."""
        own = {name.removeprefix(WITHIN): (name, value) for name, value in self.inner.named_parameters()}
        done = set()
        for name, value in weights:
            short = name.removeprefix(WITHIN)
            if short in own:  # not of blocks behind the one that is read, nor of a head
                target = own[short][1]
                target.data.copy_(value.to(target.dtype))
                done.add(f"inner.{own[short][0]}")
        missing = [name for name, _ in own.values() if f"inner.{name}" not in done]
        if missing:
            raise tokenreduce.errors.UnsupportedModelError(
                f"the checkpoint has no {', '.join(missing[:3])} (of {len(missing)}) of the vision tower in full "
                "precision; reduce at the hand-over instead"
            )
        return done

    @property
    def dtype(self) -> torch.dtype:
        """Of the tower's weights."""
        dtype: torch.dtype = next(self.inner.parameters()).dtype
        return dtype


def tower_of(config: Any, plan: Plan) -> Any:
    """The tower of transformers with the blocks up to the one that is read, in evaluation mode."""
    from transformers import CLIPVisionModel, SiglipVisionModel

    vision = copy.deepcopy(config.vision_config)
    vision.num_hidden_layers = plan.facts.read
    vision._attn_implementation = "sdpa"
    if plan.facts.tower == "clip_vision_model":
        return CLIPVisionModel(vision).eval()
    vision.vision_use_head = False
    tower: Any = SiglipVisionModel(vision).eval()
    getattr(tower, "vision_model", tower).post_layernorm = nn.Identity()  # what is read lies before it
    return tower
