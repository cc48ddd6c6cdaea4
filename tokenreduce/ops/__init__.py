"""Tensors in, tensors out: choosing, matching, attention rows, noise."""

from __future__ import annotations

from .attention_rows import attention_rows, mean_logits, paid_attention, received_attention
from .matching import bipartite
from .noise import hash_noise
from .selection import others, top, top_of_each
from .similarity import at_least_float, text_similarity
from .spectral import energies, energy_rank, leading_energies, leverage, rank_of_share

__all__ = [
    "at_least_float",
    "attention_rows",
    "bipartite",
    "energies",
    "energy_rank",
    "hash_noise",
    "leading_energies",
    "leverage",
    "mean_logits",
    "others",
    "paid_attention",
    "rank_of_share",
    "received_attention",
    "text_similarity",
    "top",
    "top_of_each",
]
