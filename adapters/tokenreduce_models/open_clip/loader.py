"""Models of open_clip by name. Imports open_clip when one is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import UnsupportedModelError
from tokenreduce.tasks import Loader, Record
from tokenreduce.tasks.checkpoint_config import folder_config

if TYPE_CHECKING:
    from tokenreduce import Task

SCHEMES = ("hf-hub:", "local-dir:")
CONFIG = "open_clip_config.json"


class OpenClip(Loader):
    """Zero-shot: each picture is scored against texts."""

    def accepts(self, name: str) -> bool:
        if name.startswith("hf-hub:"):
            return not name.startswith("hf-hub:timm/")
        if name.startswith("local-dir:"):
            return bool(folder_config(name.removeprefix("local-dir:"), CONFIG))
        return bool(folder_config(name, CONFIG)) and not folder_config(name).get("architectures")

    def model(self, folder: str, **options: Any) -> Any:
        import open_clip

        if not list(Path(folder).glob("open_clip_model.safetensors")):
            raise UnsupportedModelError(
                f"{folder!r} has no open_clip_model.safetensors, as open_clip.push_to_hf_hub.save_for_hf writes it"
            )
        try:
            return open_clip.create_model(f"local-dir:{folder}", weights_only=True, **options).eval()
        except Exception as error:  # as in read()
            first = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise UnsupportedModelError(
                f"open_clip cannot read {folder!r} ({type(error).__name__}: {first[:300]})"
            ) from error

    def task(self, name: str, records: Sequence[Record]) -> Task:
        from .zero_shot import task

        return task(name, *read(name), records)


def parts(name: str) -> tuple[str, str | None]:
    """A name as open_clip takes it: the model, and the tag or file of its weights (None where the model says both).

    Raises:
        UnsupportedModelError: an architecture without weights.
    """
    if name.startswith(SCHEMES):
        return name, None
    if Path(name).is_dir():
        return f"local-dir:{name}", None
    model, _, weights = name.partition("/")
    if not weights:
        raise UnsupportedModelError(
            f"expected an architecture and its weights, got {name!r} alone, whose weights would be random; type "
            f"open_clip:{name}/TAG (open_clip.list_pretrained_tags_by_model({name!r}) has the tags), or "
            f"open_clip:{name}/FILE"
        )
    return model, weights


def read(name: str) -> tuple[Any, Any, Any]:
    """The model, its transform and its tokenizer.

    Raises:
        UnsupportedModelError: one of them cannot be read.
    """
    import open_clip

    model, weights = parts(name)
    if weights is not None and Path(weights).suffix in (".npz", ".npy"):
        raise UnsupportedModelError(f"{weights!r} holds arrays of another program; take weights as .safetensors or .pt")
    try:
        made, transform = open_clip.create_model_from_pretrained(model, weights, weights_only=True)
        text = (open_clip.get_model_config(model) or {}).get("text_cfg", {})
        safe = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}  # whatever the file asks for
        return made, transform, open_clip.get_tokenizer(model, **safe)
    except Exception as error:  # open_clip raises nearly anything for names and files that do not suit it
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnsupportedModelError(
            f"open_clip cannot read {name!r} ({type(error).__name__}: {first[:300]}). Type open_clip:ARCHITECTURE/TAG, "
            "open_clip:ARCHITECTURE/FILE, hf-hub:OWNER/NAME (tags and the hub need the network), or local-dir:FOLDER "
            f"with {CONFIG} and weights"
        ) from error
