"""Tensors in, tensors out: choosing, matching, attention rows, noise."""

from __future__ import annotations

from .attention_rows import attention_rows, received_attention
from .matching import bipartite
from .noise import hash_noise
from .selection import others, top, top_of_each
from .similarity import at_least_float, text_similarity

__all__ = [
    "at_least_float",
    "attention_rows",
    "bipartite",
    "hash_noise",
    "others",
    "received_attention",
    "text_similarity",
    "top",
    "top_of_each",
]
