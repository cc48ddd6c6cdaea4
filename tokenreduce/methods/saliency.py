"""How much a token matters, by one of five measures; methods offer them as the option ``saliency``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.site import Site
from ..core.streams import Stream
from ..errors import OptionError, UnfitReducerError
from ..ops.noise import hash_noise
from ..ops.similarity import at_least_float
from .backbone import Backbone

NEEDS: dict[str, frozenset[str]] = {
    "text": frozenset({"text_attention"}),
    "class": frozenset({"class_attention"}),
    "readout": frozenset({"readout_attention"}),
    "key-norm": frozenset({"keys"}),
    "random": frozenset(),
}


def saliency(kind: str, stream: Stream, site: Site, *, seed: int = 0) -> Tensor:
    """Score (B, N) of each token of a stream, higher is kept; padding scores whatever it does.

    ``"text"``: attention that the text's tokens pay it. ``"class"``: attention that the class token pays it.
    ``"readout"``: attention that the token which the head reads pays it. ``"key-norm"``: length of its head-mean key.
    ``"random"``: uniform noise, fresh in training, repeatable in evaluation.
    """
    if kind == "text":
        return stream.signals.text_attention
    if kind == "class":
        return stream.signals.class_attention
    if kind == "readout":
        return stream.signals.readout_attention
    if kind == "key-norm":
        norm: Tensor = torch.linalg.vector_norm(at_least_float(stream.signals.keys), dim=-1)
        return norm
    return random_score(stream, site, seed)


def alternatives(provides: frozenset[str], guidable: bool = False) -> str:
    """The saliencies that a backbone can feed, as text for an error message."""
    guide = ", or saliency='text' with guide=text_features" if guidable else ""
    fit = [kind for kind in NEEDS if kind != "readout" and NEEDS[resolve(kind, provides)] <= provides]
    return "saliency=" + " or ".join(map(repr, fit)) + guide


def resolve(kind: str, provides: frozenset[str]) -> str:
    """``"class"`` as ``"readout"`` where there is no class token and the head reads another one, such as a text's."""
    reads_other = kind == "class" and not NEEDS[kind] <= provides and NEEDS["readout"] <= provides
    return "readout" if reads_other else kind


def saliency_on(backbone: Backbone, kind: str, method: str) -> str:
    """What a measure means on a backbone: :func:`resolve`, and a check that the backbone provides what it needs.

    Args:
        method: who asks, for the message.

    Raises:
        UnfitReducerError: it does not; the message names the measures that it can feed.
    """
    resolved = resolve(kind, backbone.provides)
    missing = NEEDS[resolved] - backbone.provides
    if missing:
        hint = alternatives(backbone.provides, backbone.guidable)
        raise UnfitReducerError(
            f"{method} with saliency={kind!r} needs {', '.join(sorted(missing))}, which {backbone.model} does "
            f"not provide in its stack {backbone.stack!r} (no class token, or no text); "
            f"it provides: {', '.join(sorted(backbone.provides))}; pass {hint}."
        )
    return resolved


def random_score(stream: Stream, site: Site, seed: int) -> Tensor:
    """Uniform noise (B, N): a function of seed, layer and place in evaluation, torch's generator in training."""
    batch, length = stream.tokens.x.shape[:2]
    device = stream.tokens.x.device
    if stream.training:
        return torch.rand(batch, length, device=device)
    rows = batch if stream.places is None else stream.places
    return hash_noise(rows, length, seed=seed, layer=site.layer, device=device)


ATTENTION = ("class", "received", "readout", "text")
"""Whose attention may score a token: the class token's, all patches', that of the token that the head reads, the
text's."""


def attention_on(backbone: Backbone, kind: str | None, method: str) -> str:
    """Whose attention scores tokens on a backbone: ``kind``, or the first that there is of class, received, readout.

    Read it with :func:`attention_of`.

    Args:
        kind: one of :data:`ATTENTION`, or None for the backbone to decide.
        method: who asks, for the message.

    Raises:
        UnfitReducerError: the backbone does not provide it; the message names those that it does.
    """
    given = [name for name in ATTENTION if f"{name}_attention" in backbone.provides]
    usual = [name for name in given if name != "text"]
    if kind in given or (kind is None and usual):
        return kind or usual[0]
    wanted = "the attention of a class token" if kind is None else f"attention={kind!r}"
    hint = " or ".join(f"attention={name!r}" for name in given)
    raise UnfitReducerError(
        f"{method} needs {wanted}, which {backbone.model} does not provide in its stack {backbone.stack!r}; "
        + (f"pass {hint}." if given else f"it provides: {', '.join(sorted(backbone.provides))}.")
    )


def attention_of(stream: Stream, kind: str) -> Tensor:
    """(B, N) what :func:`attention_on` has named."""
    attention: Tensor = getattr(stream.signals, f"{kind}_attention")
    return attention


def check_attention(kind: str | None) -> None:
    """Raise OptionError for an option that is neither None nor one of :data:`ATTENTION`."""
    if kind is not None and kind not in ATTENTION:
        raise OptionError(f"attention must be one of {', '.join(map(repr, ATTENTION))} or None, got {kind!r}")
