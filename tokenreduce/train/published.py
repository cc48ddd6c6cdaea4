"""The recipe that a method is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import OptionError, nearest
from ..methods.factory import reducer_class
from ..methods.reducer import BaseReducer
from ..registry.registry import default_registry
from .recipe import Recipe


def published_recipe(reducer: Any) -> Recipe:
    """The recipe that a method says it is trained with (:attr:`BaseReducer.recipe`), other settings by default.

    Args:
        reducer: a name, a reducer, or a mapping of stacks, as :func:`tokenreduce.attach` takes them.

    Raises:
        OptionError: reducers of several stacks with different recipes, or a recipe with settings that there are not.
    """
    if isinstance(reducer, Mapping):
        each = [one.get("reducer") if isinstance(one, Mapping) else one for one in reducer.values()]
        apart = {recipe for one in each if (recipe := published_recipe(one)) != Recipe()}
        if len(apart) > 1:
            raise OptionError(
                f"{' and '.join(map(str, each))} are trained with different recipes; name one (recipe=, --recipe)"
            )
        return apart.pop() if apart else Recipe()
    kind: Any = type(reducer) if isinstance(reducer, BaseReducer) else reducer_class(default_registry(), reducer)
    known = [entry.name for entry in fields(Recipe)]
    for name in kind.recipe:
        if name not in known:
            raise OptionError(f"the recipe of {kind.__name__} has {name!r}, which is no setting.{nearest(name, known)}")
    return Recipe(**kind.recipe)
