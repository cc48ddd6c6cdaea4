"""CDPruner: diversity among the tokens that a text asks for."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "cdpruner",
        "tokenreduce_methods.cdpruner.method:CDPruner",
        "keep diverse tokens that are relevant to a text, by a determinantal point process",
        source="Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in "
        "MLLMs, NeurIPS 2025, arXiv 2506.10967",
    )
