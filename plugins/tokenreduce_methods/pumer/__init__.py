"""PuMer: text-informed pruning and modality-aware merging."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import PresetSpec, ReducerSpec, ReproductionSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "pumer",
        "tokenreduce_methods.pumer.method:PuMer",
        "prune image tokens that the text does not attend to, merge similar ones within each modality",
        source="Cao et al., PuMer: Pruning and Merging Tokens for Efficient Vision Language Models, ACL 2023, "
        "arXiv 2305.17530",
        needs=("keys",),
        layers=(2, 5, 8),
    )


@hookimpl
def tokenreduce_presets() -> Iterator[PresetSpec]:
    yield PresetSpec(
        "pumer-paper",
        "tokenreduce_methods.pumer.presets:paper",
        "PuMer's own ablations: no text, no merging, mixed modalities, layers early, late and cascaded",
        source="Cao et al., ACL 2023, arXiv 2305.17530, ablation study",
    )


@hookimpl
def tokenreduce_reproductions() -> Iterator[ReproductionSpec]:
    for name, model in (("vilt", "ViLT"), ("meter", "METER")):
        yield ReproductionSpec(
            f"pumer-{name}-vqav2",
            f"tokenreduce_methods.pumer.published:{name}_vqav2",
            f"PuMer on {model}, VQAv2",
            source="Cao et al., ACL 2023, arXiv 2305.17530, main results",
        )
