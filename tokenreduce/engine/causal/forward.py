"""What stands in for the ``forward`` of a language model with images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.causal import LanguageModel
from ..wrappers import StackForward
from .binding import CausalBinding
from .run import CausalRun


class CausalForward(StackForward):
    """Every call is a fresh :class:`CausalRun` over all the stacks of the model that are reduced."""

    def __init__(self, language: LanguageModel, bindings: Sequence[CausalBinding]) -> None:
        self.language, self.bindings = language, list(bindings)
        self.owner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self.language.module:  # bound as a method by another library
            args = args[1:]
        self.language.check()
        return self.language.forward(CausalRun(self.language, self.bindings), *args, **kwargs)
