"""One tower of blocks. Axes: B batch, N tokens, M memory tokens, C width, D width of a shared space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .block import BlockView, Role
from .pass_ import Pass
from .positions import Positions

Output: TypeAlias = str
"""``"reduced"``, ``"repeated"``, ``"full"``, or the name of a stream that is restored, such as ``"text"``."""


class Stack:
    """One tower of blocks of one model.

    Attributes:
        name: ``"encoder"``, ``"vision"``, ``"cross"`` ...
        module: the module whose method ``entry`` is replaced while attached.
        entry: ``"forward"``, or another method that runs all the blocks.
        blocks: the blocks in order.
        prefix: protected tokens at the front of each stream; its keys are the streams in sequence order.
        sequences: the streams of each sequence; by default all streams stand in one. A sequence is called by
            its streams: ``"image"``, ``"text+image"``.
        levels: the blocks of each layer, as users count layers; by default every block is one.
        readout: index, in each sequence, of the token that the head reads, None where it reads all.
        output: what the rest of the model expects at the end: ``"reduced"`` (fewer tokens are fine),
            ``"repeated"`` (it pools: merged tokens are repeated by their size; where a method merges and drops, every
            token is restored to its position; where it only drops, what is left), ``"text"`` (text tokens are
            restored to their positions), ``"full"`` (every token is).
        head_rows: how many tokens in front of the sequence are all that the head reads, and all that the model gives
            back, now; 0 where it is more. The last block can then compute these alone (``readout_only=True``).
        passing: modules that take or give the tokens behind the last block (the stack's own, a final norm): with
            ``head_rows`` a hook on one of them is refused.
        reads_all: whether what follows reads every token of a ``"reduced"`` output, as another tower does, so that
            samples with different numbers of tokens must be restored.
        padded: whether sequences may hold padding.
        padded_memory: whether memories may, where ``padded``.
        ignored_hooks: names of Python modules whose hooks on parts of a block record only what a reduced pass refuses
            to give; other hooks on parts that a view goes round are refused.
        whole: whether what follows fails without every token at its place, so that ``restore=False`` is refused.
        drops_patches: whether patches are taken away at random before the first block now (patch dropout in training),
            so that a trace could not say which patch a token was.
        carries: whether the stack stands in front of a language model whose ``"handover"`` leaves out what it merges
            and drops (:attr:`Prompt.carried`).
        guidable: whether :meth:`shared_space` is there, so that ``handle.guide(text_features)`` works.
    """

    name: str = "encoder"
    module: nn.Module
    entry: str = "forward"
    blocks: Sequence[nn.Module]
    prefix: Mapping[str, int]
    sequences: Sequence[tuple[str, ...]] = ()
    levels: Sequence[tuple[int, ...]] = ()
    readout: int | None = None
    output: Output = "reduced"
    head_rows: int = 0
    passing: Sequence[nn.Module] = ()
    reads_all: bool = False
    padded: bool = False
    padded_memory: bool = True
    ignored_hooks: Sequence[str] = ()
    whole: bool = False
    drops_patches: bool = False
    guidable: bool = False
    carries: bool = False

    @property
    def home(self) -> nn.Module:
        """The module that a learnable reducer becomes a part of; not one that runs its parts in turn."""
        return self.module

    @property
    def main_stream(self) -> str:
        """The stream that a method of one stream reduces: ``"image"``, or the first one."""
        return "image" if "image" in self.prefix else next(iter(self.prefix))

    @property
    def text_stream(self) -> str | None:
        """The stream whose tokens' attention is the signal ``text_attention``, None for none."""
        return "text" if "text" in self.prefix and self.main_stream != "text" else None

    def role(self, index: int) -> Role:
        """What block ``index`` updates and attends to."""
        return Role("+".join(self.prefix))

    def provides(self, index: int) -> frozenset[str]:
        """The signals that block ``index`` can give for the :attr:`main_stream`."""
        role = self.role(index)
        own = role.own.split("+")
        names = {"keys", "value_norms"}
        if self.main_stream in own:
            names |= {"received_attention", "paid_attention", "received_logits", "paid_logits"}
        if self.readout is not None:
            names.add("readout_attention")
            if own == [self.main_stream]:
                names.add("class_attention")
        if self.text_stream in own and (self.main_stream in own or role.memory == self.main_stream):
            names.add("text_attention")
        return frozenset(names)

    def view(self, block: nn.Module) -> BlockView:
        """The view of a block.

        Raises:
            UnsupportedModelError: no exact view of this kind of block is possible, and why.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not define view(block)")

    def forward(self, run: Pass, *args: Any, **kwargs: Any) -> Any:
        """What the replaced method does: ``run.start(x, lengths, real)``, ``run(x)``, return what is expected."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define forward(run, ...)")

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        """What the block itself makes of tokens (B, N, C) and, where ``padded``, of the mask ``real`` (B, N).

        ``memory`` (B, M, C') and its mask (B, M) are given to blocks that have a memory.
        """
        out: Tensor = block.forward(x)
        return out

    def probe_positions(self, x: Tensor) -> Positions | None:
        """Positions of random tokens (B, N, C) to check a block's view with, in their dtype; None for none.

        :meth:`reference` is then given them as ``positions=``.
        """
        return None

    def pack(self, x: Tensor) -> Any:
        """Tokens in the form that a block of this family returns them."""
        return x

    def unpack(self, returned: Any) -> Tensor:
        """Tokens out of what a block of this family returns."""
        tokens: Tensor = returned
        return tokens

    def shared_space(self, x: Tensor) -> Tensor:
        """Image tokens (B, N, C) after any block in the space of the model's text features (B, N, D).

        What a dual encoder does to the token that it compares with the text (final norm, projection), done to
        every token; ``guidable`` says that a stack has it.
        """
        raise UnsupportedModelError(f"the stack {self.name!r} shares no space with text features")

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        """The gradient-checkpointing function to run the block with now, or None."""
        return None

    def replacements(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        """Further replacements: (module, attribute, picklable callable). Undone by ``detach``."""
        return []

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        """Methods that :meth:`forward` and :meth:`replacements` replace: (module, attribute, the class's function).

        A model whose class has another one there is refused: it does something that the adapter does not know.
        """
        return []

    def prove(self) -> None:
        """Check what :meth:`replacements` replaces against the original; raise UnsupportedModelError if it differs."""
