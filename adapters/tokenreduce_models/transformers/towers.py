"""Vision towers of transformers: one stack and one adapter for every family with pre-norm blocks.

The families differ in their names and in how their heads read the tokens; :class:`Family` is the table of that.
While attached, the library's own ``forward`` runs on a stand-in of the module whose list of blocks has one entry:
all of them, run by the engine. Embeddings, norms, poolers and every keyword stay what the library makes of them.
``hidden_states`` hold the tokens that each block put out, so they grow shorter.

Axes: B batch, N tokens, C width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from tokenreduce.backbones import (
    Adapter,
    BlockView,
    Output,
    Pass,
    Stack,
    beneath,
    foreign_holders,
    is_hooked,
    is_replaced,
)
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from .layers import LayerStack
from .prenorm import Parts, PreNormView, through
from .sizes import check_embeddings, resize_embeddings


@dataclass(frozen=True)
class Head:
    """How a model reads its tower: what the tokens must be at the end, and whether it reads the class token.

    Args:
        whole: whether it fails without every token.
        rows: how many tokens in front are all that it reads, where what it gives back holds no tokens; else 0.
    """

    output: Output
    class_token: bool = True
    whole: bool = False
    rows: int = 0


UNKNOWN = Head("full")
BETWEEN = ("vision_feature_layer", "vision_feature_layers", "mm_vision_select_layer")
"""Entries of a config that say which hidden states of the tower are read."""


@dataclass(frozen=True)
class Family:
    """One kind of tower: its classes, the names of its parts, its protected tokens, and the models that read it.

    Args:
        tower: the model that holds embeddings and blocks.
        encoder: the class whose ``forward`` runs the blocks (the tower itself where it has no encoder).
        block: the class of the blocks.
        blocks: the encoder's attribute that lists them.
        parts: names in a block.
        prefix: class, distillation and the like, in front of the patches.
        heads: how each known model reads the tower; a model that is not there gets every token at its place.
        antialias: whether the library does so where it interpolates position embeddings.
        holder: the tower's attribute that is the encoder.
    """

    tower: type[PreTrainedModel]
    encoder: type[nn.Module]
    block: type[nn.Module]
    parts: Parts
    prefix: int
    blocks: str = "layers"
    heads: Mapping[type[PreTrainedModel], Head] = field(default_factory=dict)
    antialias: bool = False
    holder: str = "encoder"

    def head(self, model: nn.Module, tower: PreTrainedModel) -> Head:
        """How the model reads the tower; unknown where either has a ``forward`` of its own."""
        if type(tower).forward is self.tower.forward:
            for kind, head in self.heads.items():
                if isinstance(model, kind) and type(model).forward is kind.forward:
                    return head
        return UNKNOWN

    def owner(self, model: nn.Module, tower: PreTrainedModel) -> nn.Module:
        """The model of the library that reads the tower: ``model``, or one inside it (zero-shot heads of yours)."""
        kinds = tuple(kind for kind in self.heads if not issubclass(kind, self.tower))
        holders: Iterator[nn.Module] = (module for module in model.modules() if isinstance(module, kinds))
        return next((holder for holder in holders if any(part is tower for part in holder.modules())), model)


@dataclass(frozen=True)
class Part:
    """A part of a model, looked up when it is called: it may be exchanged."""

    model: nn.Module
    name: str

    def __call__(self, x: Tensor) -> Tensor:
        called: Tensor = getattr(self.model, self.name)(x)
        return called


class TowerStack(LayerStack):
    """The blocks of one tower; ``projection`` is what its model does to the token that it compares with text."""

    name = "vision"
    owned = True  # whether the library's own model, or nothing, reads the tower

    def __init__(
        self,
        family: Family,
        tower: PreTrainedModel,
        prefix: int,
        head: Head,
        projection: Sequence[Callable[[Tensor], Tensor]],
    ) -> None:
        self.family, self.projection = family, list(projection)
        self.module = tower if family.encoder is family.tower else getattr(tower, family.holder)
        self.blocks = list(getattr(self.module, family.blocks))
        self.prefix, self.output = {"image": prefix}, head.output
        self.whole, self.head_rows = head.whole, head.rows
        parts = [part for name, part in tower.named_children() if name != "embeddings"]  # a norm is among them
        self.passing = (tower, self.module, *parts)
        self.readout = 0 if prefix and head.class_token else None
        self.guidable = bool(projection)
        names = list(inspect.signature(type(self.module).forward).parameters)[1:]
        self.mask_place = names.index("attention_mask") if "attention_mask" in names else None

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, self.family.block):
            raise UnsupportedModelError(f"{type(block).__name__} is not a {self.family.block.__name__}")
        return PreNormView(block, self.family.parts)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        return self.plain(block, x)

    def plain(self, block: nn.Module, x: Tensor, mask: Tensor | None = None, **given: Any) -> Tensor:
        """What the block itself makes of tokens; ``given`` is what its library hands it besides the mask."""
        config = getattr(block, self.family.parts.attention).config  # a copy's: attach probes copies of blocks
        if any(kind in str(config._attn_implementation) for kind in ("flash", "flex")):
            config._attn_implementation = "eager"  # those kernels do not take float64
        out: Tensor = block.forward(x, attention_mask=mask, **given)
        return out

    def forward(self, run: Pass, *args: Any, **kwargs: Any) -> Any:
        self.capture(run, kwargs)
        whole = Whole(self, run, self.masked(*args, **kwargs))
        return type(self.module).forward(stand_in(self.module, **{self.family.blocks: (whole,)}), *args, **kwargs)

    def masked(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the module's caller gave a mask; without one the library makes one of ones under ``torch.export``."""
        place = self.mask_place
        return (
            kwargs.get("attention_mask", args[place] if place is not None and place < len(args) else None) is not None
        )

    def capture(self, run: Pass, given: Mapping[str, Any]) -> None:
        """Let the library note hidden states where it is asked to: on the module, else it would on each stand-in."""
        module = self.module
        asked = given.get("output_hidden_states", getattr(module.config, "output_hidden_states", False))
        if asked and not self.owned:
            raise UnsupportedCallError(
                f"output_hidden_states was asked of {type(module).__name__} by a model around it that this adapter "
                "does not know; the states between blocks have fewer tokens while a reducer is attached. Read "
                "last_hidden_state alone, or detach() first"
            )
        if asked:
            run.check_whole("output_hidden_states=True")
        if asked and isinstance(module, PreTrainedModel):
            maybe_install_capturing_hooks(module)

    def start(self, run: Pass, x: Tensor, mask: Any, given: Mapping[str, Any]) -> None:
        """Begin the sequence, with the mask and the keywords that the library gives each of its blocks."""
        check_no_mask(mask)
        run.start(x, {"image": x.shape[1]})

    def shared_space(self, x: Tensor) -> Tensor:
        return through(self.projection, x) if self.projection else super().shared_space(x)

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.module, "forward", self.family.encoder.forward)]


