"""Which features of an image's tokens a method looks at; methods offer them as the option ``features``.

Axes: B batch, N tokens, n of them not protected, C width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.streams import Stream
from ..errors import OptionError, UnfitReducerError
from .backbone import Backbone

FEATURES = ("encoder", "projected", "tokens")
HANDOVER = "handover"


def check_features(features: Any) -> None:
    """Raise OptionError for features that there are not."""
    if features not in FEATURES:
        raise OptionError(f"features must be one of {', '.join(map(repr, FEATURES))}, got {features!r}")


def features_on(backbone: Backbone, features: str, method: str) -> str:
    """What an option ``features`` means on a backbone: one of ``"encoder"``, ``"projected"`` and ``"tokens"``.

    On an encoder alone the encoder's features are the tokens at the site. At a hand-over that gives none of them (where
    several patches make one token) they are the projected ones.

    Args:
        method: who asks, for the message.

    Raises:
        UnfitReducerError: there is no projector.
    """
    handed = backbone.stack == HANDOVER
    if features == "projected" and not handed:
        raise UnfitReducerError(
            f"{method} with features='projected' acts at the hand-over to a language model, and the stack "
            f"{backbone.stack!r} of {backbone.model} has no projector behind it; leave features at 'encoder'"
        )
    if features != "encoder" or "encoder_features" in backbone.provides:
        return features
    return "projected" if handed else "tokens"


def features_of(stream: Stream, features: str) -> tuple[Tensor, Tensor | None]:
    """(B, n, C) the features of the tokens that are not protected, after :func:`features_on`; (B, n) which are real.

    The second is None where all are.
    """
    tokens = stream.tokens
    x = stream.signals.encoder_features if features == "encoder" else tokens.x
    return x[:, tokens.prefix :], None if tokens.real is None else tokens.real[:, tokens.prefix :]
