"""What a stack's blocks are made of, looked at in every pass: a change of it acts, or the pass says why it cannot.

Views look up the parts that they use, so a part that was exchanged acts once its view is proved again. What views go
round cannot act: hooks and replaced forwards of modules whose parts they use without calling them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from ..backbones.block import BlockView
from ..backbones.dispatch import holds_offloaded, is_hooked, is_replaced, only_moves
from ..backbones.stack import Stack
from ..errors import TokenReduceError, UnsupportedCallError
from .equivalence import Proof, prove_block
from .readout import Readout, prove_rows

Children = tuple["nn.Module | None", ...]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass
class Entered:
    """One module whose parts a view uses without calling it, as it was when the view was proved."""

    name: str
    module: nn.Module
    children: Children
    kind: type[nn.Module]

    @classmethod
    def of(cls, name: str, module: nn.Module) -> Entered:
        """As it is now."""
        return cls(name, module, tuple(module._modules.values()), type(module))

    def untouched(self) -> bool:
        """Whether it is of the very class that it was, and nothing on the instance could change what it computes."""
        module: Any = self.module
        if type(module) is not self.kind or "forward" in module.__dict__:
            return False
        hooks = module._forward_hooks or module._forward_pre_hooks
        return not (hooks or module._backward_hooks or module._backward_pre_hooks)

    def same_class(self) -> bool:
        """Whether its class has the same ``forward``; sharding and parametrisation make subclasses that do.

        Libraries may decorate the ``forward`` of every subclass; the function inside is compared.
        """
        now = type(self.module)
        return now is self.kind or inspect.unwrap(now.forward) is inspect.unwrap(self.kind.forward)


@dataclass
class Slot:
    """A place in the model that holds a block, or holds what holds one.

    Args:
        parent, name: ``parent.name`` is the place.
        held: the module that was there at attach.
        beside: how many modules the parent held, where it is a list of blocks; None where others may come and go.
        around: a wrapper that was put around it since, None for none.
    """

    parent: nn.Module
    name: str
    held: nn.Module
    beside: int | None
    around: nn.Module | None = None

    @property
    def now(self) -> nn.Module | None:
        """What is there now."""
        return self.parent._modules.get(self.name)

    def holds(self) -> bool:
        """Whether the same module is there, perhaps in a wrapper (FSDP, activation checkpointing)."""
        now = self.now
        if now is None or (self.beside is not None and len(self.parent._modules) != self.beside):
            return False
        if now is self.held or now is self.around:
            return True
        wraps = any(module is self.held for module in now.modules())
        self.around = now if wraps else None
        return wraps


class Guard:
    """The blocks of a stack as they were proved.

    Args:
        stack: whose blocks are looked at.
        views: of the blocks; a view whose block has changed is replaced in this list.
        proofs: one per block.

    Attributes:
        offloaded: of each block the modules that its view goes round and whose weights are held elsewhere.
        readout: what the last block computes, None for every token.
    """

    def __init__(self, stack: Stack, views: list[BlockView], proofs: Sequence[Proof]) -> None:
        self.stack, self.views = stack, views
        self.entered = [_entered(block, proof) for block, proof in zip(stack.blocks, proofs, strict=True)]
        self.offloaded: list[list[nn.Module]] = [[] for _ in stack.blocks]
        self.slots, self.holders = _slots(stack)
        self.readout: Readout | None = None

    def blocks(self) -> list[nn.Module]:
        """What to call for each block: the block itself, or what has been wrapped around it since attach."""
        pairs = zip(self.slots, self.stack.blocks, strict=True)
        return [block if slot is None else getattr(slot.parent, slot.name) for slot, block in pairs]

    def check(self) -> None:
        """Take in what has changed since the last look.

        Raises:
            UnsupportedCallError: a change that cannot act while the reducer is attached.
        """
        for slot in (*self.holders, *self.slots):
            if slot is not None and not slot.holds():
                raise UnsupportedCallError(
                    f"{slot.name!r} of {type(slot.parent).__name__} was exchanged, removed or added to after attach, "
                    f"but stack {self.stack.name!r} was attached with {len(self.stack.blocks)} blocks that were there "
                    "then; call handle.detach() and attach again"
                )
        self._take_in()
        for index, entered in enumerate(self.entered):
            for one in entered:
                if type(one.module) is not one.kind and not one.same_class():
                    raise self._refusal(
                        index, one, f"its class, now {type(one.module).__name__}, has another forward()"
                    )
                if one.name and not one.untouched():  # the block itself is called, so that its hooks act
                    self._check_hooks(index, one)
            self.offloaded[index] = [one.module for one in entered if one.name and holds_offloaded(one.module)]

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def settle(self) -> bool:
        """Take in by a proof what has changed, while a pass is compiled; what cannot act is left to :meth:`check`."""
        with _disable_current_modes():
            self._take_in()
        return True

    def _take_in(self) -> None:
        for index, entered in enumerate(self.entered):
            if any(tuple(one.module._modules.values()) != one.children for one in entered):
                self._renew(index)

    def _check_hooks(self, index: int, one: Entered) -> None:
        state = vars(one.module)
        if is_replaced(one.module, "forward") or not (is_hooked(one.module) or inspect.ismethod(one.module.forward)):
            raise self._refusal(index, one, "its forward was replaced on the instance")
        if not only_moves(one.module):
            raise self._refusal(index, one, "it carries a hook of accelerate that does more than move weights")
        for kind in HOOKS:
            if state[kind] and any(not self._ignored(hook) for hook in state[kind].values()):
                raise self._refusal(index, one, "it carries a hook")

    def _ignored(self, hook: Any) -> bool:
        return getattr(hook, "__module__", None) in self.stack.ignored_hooks

    def _refusal(self, index: int, one: Entered, what: str) -> UnsupportedCallError:
        path = f"block {index} of stack {self.stack.name!r}"
        path = f"{one.name!r} in {path}" if one.name else path
        return UnsupportedCallError(
            f"{path} is of the class {type(one.module).__name__}; the engine uses its parts without calling it, and "
            f"{what}, which would not act while a reducer is attached. Remove that, hook the whole block or a part "
            "that computes by itself (a linear layer, the MLP), or detach() first"
        )

    def _renew(self, index: int) -> None:
        """Prove a block that has changed, and use a fresh view of it from now on."""
        block = self.stack.blocks[index]
        try:
            view, proof = self.stack.view(block), prove_block(self.stack, index, attached=True)
            if self.readout is not None and index == self.readout.index:
                prove_rows(self.stack, index, self.readout.rows, attached=True)
        except TokenReduceError as error:
            raise UnsupportedCallError(
                f"a part of block {index} of stack {self.stack.name!r} was exchanged after attach, and the block "
                f"cannot be reduced as it is now: {error} Undo that, or detach() first"
            ) from error
        self.views[index], self.entered[index] = view, _entered(block, proof)


def _entered(block: nn.Module, proof: Proof) -> list[Entered]:
    """The block, then the modules in it that its view goes round."""
    return [Entered.of(name, block.get_submodule(name)) for name in ("", *proof.entered)]


def _slots(stack: Stack) -> tuple[list[Slot | None], list[Slot]]:
    """The place of each block, None where it is not a submodule; and the places of the lists that hold them."""
    places: dict[int, Slot] = {}
    for parent in stack.module.modules():
        for name, child in parent._modules.items():
            if child is not None:
                places.setdefault(id(child), Slot(parent, name, child, None))
    blocks = [places.get(id(block)) for block in stack.blocks]
    holders: dict[int, Slot] = {}
    for slot in blocks:
        if slot is not None and isinstance(slot.parent, (nn.ModuleList, nn.Sequential)):
            slot.beside = len(slot.parent)
        while slot is not None and id(slot.parent) in places and id(slot.parent) not in holders:
            holder = places[id(slot.parent)]
            holders[id(slot.parent)], slot = holder, holder
    return blocks, list(holders.values())
