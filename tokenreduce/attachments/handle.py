"""The handle that ``attach`` returns."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ..backbones.dispatch import put, standing, take_back
from ..core.site import Site
from ..engine.binding import BaseBinding
from ..engine.causal.binding import remarks
from ..errors import UnsupportedCallError
from . import hub
from .checkpoint import save
from .controls import pause, set_scale
from .guide import Guidance, set_guide
from .last_pass import LastPass
from .model_card import section, with_section
from .reach import Reach
from .reduced_stack import ReducedStack
from .replacements import Replacement


class Attachment:
    """A reducer on a model. Made by :func:`tokenreduce.attach`; also a context manager that detaches at the end.

    Attributes:
        model: the model.
        config: JSON-able; ``tokenreduce.attach(model, **handle.config)`` repeats the attachment.
        notes: remarks of the reducers about this backbone.
    """

    def __init__(
        self, model: nn.Module, bindings: list[BaseBinding], config: dict[str, Any], patches: list[Replacement]
    ) -> None:
        self.model, self._bindings, self._config, self._patches = model, bindings, config, patches
        self._installed, self._before = False, list[Any]()
        self._reach = Reach(model, patches)

    @property
    def config(self) -> dict[str, Any]:
        return copy.deepcopy(self._config)

    @property
    def stacks(self) -> dict[str, ReducedStack]:
        """The reduced stacks by name, in the order given to ``attach``."""
        return {binding.stack.name: ReducedStack(binding) for binding in self._acting}

    @property
    def sites(self) -> list[Site]:
        """The places where the reducers act."""
        return [site for binding in self._bindings for site in binding.sites.values()]

    @property
    def last(self) -> LastPass | None:
        """The record of the last forward pass: sites, tokens, multiply-adds, losses, gates, trace.

        None before the first one through every reduced stack.

        Raises:
            UnsupportedCallError: a module that the attachment is on is no part of the model any more, so that passes
                since then went past it.
        """
        if self.attached:
            self._reach.check()
        records = {binding.stack.name: binding.last for binding in self._bindings}
        done = {name: record for name, record in records.items() if record is not None}
        return LastPass(done) if len(done) == len(records) else None

    @property
    def notes(self) -> list[str]:
        return [
            note for binding in self._bindings for note in (*binding.active.notes, *remarks(binding), *binding.notes)
        ]

    @property
    def attached(self) -> bool:
        """Whether the model carries this attachment now."""
        return self._installed

    def install(self) -> None:
        """Put the attachment on the model; ``attach`` has done so already."""
        if self.attached:
            return
        self._before = [put(module, attribute, replacement) for module, attribute, replacement in self._patches]
        self._reach.watch()
        self._installed = True

    def detach(self) -> None:
        """Give the model back as it was, bit for bit. Detaching again does nothing.

        Raises:
            UnsupportedCallError: something else replaced a forward after attach.
        """
        if not self.attached:
            return
        for module, attribute, replacement in self._patches:
            if standing(module, attribute) is not replacement:
                raise UnsupportedCallError(
                    f"{attribute} of {type(module).__name__} was replaced after attach; undo that first, then detach"
                )
        for (module, attribute, replacement), before in zip(self._patches, self._before, strict=True):
            take_back(module, attribute, replacement, before)
        self._reach.leave()
        self._installed = False

    def guide(
        self,
        text_features: Tensor | None,
        stack: str | None = None,
        space: Callable[[Tensor], Tensor] | None = None,
    ) -> Guidance:
        """Let known text features say which image tokens matter, in every forward pass from now on.

        Patch tokens are scored by their likeness to the text in the model's own shared space, and the reducer
        uses that as its text attention. Also a context manager: ``with handle.guide(features): model(...)``.

        Args:
            text_features: (D,) or (1, D) for all samples, (B, D) one per sample, (B, Q, D) several per sample (a
                patch counts for the one it is most like); None to stop.
            stack: which one, where several are reduced.
            space: takes tokens (B, n, C) to the space of the text features (B, n, D), for a model that does not itself
                share one with them: at the hand-over to a language model encoder features, elsewhere tokens after a
                block. Of a CLIP of transformers it is
                ``lambda x: clip.visual_projection(clip.vision_model.post_layernorm(x))``.

        Raises:
            UnfitReducerError: the stack shares no space with text and none was given, or the reducer does not use text
                attention.
            OptionError: features of another shape.
        """
        binding = self._binding(stack)
        before = Guidance(binding)
        set_guide(binding, text_features, space)
        return before

    def scale(self, factor: float, stack: str | None = None) -> None:
        """Set how much of the configured removal is in force from the next pass on: a schedule's knob in training.

        Each method scales what it removes in its own way (:meth:`Reducer.scaled`); weights of learnable reducers stay
        the same objects, and :attr:`config` stays as configured.

        Args:
            factor: 0 for nothing, 1 for what was configured, exactly.
            stack: which one; all of them if None.

        Raises:
            OptionError: not a non-negative number.
            UnfitReducerError: the method has no option to scale.
        """
        set_scale(self._acting if stack is None else [self._binding(stack)], factor)

    def paused(self) -> AbstractContextManager[None]:
        """A context in which the model computes what it does without reduction, up to rounding.

        For a teacher with the same weights: ``with handle.paused(), torch.no_grad(): model(...)``. It costs nothing
        to enter, may be nested, and ends after an exception too. The record (:attr:`last`) stays that of the last
        pass outside it. A pass is paused or not as a whole, by what holds when it begins: passes that other threads
        begin on this model meanwhile are paused as well; a thread that needs both needs a model of its own.
        """
        return pause(self._bindings)

    def save(self, folder: str | Path) -> None:
        """Write what :func:`tokenreduce.load` needs to attach the same again: the config, and learned weights.

        ``tokenreduce.json`` has the config and the versions that wrote it, ``reducer.safetensors`` the weights of
        learnable reducers, where there are any. The model itself is not saved. On several processes call it on all:
        parameters that are spread over them (DTensor) are gathered, and the first one writes.

        Raises:
            OptionError: an option is not JSON, or the reducer's class cannot be imported again.
        """
        for binding in self._bindings:
            if isinstance(binding.active, nn.Module) and not isinstance(binding.acting, type(binding.active)):
                raise UnsupportedCallError(
                    f"the weights of {type(binding.active.reducer).__name__} are inside a "
                    f"{type(binding.acting).__name__} now; save them with the library that put it there "
                    "(model.save_pretrained), or unload that first (model.merge_and_unload())"
                )
        factors = {binding.stack.name: binding.factor for binding in self._acting if binding.factor != 1}
        save(self.config, factors, {name: one.reducer for name, one in self.stacks.items()}, Path(folder))

    def push_to_hub(
        self,
        repository: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: Any = None,
        message: str | None = None,
        pull_request: bool = False,
        ablation: Any = None,
    ) -> str:
        """Upload what :meth:`save` writes, and a section of the model card; :func:`tokenreduce.load` reads it.

        The repository may hold the model too, or the reducer alone; its other files stay as they are. Of its model card
        the section on token reduction is written, between two comments, and nothing else is touched.

        Args:
            repository: ``"user/repo"``; made where there is none.
            revision: branch to upload to.
            private: of a repository that is made.
            token: as huggingface_hub takes it; None for the one that was logged in with.
            message: of the commit.
            pull_request: ask for the change instead of making it.
            ablation: a :class:`tokenreduce.Result` (or its JSON), whose numbers go into the model card.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            OptionError: as :meth:`save`; not a repository's name; or the hub says no.
            PluginError: huggingface_hub is not installed.
        """
        hub.check_name(repository)
        said = section(repository, type(self.model).__name__, self.config, ablation)
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            card = hub.card_of(repository, revision, token)
            (Path(folder) / hub.CARD).write_text(with_section(card, said), encoding="utf-8")
            given = {"revision": revision, "private": private, "token": token, "pr": pull_request}
            return hub.push(Path(folder), repository, message=message or "Add token reduction", **given)

    @property
    def _acting(self) -> list[BaseBinding]:
        """All but one that only keeps the record of a language model behind a reduced tower; that one is the last."""
        return [binding for binding in self._bindings if binding.sites]

    def _binding(self, stack: str | None) -> BaseBinding:
        names = list(self.stacks)
        if stack is None and len(names) == 1:
            return self._bindings[0]
        if stack not in names:
            raise UnsupportedCallError(f"name one of the reduced stacks: {', '.join(names)}; got {stack!r}")
        return self._bindings[names.index(stack)]

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def __str__(self) -> str:
        lines = [
            f"{type(self.model).__name__} with {', '.join(repr(one.reducer.reducer) for one in self.stacks.values())}"
        ]
        lines += [f"  note: {note}" for note in self.notes]
        last = self.last
        if last is None:
            layers = ", ".join(
                site.stack if site.stack == "handover" else f"{site.stack} {site.layer}" for site in self.sites
            )
            return "\n".join([*lines, f"  acts in: {layers}", "  (token counts after the first forward pass)"])
        lines.append(f"  {'stack':<10}{'layer':>6}  {'stream':<12}{'tokens':>14}")
        lines += [
            f"  {r.stack:<10}{r.layer:>6}  {r.stream:<12}{r.tokens_in:>6} → {r.tokens_out:<5}"
            + (f" ± {r.spread:.1f}" if r.spread else "")
            for r in last.sites
        ]
        before, after = last.macs
        unit, name = (1e9, "GMACs") if before >= 1e8 else (1e6, "MMACs")
        spread = f" ± {last.macs_spread / unit:.2f}" if last.macs_spread else ""
        lines.append(f"  blocks: {before / unit:.2f} → {after / unit:.2f}{spread} {name} per sample")
        for record in last.records:
            lines += record.remarks
        return "\n".join(lines)
