"""METER by name: a folder that ``save_pretrained`` of model and tokenizer wrote. Imports torch when one is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import UnsupportedModelError
from tokenreduce.tasks import Loader, Record
from tokenreduce.tasks.checkpoint_config import folder_config

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from tokenreduce import Task

TAKEN = "MeterForQuestionAnswering"


class Meter(Loader):
    """Question answering."""

    def accepts(self, name: str) -> bool:
        return folder_config(name).get("model_type") == "meter"

    def model(self, folder: str, **options: Any) -> Any:
        import tokenreduce_models.meter
        from tokenreduce_models.transformers.loaders.reading import whole_model_of

        kind = str((folder_config(folder).get("architectures") or ["nothing"])[0])
        if kind not in tokenreduce_models.meter.__all__:
            raise UnsupportedModelError(f"{folder!r} holds a {kind}, not one of tokenreduce_models.meter")
        return whole_model_of(folder, getattr(tokenreduce_models.meter, kind), **options)

    def task(self, name: str, records: Sequence[Record]) -> Task:
        if not self.accepts(name):
            raise UnsupportedModelError(
                f"expected a folder whose config.json has model_type 'meter', got {name!r}; load a published .ckpt "
                "with MeterForQuestionAnswering.from_checkpoint, and save_pretrained it with its tokenizer and answers"
            )
        kind = str((folder_config(name).get("architectures") or ["nothing"])[0])
        if kind != TAKEN:
            raise UnsupportedModelError(f"{name!r} is a {kind}; only {TAKEN} answers the questions of a data file")

        from tokenreduce.tasks import task_types as kinds
        from tokenreduce_models.transformers.loaders.answering import names_of
        from tokenreduce_models.transformers.loaders.inputs import Pictures, Words
        from tokenreduce_models.transformers.loaders.reading import model_of, tokenizer_of

        from .heads import MeterForQuestionAnswering

        model = model_of(name, MeterForQuestionAnswering)
        pictures = Pictures(image_processor(name, model.config.image_size))
        text = model.config.text_config
        limit = text.max_position_embeddings - text.pad_token_id - 1  # RoBERTa counts positions from there
        texts = [record.text for record in records]
        words = Words(tokenizer_of(name), texts, limit, names=("input_ids", "attention_mask"))

        def prepare(images: Sequence[Image], given: Sequence[str]) -> dict[str, Tensor]:
            return {**words(given), "pixel_values": pictures(images)["pixel_values"]}

        source = kinds.Source(name, model, records, prepare, pictures.scale, remarks=(words.remarks,))
        return kinds.questions(source, names_of(model.config))


def image_processor(folder: str, size: int) -> Any:
    """The folder's own, or, where it has none, the published one: CLIP's, at the model's image size.

    Source: METER's published ``clip_transform``: shorter side to ``size`` (bicubic), centre crop, CLIP's mean and std.
    """
    if (Path(folder) / "preprocessor_config.json").is_file():
        from tokenreduce_models.transformers.loaders.reading import image_processor_of

        return image_processor_of(folder)
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
