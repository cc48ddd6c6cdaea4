"""Tensors in, tensors out: choosing, matching, diversity, attention rows, noise."""

from __future__ import annotations

from .attention_rows import attention_rows, mean_logits, paid_attention, received_attention
from .diversity import cosines, dpp_greedy, facility_location, farthest, thin_out
from .grid_pooling import grid_cells
from .matching import bipartite
from .noise import hash_noise
from .selection import others, split, top, top_of_each
from .similarity import at_least_float, text_cosines, text_similarity
from .spectral import energies, energy_rank, leading_energies, leverage, rank_of_share

__all__ = [
    "at_least_float",
    "attention_rows",
    "bipartite",
    "cosines",
    "dpp_greedy",
    "energies",
    "energy_rank",
    "facility_location",
    "farthest",
    "grid_cells",
    "hash_noise",
    "leading_energies",
    "leverage",
    "mean_logits",
    "others",
    "paid_attention",
    "rank_of_share",
    "received_attention",
    "split",
    "text_cosines",
    "text_similarity",
    "thin_out",
    "top",
    "top_of_each",
]
