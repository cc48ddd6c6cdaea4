"""VisionZip: keep what the class token attends to, merge the rest by likeness."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import ReducerSpec, hookimpl


@hookimpl
def tokenreduce_reducers() -> Iterator[ReducerSpec]:
    yield ReducerSpec(
        "visionzip",
        "tokenreduce_methods.visionzip.method:VisionZip",
        "keep the tokens that the class token attends to, merge the others into a few by likeness",
        source="Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025, arXiv "
        "2412.04467",
        needs=("class_attention", "keys"),
        layers=(10,),
    )
