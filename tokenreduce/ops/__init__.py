"""Tensors in, tensors out: choosing, matching, diversity, attention rows, noise."""

from __future__ import annotations

from .attention_rows import attention_rows, received_attention
from .diversity import cosines, dpp_greedy, facility_location, farthest, thin_out
from .grid_pooling import grid_cells
from .matching import bipartite
from .noise import hash_noise
from .selection import others, top, top_of_each
from .similarity import at_least_float, text_cosines, text_similarity

__all__ = [
    "at_least_float",
    "attention_rows",
    "bipartite",
    "cosines",
    "dpp_greedy",
    "facility_location",
    "farthest",
    "grid_cells",
    "hash_noise",
    "others",
    "received_attention",
    "text_cosines",
    "text_similarity",
    "thin_out",
    "top",
    "top_of_each",
]
