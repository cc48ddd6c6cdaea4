"""Which checkpoints of transformers can be asked, and how. Imports transformers when a model is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import UnsupportedModelError
from tokenreduce.tasks import Loader, Record
from tokenreduce.tasks.checkpoint_config import folder_config

if TYPE_CHECKING:
    from tokenreduce import Task

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
REFUSED = {
    "BridgeTowerForContrastiveLearning": "reads hidden states of both towers, which a reduced pass does not collect",
    "BlipForQuestionAnswering": "writes its answers word by word, which no score of a class can stand for",
    "BlipForConditionalGeneration": "writes text, and has no answers to choose among",
    "ViltForMaskedLM": "fills in words, and has no answers to choose among",
    "ViltForTokenClassification": "labels words, and has no answers to choose among",
}
WRITING = tuple(
    f"{family}ForConditionalGeneration"
    for family in (
        "Llava",
        "LlavaNext",
        "LlavaOnevision",
        "VipLlava",
        "PaliGemma",
        "Gemma3",
        "Qwen2VL",
        "Qwen2_5_VL",
        "Qwen3VL",
        "InternVL",
        "Idefics3",
        "SmolVLM",
        "Mistral3",
        "Molmo2",
    )
)
"""Those of the adapter's table of families."""
MATCHING = (
    "ViltForImageAndTextRetrieval",
    "BlipForImageTextRetrieval",
    "BridgeTowerForImageAndTextRetrieval",
)
PAIRS = ("ViltForImagesAndTextClassification",)
DUAL = ("CLIPModel", "SiglipModel")
KNOWN = ("ViltForQuestionAnswering", *MATCHING, *PAIRS, *DUAL, *WRITING)
TAKEN = f"{', '.join(KNOWN)}, every ...ForImageClassification"


class Transformers(Loader):
    """Question answering, classifiers of pictures, dual encoders, matching of text (zero-shot), models that write."""

    guesses = True  # an owner/name may be any library's

    def accepts(self, name: str) -> bool:
        if Path(name).is_dir():
            return isinstance(folder_config(name).get("architectures"), list)
        return HUB_ID.fullmatch(name) is not None

    def model(self, folder: str, **options: Any) -> Any:
        from . import reading

        kinds = list(getattr(reading.config_of(folder), "architectures", None) or ())
        if not kinds:
            raise UnsupportedModelError(
                f"the config.json of {folder!r} names no architecture; save the model with save_pretrained"
            )
        return reading.whole_model_of(folder, str(kinds[0]), **options)

    def task(self, name: str, records: Sequence[Record]) -> Task:
        from . import answering, dual, matching, pairs, reading, writing

        config = reading.config_of(name)
        kind = architecture(config, name)
        if kind in DUAL:
            return dual.task(name, kind, records)
        if kind in WRITING:
            return writing.task(name, kind, records)
        if kind == "ViltForQuestionAnswering":
            return answering.questions(name, kind, records)
        if kind in MATCHING:
            return matching.task(name, kind, records)
        if kind in PAIRS:
            return pairs.task(name, kind, records)
        return answering.classes(name, kind, records)


def architecture(config: Any, name: str) -> str:
    """The class that a checkpoint was saved from, if it is one that can be asked.

    Raises:
        UnsupportedModelError: it is not; the message says why, and what is taken.
    """
    kinds = list(getattr(config, "architectures", None) or ())
    if not kinds:
        raise UnsupportedModelError(
            f"the config.json of {name!r} names no architecture; save the model with save_pretrained. Taken: {TAKEN}."
        )
    kind = str(kinds[0])
    if kind in KNOWN:
        return kind
    if re.search(r"ForImageClassification(WithTeacher)?$", kind):
        return kind
    reason = REFUSED.get(kind, "has no head that gives answers, classes or scores of texts")
    raise UnsupportedModelError(f"{name!r} is a {kind}, which {reason}. Taken: {TAKEN}.")
