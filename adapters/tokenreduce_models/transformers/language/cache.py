"""Cache layers that hold what is left of a prompt and report its whole length. Axes: B batch, P entries."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from tokenreduce.backbones import Kept
from tokenreduce.errors import UnsupportedCallError

DYNAMIC = 'generate(..., cache_implementation="dynamic"), or a DynamicCache'


class Reduced:
    """What a reduced cache layer does beside its library's class.

    Attributes:
        kept: what its entries are.
    """

    kept: Kept
    keys: Any
    values: Any
    _expected: Kept | None = None

    def expect(self, after: Kept) -> None:
        """Take the next tokens: its entries are ``after`` then."""
        self._expected = after

    def _take(self) -> Kept:
        after, self._expected = self._expected, None
        if after is None:
            raise UnsupportedCallError(
                "this key-value cache was filled while a reducer was attached and holds fewer tokens than the prompt "
                "had; the model that uses it now does not know which. Go on with the attached model, or start from a "
                "new cache"
            )
        return after


class ReducedLayer(Reduced, DynamicLayer):
    """A layer of full attention."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        after = self._take()
        updated: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
        self.kept = after
        return updated

    def get_seq_length(self, *args: Any) -> int:
        return self.kept.logical

    def crop(self, tokens: int) -> None:
        """Drop the last ``-tokens`` (older versions: all but the first ``tokens``)."""
        gone = -tokens if tokens < 0 else max(self.kept.logical - tokens, 0) if tokens else 0
        if not gone:
            return
        self.kept = self.kept.cropped(gone)
        self.keys, self.values = self.keys[..., :-gone, :], self.values[..., :-gone, :]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.kept = self.kept.selected(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.kept = self.kept.repeated(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.kept = self.kept.selected(indices)

    def reset(self) -> None:
        super().reset()
        self.kept = Kept(self.kept.prompt[:, :0], 0, False)


class ReducedSlidingLayer(ReducedLayer):
    """A layer of sliding attention: entries that no later token can see are let go."""

    is_sliding = True

    def __init__(self, sliding_window: int) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.record_past = False

    def activate_past_recording(self) -> None:
        """Hold what later tokens cannot see until the next ``crop``."""
        self.record_past = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        if not self.record_past:
            self._trim()
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        if not isinstance(query_length, int):  # positions of the queries, in older versions
            query_length = len(query_length)
        seen = min(self.kept.logical, self.sliding_window - 1)
        return seen + query_length, self.kept.logical - seen

    def crop(self, tokens: int) -> None:
        super().crop(tokens)
        self._trim()

    def _trim(self) -> None:
        gone = self.kept.entries - (self.sliding_window - 1)
        if gone > 0:
            self.kept = self.kept.trimmed(gone)
            self.keys, self.values = self.keys[..., gone:, :], self.values[..., gone:, :]


def kept_of(cache: Any, index: int) -> Kept | None:
    """What the entries of a layer's cache are; None where they are all tokens that it has seen."""
    layer = cache.layers[index] if cache is not None and index < len(cache.layers) else None
    return layer.kept if isinstance(layer, Reduced) else None


def lengths_of(cache: Any, index: int) -> tuple[int, int]:
    """Tokens that a layer's cache has seen, and those that it holds."""
    layer = cache.layers[index] if cache is not None and index < len(cache.layers) else None
    if layer is None or not layer.is_initialized:
        return 0, 0
    return int(layer.get_seq_length()), int(layer.keys.shape[-2])


def reduced_layer(cache: Any, index: int) -> Reduced:
    """The layer of a cache, which from now on holds fewer tokens than it reports."""
    while len(cache.layers) <= index:
        cache.layers.append(DynamicLayer())
    old = cache.layers[index]
    if isinstance(old, Reduced):
        return old
    new = ReducedSlidingLayer(old.sliding_window) if isinstance(old, DynamicSlidingWindowLayer) else ReducedLayer()
    if isinstance(new, ReducedSlidingLayer):
        new.record_past = getattr(old, "record_past", False)
    if old.is_initialized:
        new.lazy_initialization(old.keys, old.values)
        new.keys, new.values = old.keys, old.values
    cache.layers[index] = new
    return new


def check_cache(cache: Any) -> None:
    """Raise UnsupportedCallError for a cache that cannot hold fewer tokens than it reports."""
    if cache is None:
        return
    if type(cache) is not DynamicCache:
        raise UnsupportedCallError(
            f"a prompt with images was given a {type(cache).__name__}, whose layers cannot hold fewer tokens than the "
            f"prompt has; use {DYNAMIC}"
        )
    if getattr(cache, "offloading", False):
        raise UnsupportedCallError(
            f"a prompt with images was given a cache that is offloaded layer by layer; use {DYNAMIC} without offloading"
        )
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    for layer in cache.layers:
        if type(layer) not in known and not isinstance(layer, Reduced):
            raise UnsupportedCallError(
                f"a prompt with images was given a cache with a {type(layer).__name__}, which cannot hold fewer tokens "
                f"than it reports; use {DYNAMIC}"
            )


def size_of(cache: Any) -> tuple[int, int] | None:
    """Bytes of a cache's keys and values if it held every token, and as they are; None without a cache."""
    if cache is None:
        return None
    full = held = 0
    for layer in cache.layers:
        if not layer.is_initialized or not layer.keys.numel():
            continue
        size = layer.keys.nbytes + layer.values.nbytes
        held += size
        entries = layer.keys.shape[-2]
        tokens = layer.get_seq_length()
        window = getattr(layer, "sliding_window", None)
        if window is not None:
            tokens = min(tokens, window - 1)
        full += size // entries * max(tokens, entries)
    return full, held
