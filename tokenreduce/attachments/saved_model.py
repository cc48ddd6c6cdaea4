"""``save_pretrained`` of an attached model: the reduction is kept beside the weights, or it is said that it is not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from ..engine.wrappers import Likeness
from ..errors import TokenReduceError, UnsupportedCallError

METHOD = "save_pretrained"


class SavePretrained(Likeness):
    """Stands in for the ``save_pretrained`` of a model while a reducer is attached.

    Args:
        model: that has the method.

    Attributes:
        owner: the attachment, set by ``attach``.
    """

    attribute = METHOD

    def __init__(self, model: nn.Module) -> None:
        self.module: nn.Module = model
        self.owner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self.module:  # bound as a method by another library
            args = args[1:]
        result = getattr(type(self.module), METHOD)(self.module, *args, **kwargs)
        folder = args[0] if args else kwargs.get("save_directory")
        if folder is None or kwargs.get("is_main_process") is False:
            return result
        try:
            check_whole(self.owner)
            self.owner.save(Path(folder))
        except TokenReduceError as error:
            warnings.warn(
                f"the model was saved in {folder} without its reducer, which from_pretrained would leave out: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return result
        if kwargs.get("push_to_hub"):
            warnings.warn(
                f"the reducer was saved in {folder} beside the model, but push_to_hub=True uploaded the model alone; "
                "call handle.push_to_hub(...), or model.push_to_hub(...) instead, which uploads both",
                RuntimeWarning,
                stacklevel=2,
            )
        return result


def check_whole(handle: Any) -> None:
    """Raise UnsupportedCallError where a reducer's weights are spread over processes: this may be one of them alone."""
    for name, stack in handle.stacks.items():
        parts = list(stack.reducer.modules()) if isinstance(stack.reducer, nn.Module) else []
        weights = [weight for part in parts for weight in part.parameters(recurse=False)]
        fsdp = any(getattr(part, "_is_fsdp_managed_module", False) for part in parts)
        if fsdp or any(hasattr(weight, "full_tensor") for weight in weights):
            raise UnsupportedCallError(
                f"the weights of the reducer in {name!r} are spread over processes, and all of them have to gather "
                "them; call handle.save(folder) on every process"
            )


def replacement(model: nn.Module) -> SavePretrained | None:
    """What stands in for the method of this model; None where its class has none."""
    return SavePretrained(model) if callable(getattr(type(model), METHOD, None)) else None
