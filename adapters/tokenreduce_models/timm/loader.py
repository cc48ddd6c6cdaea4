"""Models of timm by name. Imports timm when one is read."""

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

SCHEMES = ("hf-hub:", "hf_hub:", "local-dir:")


class Timm(Loader):
    """Classifiers of pictures, with timm's own transform; texts are shown, the model does not see them."""

    def accepts(self, name: str) -> bool:
        if name.startswith(("timm/", "hf-hub:timm/", "hf_hub:timm/")):
            return True
        return isinstance(folder_config(name.removeprefix("local-dir:")).get("architecture"), str)

    def model(self, folder: str, **options: Any) -> Any:
        import timm

        if not (Path(folder) / "model.safetensors").is_file():
            raise UnsupportedModelError(f"{folder!r} has no model.safetensors, as timm.models.save_for_hf writes it")
        return self.read(f"local-dir:{folder}", timm, **options).eval()

    def read(self, name: str, timm: Any, **options: Any) -> Any:
        """The model with its pretrained weights.

        Raises:
            UnsupportedModelError: timm cannot read it.
        """
        try:
            return timm.create_model(source(name), pretrained=True, **options)
        except Exception as error:  # timm raises nearly anything for names and files that do not suit it
            first = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise UnsupportedModelError(
                f"timm cannot read {name!r} ({type(error).__name__}: {first}); tried {source(name)!r} with pretrained "
                "weights. Type timm:NAME for a name of timm.list_pretrained(), timm/NAME for the hub (which needs the "
                "network), or local-dir:FOLDER"
            ) from error

    def task(self, name: str, records: Sequence[Record]) -> Task:
        import timm
        import torch

        from tokenreduce.tasks import task_types as kinds
        from tokenreduce.tasks.batches import Scale

        model = self.read(name, timm)
        config = timm.data.resolve_model_data_config(model)
        transform = timm.data.create_transform(**config, is_training=False)
        if not getattr(model, "num_classes", 0):
            raise UnsupportedModelError(f"{name!r} has no classifier (num_classes is 0); take a model with a head")

        def prepare(images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
            return {"x": torch.stack([transform(image) for image in images])}

        scale = Scale(tuple(config["mean"]), tuple(config["std"]))
        return kinds.classes(kinds.Source(name, model, records, prepare, scale, pixels="x"), names_of(model))


def source(name: str) -> str:
    """A name as ``timm.create_model`` takes it: a folder or an id of the hub gets its prefix."""
    if name.startswith(SCHEMES) or "/" not in name:
        return f"local-dir:{name}" if not name.startswith(SCHEMES) and Path(name).is_dir() else name
    return f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"


def names_of(model: Any) -> list[str]:
    """Names of the classes: those of the checkpoint, else ImageNet's where their number is its, else numbers."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config, count = getattr(model, "pretrained_cfg", None) or {}, int(model.num_classes)
    names, described = config.get("label_names"), config.get("label_descriptions") or {}
    if isinstance(names, dict):
        names = [names.get(index, names.get(str(index))) for index in range(len(names))]
    if names and len(names) == count and None not in names:
        return [str(described.get(name, name)) for name in names]
    subset = infer_imagenet_subset(model)
    info = ImageNetInfo(subset) if subset else None
    if info is not None and info.num_classes() == count:
        return [info.index_to_description(index) for index in range(count)]
    return [str(index) for index in range(count)]
