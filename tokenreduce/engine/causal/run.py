"""One pass of a language model: cuts between its layers, and what each layer is given of the prompt.

Axes: B batch, q columns of this call, p tokens that are left, P keys, C width, U units, n tokens of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...backbones.causal import Compute, LanguageModel, LayerCall, Prompt, Seen, pick, pick_all
from ...backbones.dispatch import moved
from ...backbones.kv_cache import Kept
from ...core.gate import Gate
from ...core.reduction import Reduction
from ...core.signals import GUIDED, Signals
from ...core.site import Site
from ...core.streams import Stream, Streams
from ...core.tokens import Tokens
from ...errors import UnsupportedCallError
from ...methods.contract import check_reductions
from ...ops.similarity import text_cosines, text_similarity
from .binding import CausalBinding
from .carried import SITE, carried
from .costs import Costs
from .left import Left, spread
from .masks import physical_mask
from .signals import LayerSignals, Sources, prompt_text, tower_sources
from .trace import PromptTrace
from .units import Unit, equal, places

HANDOVER = -1
PATCHES = frozenset({"received_attention", "paid_attention", "received_logits", "paid_logits"})
TOWER = PATCHES | {"class_attention", "keys", "encoder_features", "class_features", "projector"}
"""Signals of the vision tower."""
NEXT = frozenset({"next_readout_attention"})
"""Signals of the layer that comes after a cut."""
ENTRY = frozenset({"image_embeddings", "text_embeddings"})
"""Signals that are tokens as they entered the first layer."""


class CausalRun:
    """One pass; reducers and sites are those at its beginning."""

    def __init__(self, language: LanguageModel, bindings: Sequence[CausalBinding]) -> None:
        self.language, self.bindings = language, bindings
        self.active = not any(binding.pauses > 0 for binding in bindings)
        self.sites: dict[int, tuple[CausalBinding, Site]] = {}
        for binding in bindings if self.active else ():
            self.sites.update({index: (binding, site) for index, site in binding.sites.items()})
        self.compact = any(binding.compact for binding in bindings)
        self.left: Left | None = None
        self.costs: Costs | None = None
        self.length = 0
        self.whole = True
        self.home: torch.device | None = None  # of what the library makes for all layers: masks, positions
        self.passed: list[tuple[Tensor | None, Tensor | None]] = []
        self._memo: dict[Any, Any] = {}
        self._waiting: Seen | None = None

    def begin(self, prompt: Prompt | None) -> None:
        """Say what the call holds, before the first layer; None where there is no new image."""
        if prompt is None or not (self.sites or prompt.carried):
            return
        self.left = Left(prompt, any(binding.trace for binding in self.bindings))
        self.home = prompt.numbers.device
        self.costs = Costs(self.language, self.left)

    def layer(self, index: int, count: int, x: Tensor, call: LayerCall, compute: Compute) -> Tensor:
        """Run one of ``count`` layers on what is left, with the cuts around it."""
        if self.left is not None:
            self.left.follow_to(x.device)
        if index == 0:
            self.length = x.shape[1]
            if max((site + self._looks_ahead(site) for site in self.sites), default=0) >= count:
                raise UnsupportedCallError(
                    f"the language model has {count} layers now, and a reducer acts after layer {max(self.sites)}; "
                    "layers were removed after attach: call handle.detach() and attach again"
                )
            if self.left is not None and self.left.prompt.carried:
                x = self._carry(x)
            if HANDOVER in self.sites and self.left is not None:
                x = self._cut(HANDOVER, x, None)
            if self.left is not None:
                self.left.enter(x if any(ENTRY & frozenset(one.active.needs) for one in self.bindings) else None)
        if self.left is not None and self._looks_ahead(index - 1):
            x = self._cut(index - 1, x, self._waiting, Seen(index, x, self._physical(index, x, call)[0]))
        call, after = self._physical(index, x, call)
        if self.costs is not None:
            self.costs.layer(index, call.past)
        left = self.left
        self.passed.append((None, None) if left is None else (left.rows, left.full))
        site = self.sites.get(index) if left is not None else None
        before = x
        x, keys = compute(x, call, after, site is not None)
        if left is not None:
            left.follow_to(x.device)
        if site is not None:
            self._waiting = Seen(index, before, call, keys, self._entering(index, x))
            if not self._looks_ahead(index):
                x = self._cut(index, x, self._waiting)
        self.whole = left is None or left.rows is None
        if index == count - 1 and left is not None:
            self.whole, x = True, left.spread(x)
        return x

    def _looks_ahead(self, index: int) -> bool:
        """Whether the cut after a layer reads signals of the next one, and so waits until that is called."""
        return index in self.sites and bool(NEXT & frozenset(self.sites[index][0].active.needs))

    def _entering(self, index: int, x: Tensor) -> Tensor:
        """(B, p, C) what enters the next layer: the output of layer ``index`` and what the prompt adds to it."""
        left = self.left
        if left is None or index >= len(left.added):
            return x
        side = left.added[index]
        return x + (side if left.rows is None else pick(side, left.rows, 1)).to(x)

    def added(self, index: int) -> Tensor | None:
        """(B, p, C) what of the prompt's ``added`` goes to the tokens that are left after layer ``index``; None while
        every token is at its column."""
        left = self.left
        if self.whole or left is None or left.rows is None or index >= len(left.added):
            return None
        return pick(left.added[index], left.rows, 1)

    def spread(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hidden states before each layer and at the end, every token at its column; dropped ones with their last."""
        around = [self.passed[0], *self.passed] if self.passed else []
        if len(around) != len(states):
            return tuple(states)
        return tuple(
            spread(x, *at) if x is not None and at[0] is not None and x.shape[1] == at[0].shape[1] else x
            for x, at in zip(states, around, strict=True)
        )

    def end(self, kv_bytes: tuple[int, int] | None) -> None:
        """Close the record; bytes of keys and values with every token, and as held."""
        if self.left is None or self.costs is None:
            return
        trace = None
        if self.left.ends is not None:
            everything = self._all_columns()
            device = self.left.prompt.numbers.device
            layers = [everything if rows is None else rows.to(device) for rows, _ in self.passed]
            trace = PromptTrace(self.left.prompt, self.left.ends, self.left.columns(), layers)
        record = self.costs.record(kv_bytes, trace)
        for binding in self.bindings:
            binding.last = record

    def _all_columns(self) -> Tensor:
        assert self.left is not None
        numbers, real = self.left.prompt.numbers, self.left.prompt.real
        columns = torch.arange(self.length, device=numbers.device).expand_as(numbers)
        return columns if real is None else torch.where(real, columns, -1)

    def _physical(self, index: int, x: Tensor, call: LayerCall) -> tuple[LayerCall, Kept | None]:
        """What a layer is given for what is left, and what the entries of its cache are afterwards."""
        rows = None if self.left is None else self._at_home(self.left.rows)
        if rows is None and call.kept is None:
            return call, None
        kept = call.kept
        past = None if kept is None else (id(kept.prompt), kept.tail)
        key = (id(rows), past, call.past, int(call.extra.get("held", call.past)))
        after = self._once(("kept", *key), partial(self._after, rows, call))
        mask = self._once(("mask", id(call.mask), *key), partial(self._mask, rows, call, after))
        if self.compact:
            rotary = self.language.rotary(x, after.places(x.shape[1]).to(x.device), index)
        elif rows is None:
            rotary = call.rotary
        else:
            rotary = self._once(("rotary", id(call.rotary), id(rows)), lambda: pick_all(call.rotary, rows))
        return call.changed(mask=mask, rotary=rotary), after

    def _at_home(self, rows: Tensor | None) -> Tensor | None:
        """Rows on the device of masks and positions, wherever the layer runs."""
        if rows is None or rows.device == self.home:
            return rows
        at_home: Tensor = self._once(("home", id(rows)), lambda: rows.to(self.home))
        return at_home

    def _once(self, key: Any, make: Any) -> Any:
        """Made once for all layers that share it; what the key is of is kept, so that no other takes its id."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def _after(self, rows: Tensor | None, call: LayerCall) -> Kept:
        kept = call.kept
        if rows is None:
            assert kept is not None
            return kept.grown(self.length)
        new = torch.where(rows >= 0, rows + call.past, -1)
        gone: Tensor | int = 0
        if call.past:
            if kept is None:
                held = int(call.extra.get("held", call.past))
                old = torch.arange(call.past - held, call.past, device=rows.device).expand(rows.shape[0], -1)
                gone = call.past - held
            else:
                old, gone = kept.columns().to(rows.device), moved(kept.gone, rows.device)
            new = torch.cat([old, new], dim=1)
        assert self.left is not None
        ragged = self.left.ragged or (kept is not None and kept.ragged)
        end = min(self.left.trailing, int(rows.shape[1]))  # what comes last can be cropped again
        return Kept(new[:, : new.shape[1] - end], call.past + self.length - end, ragged, end, gone)

    def _mask(self, rows: Tensor | None, call: LayerCall, after: Kept) -> Tensor | None:
        if call.mask is None and not after.ragged:
            return None
        if rows is None:
            rows = torch.arange(self.length, device=after.prompt.device).expand(after.prompt.shape[0], -1)
        flat = bool(call.extra.get("flat", False))
        mask = moved(call.mask, rows.device)
        return physical_mask(mask, rows, after.columns(), after.logical, call.past, after.ragged, flat)

    def _carry(self, x: Tensor) -> Tensor:
        """Leave out what the vision tower has merged or dropped."""
        left, costs = self.left, self.costs
        assert left is not None and costs is not None
        before = [sum(images) for images in left.lengths]
        done = carried(left)
        if done:
            x = left.take(x, done, not self.compact)
            self._memo.clear()
        costs.site(SITE, before, [sum(images) for images in left.lengths])
        return x

    def _cut(self, index: int, x: Tensor, seen: Seen | None, ahead: Seen | None = None) -> Tensor:
        binding, site = self.sites[index]
        with nullcontext() if binding.around is None else binding.around():
            return self._act(binding, site, x, seen, ahead)

    def _act(self, binding: CausalBinding, site: Site, x: Tensor, seen: Seen | None, ahead: Seen | None) -> Tensor:
        left, costs = self.left, self.costs
        assert left is not None and costs is not None
        before = [sum(images) for images in left.lengths]
        columns, (every, order) = left.columns(), left.units(binding.unit)
        seen, ahead = (None if one is None else one.on(x.device) for one in (seen, ahead))
        layer = None if seen is None else LayerSignals(self.language, seen, left, binding.unit, ahead)
        read = x if seen is None or seen.out is None or ahead is not None else seen.out
        done = []
        for units in equal(every):
            samples, at = places(units, order)
            if layer is not None:
                sources = layer.sources(units, samples, at)
            else:
                sources = self._tower(binding, units)
                sources["prompt_embeddings"] = partial(prompt_text, x, left, units)
                sources |= self._guided(binding, units, samples)
            here = columns[samples, at]
            size = None if left.size is None else left.size[samples, here]
            first = torch.tensor([unit.images[0] for unit in units], device=x.device)
            grids = [left.grid(unit) for unit in units]
            tokens = Tokens(read[samples, at], size)
            reduction = self._reduce(binding, site, tokens, sources, first, units[0].initial, grids)
            if reduction is not None:
                done.append((units, samples, here, reduction))
        if done:
            x = left.take(x, done, not binding.compact)
            self._memo.clear()
        costs.site(site, before, [sum(images) for images in left.lengths])
        return x

    def _tower(self, binding: CausalBinding, units: Sequence[Unit]) -> Sources:
        return self._read(binding, units, frozenset(binding.active.needs) & TOWER)

    def _read(self, binding: CausalBinding, units: Sequence[Unit], names: frozenset[str]) -> Sources:
        encoded = None if self.left is None else self.left.prompt.encoded
        if not names:
            return {}
        if encoded is None:
            raise UnsupportedCallError(
                f"{type(binding.active.reducer).__name__} needs {', '.join(sorted(names))} of the vision tower, but "
                "the image features of this call were not computed by it while attached; pass pixel_values"
            )
        assert self.left is not None
        sources = tower_sources(self.left.prompt, encoded, units, names - {"projector"})
        return {**sources, "projector": lambda: encoded.project} if "projector" in names else sources

    def _guided(self, binding: CausalBinding, units: Sequence[Unit], samples: Tensor) -> Sources:
        """The signals by the text features that guide the hand-over; none where none do."""
        guide, space = binding.guide, binding.space
        if guide is None or space is None or not set(GUIDED) & set(binding.active.needs):
            return {}
        assert self.left is not None
        if guide.shape[0] not in (1, self.left.batch):
            raise UnsupportedCallError(
                f"handle.guide has text features for {guide.shape[0]} samples, this is a batch of {self.left.batch}; "
                "give one text (D,) for all, or one per sample (with beams, one per beam)"
            )
        features = self._read(binding, units, frozenset({"encoder_features"}))["encoder_features"]
        texts = guide if guide.shape[0] == 1 else guide[samples[:, 0]]
        return {
            "text_attention": lambda: text_similarity(space, features(), texts),
            "text_cosine": lambda: text_cosines(space, features(), texts),
        }

    def _reduce(
        self,
        binding: CausalBinding,
        site: Site,
        tokens: Tokens,
        sources: Sources,
        first: Tensor,
        initial: int,
        grids: Sequence[tuple[int, int] | None],
    ) -> Reduction | None:
        active = binding.active
        training = self.language.module.training
        signals = Signals(sources, frozenset(active.needs))
        stream = Stream(tokens, signals, training, initial=initial, places=first, grids=grids)
        losses: dict[str, Tensor] = {}
        streams = Streams({"image": stream}, "image", initial={"image": initial}, losses=losses)
        chosen: Mapping[str, Reduction | Gate] = active.reduce_streams(streams, site)
        check_reductions(chosen, streams, active)
        reduction = chosen.get("image")
        if losses or isinstance(reduction, Gate):
            raise UnsupportedCallError(
                f"{type(active.reducer).__name__} sets gates or adds to the loss, which the whole layers of a language "
                "model have no place for; train it on an encoder, or use a method without gates"
            )
        return reduction
