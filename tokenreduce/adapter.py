"""What an adapter supplies: which models it takes, their stacks, and a view of each block.

An adapter knows one model family and no method. It writes three small things:

    class MyView(BlockView):            # one block's parts, residuals included
        def project(self, x): ...       # tokens -> query, key, value
        def attend(self, x, context, projected): ...
        def mlp(self, x): ...

    class MyStack(Stack):               # one tower of blocks
        def view(self, block): ...
        def forward(self, run, x): ...  # what the tower's forward does, blocks run by ``run``

    class MyAdapter(Adapter):
        def accepts(self, model): ...
        def stacks(self, model): ...

Where text and image stand in two sequences, a block updates its own and attends to the other, its memory:

    class CrossView(BlockView):         # ... and two more parts
        def project_memory(self, x, memory): ...
        def attend_memory(self, x, context, projected): ...

    class CrossStack(Stack):
        sequences = (("text",), ("image",))
        levels = ((0, 1), (2, 3), ...)  # which blocks make up a layer, as users count layers
        def role(self, index): return Role("text", "image") if index % 2 == 0 else Role("image", "text")
        def forward(self, run, text, image):
            run.start(text, {"text": ...}, real); run.start(image, {"image": ...})
            text, image = run.block(0, text, image)     # either may come back shorter
            image, text = run.block(1, image, text)
            ...
            return run.finish(text, image)

``attach`` proves each view against the block it stands for, so a view that drops a part is refused.

Axes: B batch, N tokens, M memory tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from .errors import UnsupportedModelError
from .patches import Size, conv_patch

if TYPE_CHECKING:
    from .engine import Run

Ending = Literal["none", "expand", "text", "full"]


@dataclass(frozen=True)
class Role:
    """Which sequence a block updates, and which other one it attends to, by name (see ``Stack.sequences``)."""

    own: str
    memory: str | None = None


@dataclass
class Projected:
    """Query (B, H, N, d), key and value (B, H, N or M, d) of one attention, and whatever ``attend`` needs again."""

    query: Tensor
    key: Tensor
    value: Tensor
    extra: Any = None


class BlockView:
    """One block in parts; the engine runs attention between :meth:`project` and :meth:`attend`.

    Attributes:
        scale: factor on query-key products, None for 1/sqrt(d).
        dropout: attention dropout in training.
        attention_parts, cross_parts, memory_parts, mlp_parts: modules, for counting multiply-adds: of the
            self-attention, of the cross-attention on the own tokens and on the memory's, of the MLP half.
        memory_width: width of the memory's tokens, None for that of the block's own.
    """

    scale: float | None = None
    dropout: float = 0.0
    attention_parts: Sequence[nn.Module] = ()
    cross_parts: Sequence[nn.Module] = ()
    memory_parts: Sequence[nn.Module] = ()
    mlp_parts: Sequence[nn.Module] = ()
    memory_width: int | None = None

    def project(self, x: Tensor) -> Projected:
        """Tokens (B, N, C) to query, key and value, norm included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define project(x)")

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        """Block input (B, N, C) and attention output (B, N, H * d) to the tokens after attention, residual included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define attend(x, context, projected)")

    def project_memory(self, x: Tensor, memory: Tensor) -> Projected:
        """Tokens after self-attention (B, N, C) to query, memory (B, M, C') to key and value, norm included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define project_memory(x, memory)")

    def attend_memory(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        """As :meth:`attend`, for the cross-attention."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define attend_memory(x, context, projected)")

    def mlp(self, x: Tensor) -> Tensor:
        """The last part of the block, residual included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define mlp(x)")


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
        reader: index, in each sequence, of the token that the head reads, None where it reads all.
        ending: what the rest of the model expects at the end: ``"none"`` (fewer tokens are fine),
            ``"expand"`` (it pools: repeat merged tokens by their size; where a method merges and drops, every token at
            its place; where it only drops, what is left), ``"text"`` (text tokens at their
            places), ``"full"`` (every token at its place).
        padded: whether sequences may hold padding.
        padded_memory: whether memories may, where ``padded``.
        guidable: whether :meth:`shared_space` is there, so that ``handle.guide(text_features)`` works.
    """

    name: str = "encoder"
    module: nn.Module
    entry: str = "forward"
    blocks: Sequence[nn.Module]
    prefix: Mapping[str, int]
    sequences: Sequence[tuple[str, ...]] = ()
    levels: Sequence[tuple[int, ...]] = ()
    reader: int | None = None
    ending: Ending = "none"
    padded: bool = False
    padded_memory: bool = True
    guidable: bool = False

    @property
    def home(self) -> nn.Module:
        """The module that a learnable reducer becomes a part of; not one that runs its parts in turn."""
        return self.module

    def role(self, index: int) -> Role:
        """What block ``index`` updates and attends to."""
        return Role("+".join(self.prefix))

    def provides(self, index: int) -> frozenset[str]:
        """The signals that block ``index`` can give for its image stream (or its only one)."""
        role = self.role(index)
        own = role.own.split("+")
        names = {"keys"}
        if self.reader is not None:
            names.add("class_attention")
        if "text" in own and ("image" in own or role.memory == "image"):
            names.add("text_attention")
        return frozenset(names)

    def view(self, block: nn.Module) -> BlockView:
        """The view of a block.

        Raises:
            UnsupportedModelError: no exact view of this kind of block is possible, and why.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not define view(block)")

    def forward(self, run: Run, *args: Any, **kwargs: Any) -> Any:
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

    def patches(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        """Further replacements: (module, attribute, picklable callable). Undone by ``detach``."""
        return []

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        """Methods that :meth:`forward` and :meth:`patches` stand in for: (module, attribute, the class's function).

        A model whose class has another one there is refused: it does something that the adapter does not know.
        """
        return []

    def prove(self) -> None:
        """Check what :meth:`patches` replaces against the original; raise UnsupportedModelError if it differs."""


@dataclass(frozen=True)
class Example:
    """A small model with random weights and inputs for it, to try an adapter on."""

    model: nn.Module
    inputs: dict[str, Any]


class Adapter:
    """One model family."""

    def accepts(self, model: nn.Module) -> bool:
        """Whether the model is of this family at all."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define accepts(model)")

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        """The stacks of a model of this family by name; the first one is the default.

        Raises:
            UnsupportedModelError: of this family, but one that cannot be done, and why.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not define stacks(model)")

    def refused(self, model: nn.Module) -> dict[str, str]:
        """Towers of the model that a user may name but that cannot be reduced, each with the reason."""
        return {}

    def patch_size(self, model: nn.Module) -> Size | None:
        """Height and width in pixels of the patches that the model cuts pictures into, None if it does not."""
        return conv_patch(model)

    def resized(self, model: nn.Module, height: int, width: int) -> nn.Module:
        """A model with the same weights that takes images of ``height`` x ``width`` pixels.

        ``model`` itself is left as it is: what comes back is a copy whose position embeddings are interpolated
        (:mod:`tokenreduce.patches` helps), or ``model`` where it takes images of any size. At the size that the
        model was made for, both compute the same.

        Raises:
            UnsupportedModelError: the model cannot be had for another size, and why.
            OptionError: the size is not one of whole patches.
        """
        raise UnsupportedModelError(f"{type(self).__name__} cannot change the input size of {type(model).__name__}")

    def examples(self) -> dict[str, Callable[[], Example]]:
        """Makers of small random models of this family, by a label that names the class (docs and tests use them)."""
        return {}
