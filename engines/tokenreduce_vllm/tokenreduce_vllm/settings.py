"""What a user asks for: the entry ``tokenreduce`` of a model's config, which ``--hf-overrides`` sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenreduce.errors import OptionError, nearest

ENTRY = "tokenreduce"
EXAMPLE = """--hf-overrides '{"tokenreduce": {"reducer": "divprune", "keep": 64}}'"""
HANDOVER, VISION, LANGUAGE = "handover", "vision", "language"
LANGUAGE_REASON = (
    "vLLM keeps one table of cache blocks for all layers of the language model, so every layer holds the same tokens; "
    "reduce at the hand-over or in the vision tower"
)
FIXED = {
    "unit": "an image is reduced by itself here, all its tiles together",
    "positions": "what is left is numbered anew here, as with positions='compact'",
    "adapter": "the model's family says what is done",
    "restore": "the model's family says whether every token has to be at its place",
    "trace": "nothing is recorded in a server",
    "guide": "the features of an image are kept for every question about it, so no text can choose among them",
}
"""Arguments of ``tokenreduce.attach`` that have no meaning here, and why."""


@dataclass(frozen=True)
class Settings:
    """Reducers by place, each ``{"reducer": name, **options}``; in the vision tower perhaps with ``layers``."""

    handover: Mapping[str, Any] | None = None
    vision: Mapping[str, Any] | None = None


def settings_of(config: Any) -> Settings | None:
    """What a model's config asks for; None where it asks for nothing.

    Raises:
        OptionError: something that cannot be meant, with what to type.
    """
    given = getattr(config, ENTRY, None)
    if given is None:
        return None
    if isinstance(given, str):
        given = {"reducer": given}
    if not isinstance(given, Mapping) or not given:
        raise OptionError(f"{ENTRY} names a reducer and its options, got {given!r}; type {EXAMPLE}")
    if "reducer" in given and not isinstance(given["reducer"], Mapping):
        return Settings(handover=_place(HANDOVER, given))
    places = dict(given)
    stacks = places.pop("reducer", None)
    if isinstance(stacks, Mapping):  # as handle.save(...) writes it
        places = {**places, **stacks}
    _check_fixed(places)
    if LANGUAGE in places:
        raise OptionError(f"{ENTRY} names a reducer between the layers of the language model; {LANGUAGE_REASON}")
    places = {name: value for name, value in places.items() if name not in FIXED}
    for name in places:
        if name not in (HANDOVER, VISION):
            raise OptionError(
                f"{ENTRY} has no entry {name!r}.{nearest(name, ['reducer', HANDOVER, VISION])}; {EXAMPLE}"
            )
    return Settings(**{name: _place(name, value) for name, value in places.items()})


def _place(name: str, given: Any) -> Mapping[str, Any]:
    own = {"reducer": given} if isinstance(given, str) else given
    if not isinstance(own, Mapping) or not isinstance(own.get("reducer"), str):
        raise OptionError(f"{ENTRY}: {name} is {{'reducer': NAME, **options}}, got {given!r}; type {EXAMPLE}")
    _check_fixed(own)
    if name == HANDOVER and "layers" in own:
        raise OptionError(
            f"{ENTRY}: layers={own['layers']!r}, but the hand-over lies before the first layer of the language model; "
            f"leave layers out. Between its layers nothing can go: {LANGUAGE_REASON}. For layers of the vision tower: "
            """{"vision": {"reducer": NAME, "layers": [...]}}"""
        )
    return dict(own)


def _check_fixed(given: Mapping[str, Any]) -> None:
    for name, why in FIXED.items():
        if given.get(name) not in (None, False):
            raise OptionError(f"{ENTRY}: {name}={given[name]!r} has no meaning here: {why}; leave it out")
