"""The handle that ``attach`` returns."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ..core.site import Site
from ..core.trace import Trace
from ..engine.binding import Binding
from ..engine.block_macs import block_macs
from ..engine.record import sum_by_name
from ..errors import NoForwardError, TokenReduceError, UnsupportedCallError
from ..methods.reducer import Reducer
from .checkpoint import save
from .controls import pause, set_scale
from .guide import Guidance, set_guide
from .replacements import Replacement


@dataclass(frozen=True)
class SiteReport:
    """Tokens of one stream before and after one site, in the last forward pass."""

    stack: str
    layer: int
    stream: str
    tokens_in: int
    tokens_out: int


class Attachment:
    """A reducer on a model. Made by :func:`tokenreduce.attach`; also a context manager that detaches at the end.

    Attributes:
        model: the model.
        config: JSON-able; ``tokenreduce.attach(model, **handle.config)`` repeats the attachment.
        sites: the places where the reducer acts.
        notes: remarks of the reducers about this backbone.
    """

    def __init__(
        self, model: nn.Module, bindings: list[Binding], config: dict[str, Any], patches: list[Replacement]
    ) -> None:
        self.model, self.bindings, self._config, self._patches = model, bindings, config, patches
        self._installed = False

    @property
    def config(self) -> dict[str, Any]:
        return copy.deepcopy(self._config)

    @property
    def sites(self) -> list[Site]:
        return [site for bound in self.bindings for site in bound.sites.values()]

    @property
    def stacks(self) -> list[str]:
        """Names of the reduced stacks, in the order given to ``attach``."""
        return [bound.stack.name for bound in self.bindings]

    @property
    def reducers(self) -> dict[str, Reducer]:
        """The reducer of each stack as it is now, weights included."""
        return {bound.stack.name: bound.reducer for bound in self.bindings}

    @property
    def notes(self) -> list[str]:
        return [note for bound in self.bindings for note in bound.reducer.notes]

    @property
    def attached(self) -> bool:
        """Whether the model carries this attachment now."""
        return self._installed

    def install(self) -> None:
        """Put the attachment on the model; ``attach`` has done so already."""
        if self.attached:
            return
        for module, attribute, replacement in self._patches:
            setattr(module, attribute, replacement)
        self._installed = True

    def detach(self) -> None:
        """Give the model back as it was, bit for bit. Detaching again does nothing.

        Raises:
            UnsupportedCallError: something else replaced a forward after attach.
        """
        if not self.attached:
            return
        for module, attribute, replacement in self._patches:
            if getattr(module, attribute, None) is not replacement:
                raise UnsupportedCallError(
                    f"{attribute} of {type(module).__name__} was replaced after attach; undo that first, then detach"
                )
        for module, attribute, _ in self._patches:  # attach refuses a model that has its own there
            delattr(module, attribute)
        self._installed = False

    def guide(self, text_features: Tensor | None, stack: str | None = None) -> Guidance:
        """Let known text features say which image tokens matter, in every forward pass from now on.

        Patch tokens are scored by their likeness to the text in the model's own shared space, and the reducer
        uses that as its text attention. Also a context manager: ``with handle.guide(features): model(...)``.

        Args:
            text_features: (D,) or (1, D) for all samples, (B, D) one per sample, (B, Q, D) several per sample (a
                patch counts for the one it is most like); None to stop.
            stack: which one, where several are reduced.

        Raises:
            UnfitReducerError: the stack shares no space with text, or the reducer does not use text attention.
            OptionError: features of another shape.
        """
        bound = self._bound(stack)
        before = bound.guide
        set_guide(bound, text_features)
        return Guidance(bound, before)

    def scale(self, factor: float, stack: str | None = None) -> None:
        """Set how much of the configured removal is in force from the next pass on: a schedule's knob in training.

        Each method scales what it removes in its own way (:meth:`Reducer.scaled`); weights of learnable reducers stay
        the same objects, and :attr:`config` stays as configured.

        Args:
            factor: 0 for nothing, 1 for what was configured, exactly.
            stack: which one; all of them if None.

        Raises:
            OptionError: not a number of 0 and more.
            UnfitReducerError: the method has no option to scale.
        """
        set_scale(self.bindings if stack is None else [self._bound(stack)], factor)

    def paused(self) -> AbstractContextManager[None]:
        """A context in which the model computes what it does without reduction, up to rounding.

        For a teacher with the same weights: ``with handle.paused(), torch.no_grad(): model(...)``. It costs nothing
        to enter, may be nested, and ends after an exception too. Reports, traces and losses stay those of the last
        pass outside it. A pass is paused or not as a whole, by what holds when it begins: passes that other threads
        begin on this model meanwhile are paused as well; a thread that needs both needs a model of its own.
        """
        return pause(self.bindings)

    def losses(self) -> dict[str, Tensor]:
        """What the reducers added to the training loss in the last forward pass, with gradients, summed by name.

        Empty where they added nothing, as in evaluation. Add their sum to the loss of the task. Where a model runs a
        stack several times in one call, these are of the last run.

        Raises:
            NoForwardError: no forward pass yet.
        """
        if any(bound.last is None for bound in self.bindings):
            raise NoForwardError("no forward pass yet; call model(...) once, then handle.losses()")
        return sum_by_name(bound.last.losses for bound in self.bindings if bound.last is not None)

    def gates(self, stack: str | None = None) -> dict[str, Tensor]:
        """How much each token of each stream counted at the end of the last forward pass, (B, n) from 0 to 1.

        Only of streams with a :class:`tokenreduce.methods.Gate`, so {} in evaluation; without gradient. For losses on
        the tokens that were kept.

        Raises:
            NoForwardError: no forward pass yet.
        """
        last = self._bound(stack).last
        if last is None:
            raise NoForwardError("no forward pass yet; call model(...) once, then handle.gates()")
        return dict(last.gates)

    def save(self, folder: str | Path) -> None:
        """Write what :func:`tokenreduce.load` needs to attach the same again: the config, and learned weights.

        ``tokenreduce.json`` has the config and the versions that wrote it, ``reducer.safetensors`` the weights of
        learnable reducers, where there are any. The model itself is not saved. On several processes call it on all:
        parameters that are spread over them (DTensor) are gathered, and the first one writes.

        Raises:
            OptionError: an option is not JSON, or the reducer's class cannot be imported again.
        """
        factors = {bound.stack.name: bound.factor for bound in self.bindings if bound.factor != 1}
        save(self.config, factors, self.reducers, Path(folder))

    def report(self) -> list[SiteReport]:
        """Tokens in and out of the last forward pass, one entry per site and stream.

        Raises:
            NoForwardError: no forward pass yet.
        """
        rows = []
        for bound in self.bindings:
            if bound.last is None:
                raise NoForwardError("no forward pass yet; call model(...) once, then handle.report()")
            rows += [SiteReport(bound.stack.name, *row) for row in bound.last.counts]
        return rows

    def trace(self, stack: str | None = None) -> Trace:
        """For each final token of the last forward pass, the input tokens that it stands for.

        Raises:
            NoForwardError: attached without ``trace=True``, or no forward pass yet.
        """
        bound = self._bound(stack)
        if not bound.trace:
            raise NoForwardError("no trace is kept; attach with trace=True (replace=True replaces this attachment)")
        if bound.last is None or bound.last.assignment is None:
            raise NoForwardError("no forward pass yet; call model(...) once, then handle.trace()")
        last = bound.last
        assert last.assignment is not None
        return Trace(last.assignment, last.size, last.first, last.last)

    def macs(self) -> tuple[int, int]:
        """Multiply-adds of the blocks for one sample, without and with reduction, from the last forward's counts.

        Linear layers and the two attention products; the reducer's own work is not counted
        (:func:`tokenreduce.count_macs` counts that too).
        """
        before = after = 0
        for bound in self.bindings:
            if bound.last is None:
                raise NoForwardError("no forward pass yet; call model(...) once, then handle.macs()")
            between = bound.last.between
            early = bound.reducer.position == "before_block"  # then attention sees what is left too
            for index, (view, role) in enumerate(zip(bound.views, bound.roles, strict=True)):
                start, later = between[0], between[index + 1]
                now = later if early else between[index]
                memory = role.memory or role.own  # without a memory nothing is counted for it
                before += block_macs(view, start[role.own], start[role.own], start[memory])
                after += block_macs(view, now[role.own], later[role.own], now[memory])
        return before, after

    def tokens(self, stack: str | None = None) -> dict[str, int]:
        """Tokens of each stream after the last block, in the last forward pass.

        Raises:
            NoForwardError: no forward pass yet.
        """
        last = self._bound(stack).last
        if last is None:
            raise NoForwardError("no forward pass yet; call model(...) once, then handle.tokens()")
        return dict(last.last)

    def _bound(self, stack: str | None) -> Binding:
        names = self.stacks
        if stack is None and len(names) == 1:
            return self.bindings[0]
        if stack not in names:
            raise UnsupportedCallError(f"name one of the reduced stacks: {', '.join(names)}; got {stack!r}")
        return self.bindings[names.index(stack)]

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def __str__(self) -> str:
        lines = [f"{type(self.model).__name__} with {', '.join(repr(b.reducer) for b in self.bindings)}"]
        lines += [f"  note: {note}" for note in self.notes]
        try:
            rows = self.report()
        except TokenReduceError:
            layers = ", ".join(f"{site.stack} {site.layer}" for site in self.sites)
            return "\n".join([*lines, f"  acts in: {layers}", "  (token counts after the first forward pass)"])
        lines.append(f"  {'stack':<10}{'layer':>6}  {'stream':<12}{'tokens':>14}")
        lines += [f"  {r.stack:<10}{r.layer:>6}  {r.stream:<12}{r.tokens_in:>6} → {r.tokens_out:<5}" for r in rows]
        before, after = self.macs()
        unit, name = (1e9, "GMACs") if before >= 1e8 else (1e6, "MMACs")
        lines.append(f"  blocks: {before / unit:.2f} → {after / unit:.2f} {name} per sample")
        return "\n".join(lines)
