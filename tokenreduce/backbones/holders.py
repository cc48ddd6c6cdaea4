"""What stands around a part of a model."""

from __future__ import annotations

from torch import nn

TRANSPARENT = ("torch", "peft", "accelerate")
"""Packages whose modules around a tower call it and read nothing of their own."""


def foreign_holders(model: nn.Module, part: nn.Module) -> list[nn.Module]:
    """The modules of ``model`` that hold ``part`` and may read what is inside: those of other libraries, and yours.

    Wrappers of torch and of adapter libraries only call what they hold, and are left out.
    """
    holders = [m for m in model.modules() if m is not part and any(inner is part for inner in m.modules())]
    return [holder for holder in holders if type(holder).__module__.split(".")[0] not in TRANSPARENT]
