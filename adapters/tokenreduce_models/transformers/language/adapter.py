"""Language models with images, as an adapter."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tokenreduce.backbones import Adapter, Example, HandOver, Language, Stack
from tokenreduce.errors import UnsupportedModelError

from .examples import EXAMPLES
from .families import LVLM, family_of
from .model import TransformersModel
from .refused import refused_reason
from .tower_stack import LanguageTower, tower_refusal


class LargeVisionLanguage(Adapter):
    """A model of one of the families, with or without the head that computes logits, or wrapped (PEFT)."""

    def accepts(self, model: nn.Module) -> bool:
        return bool(inner_models(model)) or refused_reason(model) is not None

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = inner_models(model)
        if not found:
            raise UnsupportedModelError(f"{type(model).__name__} cannot be reduced: {refused_reason(model)}")
        if len(found) > 1:
            raise UnsupportedModelError(
                f"{type(model).__name__} holds {len(found)} language models with images; attach to one of them"
            )
        inner, family = found[0]
        if type(inner).forward is not family.inner.forward:
            raise UnsupportedModelError(
                f"{type(inner).__name__} defines its own forward(), which this adapter does not know; use "
                f"{family.inner.__name__} of transformers"
            )
        language = TransformersModel(inner, outer_model(model, inner, family), family)
        stacks: dict[str, Stack] = {"handover": HandOver(language), "language": Language(language)}
        if tower_refusal(inner, family) is None:
            stacks["vision"] = LanguageTower(inner, family)
        return stacks

    def refusals(self, model: nn.Module) -> dict[str, str]:
        found = inner_models(model)
        reason = tower_refusal(*found[0]) if found else None
        return {} if reason is None else {"vision": reason}

    def examples(self) -> dict[str, Callable[[], Example]]:
        return dict(EXAMPLES)


def inner_models(model: nn.Module) -> list[tuple[nn.Module, LVLM]]:
    """The inner models in a model, each with its family."""
    pairs = ((module, family_of(module)) for module in model.modules())
    return [(module, family) for module, family in pairs if family is not None]


def outer_model(model: nn.Module, inner: nn.Module, family: LVLM) -> nn.Module | None:
    """The model of the family around an inner one."""
    holders = (module for module in model.modules() if isinstance(module, family.outer))
    return next((holder for holder in holders if any(part is inner for part in holder.children())), None)
