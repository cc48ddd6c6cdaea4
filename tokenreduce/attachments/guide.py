"""Text features that guide the reduction of a dual encoder's image tokens. Axes: B batch, Q texts, D their width."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .._torch import parameter_width
from ..backbones.causal import CausalStack
from ..backbones.dispatch import device_of
from ..core.signals import GUIDED
from ..engine.binding import BaseBinding
from ..errors import OptionError, UnfitReducerError
from .controls import rebind, set_guide_and_reducer


class Guidance:
    """What ``handle.guide`` returns: leaving its context restores what guided before."""

    def __init__(self, bound: BaseBinding) -> None:
        self._bound, self._guide, self._space = bound, bound.guide, bound.space

    def __enter__(self) -> Guidance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        bound, guide = self._bound, self._guide
        set_guide_and_reducer(bound, guide, self._space, rebind(bound, guide is not None, bound.factor))


def set_guide(bound: BaseBinding, text_features: Any, space: Callable[[Tensor], Tensor] | None = None) -> None:
    """Set or, with None, remove what guides a stack, and bind its reducer again.

    Raises:
        UnfitReducerError: the stack shares no space with text, or the reducer does not use text attention.
        OptionError: features of another shape.
    """
    if text_features is None:
        set_guide_and_reducer(bound, None, None, rebind(bound, False, bound.factor))
        return
    stack, backbone = bound.stack, bound.backbone
    if space is not None and not callable(space):
        raise OptionError(f"space is a function from tokens (B, n, C) to (B, n, D), got {type(space).__name__}")
    if isinstance(stack, CausalStack):
        check_hands_over(stack, backbone.model, space)
    elif not stack.guidable and space is None:
        raise UnfitReducerError(
            f"the stack {stack.name!r} of {backbone.model} shares no space with text features, so none can guide it; "
            "models with a projection of their image tokens can (CLIP of transformers and open_clip), or pass space=, "
            "a function from its tokens to the space of the features"
        )
    reducer = rebind(bound, True, bound.factor)
    if not set(reducer.needs) & set(GUIDED):
        raise UnfitReducerError(
            f"{type(reducer.reducer).__name__} with these options does not use text attention, so a guide would change "
            "nothing; use one that does ('pumer', 'cdpruner', or 'evit' with saliency='text')"
        )
    set_guide_and_reducer(bound, check_features(bound, text_features, space), space, reducer)
    if isinstance(stack, CausalStack):
        stack.language.wanted |= {"encoder_features"}


def check_hands_over(stack: CausalStack, model: str, space: Any) -> None:
    """Raise UnfitReducerError where a place in a language model cannot be guided."""
    if stack.depth or "encoder_features" not in stack.language.tower_signals:
        raise UnfitReducerError(
            f"the stack {stack.name!r} of {model} cannot be guided by text features, which are compared with what the "
            "vision encoder gives for each token; the hand-over of LLaVA and Gemma3 can"
        )
    if space is None:
        raise UnfitReducerError(
            f"{model} has no projection of its encoder's features to the space of texts; pass space=, such as "
            "handle.guide(text_features, space=lambda x: clip.visual_projection(clip.vision_model.post_layernorm(x))) "
            "of the CLIP of transformers that its encoder comes from"
        )


def check_features(bound: BaseBinding, features: Any, space: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Features as (1, Q, D) or (B, Q, D), a copy without gradient.

    The width is compared in the first pass where ``space`` is given.

    Raises:
        OptionError: not a floating tensor of one to three axes whose last is as wide as the shared space, or empty.
    """
    shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or not features.is_floating_point() or not 1 <= features.ndim <= 3:
        raise OptionError(f"text features are (D,), (B, D) or (B, Q, D) floating-point numbers, got {shape}")
    width = features.shape[-1] if space is not None else shared_width(bound)
    if features.shape[-1] != width:
        raise OptionError(
            f"text features must be {width} wide, as the model's shared space; got {shape}. Use what the model gives "
            "for a text (get_text_features, encode_text)"
        )
    if not features.numel():
        raise OptionError(f"text features need at least one text, got {shape}; pass None to stop guiding")
    causal = isinstance(bound.stack, CausalStack)
    device = device_of(bound.stack.module if causal else bound.stack.blocks[0])
    moved: Tensor = features.detach().to(device, copy=True)
    return moved[:, None] if moved.ndim == 2 else moved[None, None] if moved.ndim == 1 else moved


def shared_width(bound: BaseBinding) -> int:
    """D of the space that a stack shares with texts."""
    block = bound.stack.blocks[0]
    like = next(block.parameters())
    probe = torch.zeros(1, 1, parameter_width(block), dtype=like.dtype, device=device_of(block))
    with torch.no_grad():
        return int(bound.stack.shared_space(probe).shape[-1])
