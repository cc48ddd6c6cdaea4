"""A language model of transformers with its images: its own forward on stand-ins made for one call.

Axes: B batch, q columns of a call, p tokens that are left of them, C width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from tokenreduce.backbones import CausalPass, Kept, LanguageModel, LayerCall, Prompt, Seen, is_replaced, moved
from tokenreduce.errors import UnsupportedCallError

from ..towers import stand_in
from .attention import Noting, attention_rows_of, keys_of, unrotated, unwrapped
from .cache import check_cache, kept_of, lengths_of, reduced_layer, size_of
from .costs import layer_cost, tower_cost
from .families import LVLM, placeholders
from .features import Features, notes_of
from .labels import SCORED, LabelledForward, check_scored
from .prompts import check_placeholders, check_positions, find_images, protect_last, real_tokens
from .proofs import prove
from .signals import projector_of, tower_signals

CACHES = ("cache", "past_key_values")


class TransformersModel(LanguageModel):
    """The inner model of one family.

    Args:
        inner: it.
        outer: the model around it that computes logits; None where there is none.
        family: its row of the table.
    """

    def __init__(self, inner: nn.Module, outer: nn.Module | None, family: LVLM) -> None:
        self.module, self.outer, self.family = inner, outer, family
        self.kind = type(self.language)
        self.tower_signals, self.tiled = tower_signals(inner, family), family.tiled
        if family.axes > 1:
            self.compact = (
                f"{type(inner).__name__} has positions with {family.axes} axes (mRoPE), in which what is left cannot "
                "be numbered anew"
            )

    @property
    def language(self) -> Any:
        """The model with the decoder layers."""
        return getattr(self.module, self.family.language)

    @property
    def layers(self) -> Sequence[nn.Module]:
        layers: nn.ModuleList = self.language.layers
        return list(layers)

    @cached_property
    def cache_name(self) -> str:
        """What this version of the library calls the cache."""
        layer = unwrapped(self.layers[0])
        for part in (layer, layer.self_attn) if layer is not None else ():
            parameters = inspect.signature(type(part).forward).parameters
            for name in CACHES:
                if name in parameters:
                    return name
        return CACHES[0]

    def forward(self, run: CausalPass, *args: Any, **kwargs: Any) -> Any:
        inner, family = self.module, self.family
        given = self._named(args, kwargs)
        scored = given.pop(SCORED, None)
        encoders = self._encoders(given)
        news = bool(encoders) or any(given.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        own: dict[str, Any] = {}
        made: dict[str, Any] = {}
        if run.active:
            self._check(given, news, scored)
            for modality in ("image", "video"):
                if hasattr(inner, f"get_{modality}_features"):
                    own[f"get_{modality}_features"] = partial(self._encode, modality, made)
        look = partial(self._prompt, given, encoders, made, scored) if news and run.active else None
        language = partial(self._language, run, look)
        own[family.language] = stand_in(self.language, forward=language)
        changed = stand_in(inner, **own)
        output = type(inner).forward(changed, **given)
        for name, value in vars(changed).items():  # what the library keeps on the model, such as rope_deltas
            if name not in own and name != "forward" and vars(inner).get(name) is not value:
                setattr(inner, name, value)
        return output

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = list(inspect.signature(type(self.module).forward).parameters)[1:]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _encoders(self, given: Mapping[str, Any]) -> dict[str, Any]:
        outputs = given.get("mm_encoder_outputs") or {}
        return {name: output for name, output in outputs.items() if output is not None}

    def _encode(self, modality: str, made: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        made[modality] = Features(self.module, self.family, modality, self)(*args, **kwargs)
        return made[modality]

    def _check(self, given: Mapping[str, Any], news: bool, scored: Any) -> None:
        """Refuse, before anything is computed, what cannot be right."""
        cache = given.get(self.cache_name)
        if not news:
            if given.get("inputs_embeds") is not None and (cache is None or not cache.get_seq_length()):
                raise UnsupportedCallError(
                    "inputs_embeds came without pixel_values, so it cannot be told which of them are of an image; "
                    "pass input_ids (or inputs_embeds) and pixel_values, or run it in handle.paused()"
                )
            check_placeholders(given.get("input_ids"), self.module.config)
            return
        check_cache(cache)
        check_positions(given.get("position_ids"), given.get("attention_mask"), given)
        kind = str(self.language.config._attn_implementation)
        if "flex" in kind or "paged" in kind:
            raise UnsupportedCallError(
                f"attn_implementation={kind!r} makes masks that cannot follow the tokens that are left; use 'sdpa', "
                "'eager' or 'flash_attention_2'"
            )
        if self.reads_rows:
            check_scored(self.module, scored)

    def _prompt(
        self, given: Mapping[str, Any], encoders: Mapping[str, Any], made: Mapping[str, Any], scored: Any, columns: int
    ) -> Prompt | None:
        outputs = {**encoders, **made}
        ids, config = given.get("input_ids"), self.module.config
        tokens = placeholders(config)
        outputs = {name: outputs[name] for name in tokens if name in outputs}
        if ids is not None:
            marks = {name: ids == tokens[name] for name in outputs}
        else:
            embeds, embed = given["inputs_embeds"], self.language.get_input_embeddings()
            marks = {
                name: (embeds == embed(torch.tensor(tokens[name], device=embeds.device)).to(embeds.device)).all(dim=-1)
                for name in outputs
            }
        kinds = sum((mark * number for number, mark in enumerate(marks.values(), 1)), torch.tensor(0))
        if not outputs or not bool(kinds.any()):
            return None
        notes = {name: notes_of(output) for name, output in outputs.items()}
        projector = projector_of(self.module, self.family)
        prompt = find_images(kinds, outputs, notes, projector, self.family.groups, ids)
        device = prompt.numbers.device
        real, scored = moved((real_tokens(given.get("attention_mask"), columns), scored), device)
        lengths = [list(images) for images in prompt.lengths]
        numbers = protect_last(prompt.numbers, lengths, real)
        tiles = prompt.tiles if self.tiled else None
        return replace(prompt, tiles=tiles, numbers=numbers, lengths=lengths, real=real, scored=scored)

    def _language(self, run: CausalPass, look: Any, *args: Any, **kwargs: Any) -> Any:
        """The language model's own forward, with a stand-in for each layer."""
        language = self.language
        own: dict[str, Any] = {}
        deep = kwargs.get("deepstack_visual_embeds")
        if look is not None:
            prompt = look(kwargs["inputs_embeds"].shape[1])
            if prompt is not None and deep is not None:
                prompt = replace(prompt, added=deep_features(kwargs["inputs_embeds"], kwargs["visual_pos_masks"], deep))
                own["_deepstack_process"] = partial(self._deepstack, run, deep)
            run.begin(prompt)
        asked = any(
            kwargs.get(name, getattr(language.config, name, False))
            for name in ("output_hidden_states", "output_attentions")
        )
        if asked:
            maybe_install_capturing_hooks(language)
        layers = language.layers
        own["layers"] = tuple(Layer(self, run, layer, index, len(layers)) for index, layer in enumerate(layers))
        output = type(language).forward(stand_in(language, **own), *args, **kwargs)
        if getattr(output, "hidden_states", None) is not None:
            output["hidden_states"] = run.spread(output.hidden_states)
        run.end(size_of(getattr(output, self.cache_name, None)))
        return output

    def _deepstack(self, run: CausalPass, deep: Sequence[Tensor], x: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Add what the tower gives for this layer to the tokens that are left."""
        added = run.added(next(index for index, one in enumerate(deep) if one is features))
        if added is not None:
            return x + added.to(x)
        whole: Tensor = type(self.language)._deepstack_process(self.language, x, mask, features)
        return whole

    def head_rows(self, seen: Seen, rows: Tensor) -> Tensor:
        return attention_rows_of(self.layers[seen.index], seen, rows, self.cache_name)

    def keys(self, seen: Seen) -> Tensor:
        layer = self.layers[seen.index]
        return keys_of(layer, seen, unrotated(seen.call.rotary), self.cache_name).mean(dim=1)

    def rotated_keys(self, seen: Seen) -> Tensor:
        if seen.keys is None:
            return keys_of(self.layers[seen.index], seen, seen.call.rotary, self.cache_name)
        keys: Tensor = seen.keys[:, :, -seen.x.shape[1] :]
        return keys

    def normed(self, x: Tensor) -> Tensor:
        normed: Tensor = self.language.norm(x)
        return normed

    def rotary(self, x: Tensor, positions: Tensor, index: int) -> Any:
        embed, kinds = self.language.rotary_emb, getattr(self.language.config, "layer_types", None)
        types = getattr(self.language, "rope_types", None)
        if types is not None and types[index] == "unscaled":  # Molmo2: some layers scale positions, others do not
            embed = self.language.rotary_emb_unscaled
        if kinds is not None and "layer_type" in inspect.signature(type(embed).forward).parameters:
            return embed(x, positions, kinds[index])
        return embed(x, positions)

    def cost(self, index: int) -> tuple[int, int]:
        return layer_cost(self.layers[index])

    def tower_macs(self, prompt: Prompt) -> tuple[int, int]:
        return tower_cost(self.module, self.family, prompt)

    def check(self) -> None:
        language = self.language
        if type(language) is not self.kind:
            raise UnsupportedCallError(
                f"the language model was exchanged after attach: {self.kind.__name__} for {type(language).__name__}; "
                "call handle.detach() and attach again"
            )
        if is_replaced(language, "forward"):
            raise UnsupportedCallError(
                f"forward of the {type(language).__name__} was replaced on the instance after attach, which would not "
                "act while a reducer is attached; undo that, or detach() first"
            )

    def replacements(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        found: list[tuple[nn.Module, str, Callable[..., Any]]] = []
        for modality in ("image", "video"):
            name = f"get_{modality}_features"
            if hasattr(type(self.module), name):
                found.append((self.module, name, Features(self.module, self.family, modality, self)))
        if self.reads_rows and self.outer is not None:
            found.append((self.outer, "forward", LabelledForward(self.outer)))
        return found

    def prove(self) -> None:
        prove(self)


def deep_features(x: Tensor, mask: Tensor, deep: Sequence[Tensor]) -> list[Tensor]:
    """Features (all image tokens, C) of several layers of the tower, each at its columns (B, q, C)."""
    return [torch.zeros_like(x).masked_scatter(mask[..., None], features.to(x)) for features in deep]


class Layer:
    """Stands in for one decoder layer in one call."""

    def __init__(self, model: TransformersModel, run: CausalPass, layer: nn.Module, index: int, count: int) -> None:
        self.model, self.run, self.layer, self.index, self.count = model, run, layer, index, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        cache = kwargs.get(self.model.cache_name)
        past, held = lengths_of(cache, self.index)
        call = LayerCall(
            kwargs.get("attention_mask"),
            kwargs.get("position_embeddings"),
            past,
            kept_of(cache, self.index),
            cache is not None,
            {
                "held": held,
                "keys": cache.layers[self.index].keys if cache is not None and held else None,
                "flat": "flash" in str(self.model.language.config._attn_implementation),
            },
        )
        return self.run.layer(self.index, self.count, x, call, partial(self.compute, args, kwargs))

    def compute(
        self, args: Sequence[Any], given: Mapping[str, Any], x: Tensor, call: LayerCall, after: Kept | None, notes: bool
    ) -> tuple[Tensor, Any]:
        """Run the library's layer on what is left."""
        name = self.model.cache_name
        given = dict(given)
        cache = given.get(name)
        if after is not None:
            given.update(attention_mask=call.mask, position_embeddings=call.rotary)
            if "position_ids" in given:
                given["position_ids"] = None  # kernels take gaps in them for packed sequences
            if cache is not None:
                reduced_layer(cache, self.index).expect(after)
        noting = Noting(cache)
        if notes:
            given[name] = noting
        out: Tensor = self.layer(x, *args, **given)
        return out, noting.keys