class Whole:
    """All blocks as the one block of a stand-in.

    Args:
        masked: whether a mask that the block gets is anybody's but the library's own, of ones.
    """

    def __init__(self, stack: TowerStack, run: Pass, masked: bool = True) -> None:
        self.stack, self.run, self.masked = stack, run, masked

    def __call__(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if kwargs.get("output_attentions", getattr(self.stack.module.config, "output_attentions", False)):
            raise UnsupportedCallError(
                "output_attentions=True: attention is fused and its matrices are never made while a reducer is "
                "attached; detach() first, or leave it False (in the call and in model.config)"
            )
        check_no_mask(kwargs.get("head_mask"), "head_mask")
        check_no_mask(kwargs.get("is_causal") or None, "is_causal")
        self.stack.start(self.run, x, attention_mask if self.masked else None, kwargs)
        return self.through(x)

    def through(self, x: Tensor) -> Tensor:
        """Tokens through all blocks."""
        return self.run(x)


def check_no_mask(mask: Any, name: str = "attention_mask") -> None:
    """Raise UnsupportedCallError if there is one."""
    if mask is not None:
        raise UnsupportedCallError(
            f"{name} was given, but while a reducer is attached every token of an image is real and sees all "
            "others; leave it out, or detach() first"
        )


def stand_in(module: nn.Module, **changed: Any) -> Any:
    """A module that shares everything with this one but the attributes that are given.

    Where hooks of accelerate stand before the module's ``forward``, they stand before that of the stand-in too.
    """
    other = object.__new__(type(module))
    own = vars(module)
    if is_hooked(module) or ("forward" in own and not is_replaced(module, "forward")):  # both are bound to the module
        changed["forward"] = beneath(module, changed.get("forward") or MethodType(type(module).forward, other))
    other.__dict__.update(own, **changed)
    return other


def check_reader(model: nn.Module) -> None:
    """Raise UnsupportedModelError for a model that reads the tokens between the blocks of its tower (LLaVA)."""
    for module in model.modules():
        config = getattr(module, "config", None)
        for name in BETWEEN:
            if getattr(config, name, None) is not None:
                raise UnsupportedModelError(
                    f"{type(module).__name__} reads the hidden states of its vision tower ({name} = "
                    f"{getattr(config, name)!r} in its config), where a token of every patch must be at its place, but "
                    "there will be fewer of them; reduce the tower on its own, or use a model that reads what the "
                    "tower gives at its end"
                )


class TowerAdapter(Adapter):
    """Models that hold exactly one tower of these families: the library's own, or one of yours around a tower."""

    families: tuple[Family, ...] = ()
    stack: type[TowerStack] = TowerStack

    def accepts(self, model: nn.Module) -> bool:
        return bool(self.towers(model))

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = self.towers(model)
        if len(found) > 1:
            kinds = ", ".join(sorted({type(tower).__name__ for _, tower in found}))
            raise UnsupportedModelError(
                f"{type(model).__name__} holds {len(found)} towers ({kinds}); attach to one of them"
            )
        family, tower = found[0]
        check_reader(model)
        owner = family.owner(model, tower)
        head = self.head(owner, family, tower)
        projection = self.projection(owner, tower) if head is not UNKNOWN else []
        stack = self.stack(family, tower, self.prefix(family, tower), head, projection)
        stack.owned = head is not UNKNOWN or not foreign_holders(model, tower)
        return {"vision": stack}

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        check_embeddings(self.towers(model)[0][1].embeddings, height, width)
        copied = copy.deepcopy(model)
        family, tower = self.towers(copied)[0]
        resize_embeddings(tower.embeddings, tower.config, height, width, antialias=family.antialias)
        return copied

    def towers(self, model: nn.Module) -> list[tuple[Family, PreTrainedModel]]:
        """The towers in a model, each with its family."""
        modules = list(model.modules())
        return [(family, m) for family in self.families for m in modules if isinstance(m, family.tower)]

    def head(self, model: nn.Module, family: Family, tower: PreTrainedModel) -> Head:
        return family.head(model, tower)

    def prefix(self, family: Family, tower: PreTrainedModel) -> int:
        return family.prefix

    def projection(self, model: nn.Module, tower: PreTrainedModel) -> list[Callable[[Tensor], Tensor]]:
        """What a model does to the token that it compares with text, step by step; empty if it does not."""
        return []
