"""Text features that guide the reduction of a dual encoder's image tokens. Axes: B batch, Q texts, D their width."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .._torch import parameter_width
from ..engine.binding import BaseBinding
from ..errors import OptionError, UnfitReducerError
from .controls import rebind, set_guide_and_reducer


class Guidance:
    """What ``handle.guide`` returns: leaving its context restores what guided before."""

    def __init__(self, bound: BaseBinding, before: Tensor | None) -> None:
        self._bound, self._before = bound, before

    def __enter__(self) -> Guidance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        bound, before = self._bound, self._before
        set_guide_and_reducer(bound, before, rebind(bound, before is not None, bound.factor))


def set_guide(bound: BaseBinding, text_features: Any) -> None:
    """Set or, with None, remove what guides a stack, and bind its reducer again.

    Raises:
        UnfitReducerError: the stack shares no space with text, or the reducer does not use text attention.
        OptionError: features of another shape.
    """
    if text_features is None:
        set_guide_and_reducer(bound, None, rebind(bound, False, bound.factor))
        return
    stack, backbone = bound.stack, bound.backbone
    if not stack.guidable:
        raise UnfitReducerError(
            f"the stack {stack.name!r} of {backbone.model} shares no space with text features, so none can guide it; "
            "models with a projection of their image tokens can (CLIP of transformers and open_clip)"
        )
    reducer = rebind(bound, True, bound.factor)
    if "text_attention" not in reducer.needs:
        raise UnfitReducerError(
            f"{type(reducer.reducer).__name__} with these options does not use text attention, so a guide would change "
            "nothing; use one that does ('pumer', or 'evit' with saliency='text')"
        )
    set_guide_and_reducer(bound, check_features(bound, text_features), reducer)


def check_features(bound: BaseBinding, features: Any) -> Tensor:
    """Features as (1, Q, D) or (B, Q, D), a copy without gradient.

    Raises:
        OptionError: not a floating tensor of one to three axes whose last is as wide as the shared space, or empty.
    """
    like = next(bound.stack.blocks[0].parameters())
    probe = torch.zeros(1, 1, parameter_width(bound.stack.blocks[0]), dtype=like.dtype, device=like.device)
    with torch.no_grad():
        width = bound.stack.shared_space(probe).shape[-1]
    shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or not features.is_floating_point() or not 1 <= features.ndim <= 3:
        raise OptionError(f"text features are (D,), (B, D) or (B, Q, D) floating-point numbers, got {shape}")
    if features.shape[-1] != width:
        raise OptionError(
            f"text features must be {width} wide, as the model's shared space; got {shape}. Use what the model gives "
            "for a text (get_text_features, encode_text)"
        )
    if not features.numel():
        raise OptionError(f"text features need at least one text, got {shape}; pass None to stop guiding")
    moved: Tensor = features.detach().to(like.device, copy=True)
    return moved[:, None] if moved.ndim == 2 else moved[None, None] if moved.ndim == 1 else moved
