"""Whether calls of a model still reach what an attachment has put on its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..engine.wrappers import BlockForward
from ..errors import UnsupportedCallError
from .replacements import Replacement


class Reach:
    """Stands before each call of the model, and refuses it where a part that the attachment is on has been exchanged.

    A stack looks after its blocks once it is called; an exchange above it would leave it out in silence. Looks at the
    links from the model down to each stack, one identity each.
    """

    def __init__(self, model: nn.Module, patches: Sequence[Replacement]) -> None:
        self.model = model
        blocks = {id(module) for module, _, replacement in patches if isinstance(replacement, BlockForward)}
        self.parts = [(module, attribute) for module, attribute, _ in patches if id(module) not in blocks]
        names = {id(module): name for name, module in model.named_modules()}
        self.links: list[tuple[nn.Module, str, nn.Module]] = []
        known = set()
        for path in dict.fromkeys(names[id(module)] for module, _ in self.parts if id(module) in names):
            above = model
            for name in path.split(".") if path else ():
                child = above._modules[name]
                assert child is not None
                if (id(above), name) not in known:
                    known.add((id(above), name))
                    self.links.append((above, name, child))
                above = child
        self._hook: RemovableHandle | None = None

    def watch(self) -> None:
        """Look before each call of the model from now on."""
        self._hook = self.model.register_forward_pre_hook(self, prepend=True)

    def leave(self) -> None:
        """Leave the model alone again."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for above, name, child in self.links:
            if above._modules.get(name) is not child:
                return self.check()  # wrapped, perhaps, and so still reached
        return None

    def check(self) -> None:
        """Raise UnsupportedCallError where a part that the attachment is on is none of the model any more."""
        inside = list(self.model.modules())
        for module, attribute in self.parts:
            if not any(module is one for one in inside):
                raise UnsupportedCallError(
                    f"the {type(module).__name__} whose {attribute} was replaced by attach is no part of the "
                    f"{type(self.model).__name__} any more, so that nothing would be reduced in what took its place. "
                    "Put it back, or detach() and attach again"
                )
