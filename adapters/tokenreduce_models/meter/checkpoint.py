"""Reading the published METER checkpoints (``.ckpt``): weights only, nothing in the file is run.

Such a file holds pickled objects of the training program beside its weights. They are read as inert
placeholders; no class or function of the file's choosing is imported.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import RobertaConfig

from tokenreduce.backbones import pair
from tokenreduce.errors import OptionError, UnsupportedModelError

from .config import MeterConfig

POSITION = "vit_model.visual.positional_embedding"
TYPES = "token_type_embeddings.weight"
UNUSED = (  # parts of published files that no head of ours reads
    "text_transformer.pooler.",
    "text_transformer.embeddings.position_ids",
    "vit_model.visual.proj",
    "vit_model.logit_scale",
    "mlm_score.",
    "itm_score.",
    "rank_output.",
    "vqa_classifier.",
    "snli_classifier.",
    "nlvr2_classifier.",
)


class _Inert:
    """Stands in a loaded file for whatever is not a weight; making one gives a plain mapping."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Args:
        path: a ``.ckpt`` or ``.pt`` file with a ``state_dict`` (or being one), or ``.safetensors``.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedModelError: it holds no weights, or cannot be read as weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give the path of a METER .ckpt file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
            (type(name.rpartition(".")[2], (_Inert,), {}), name) for name in foreign
        ]
        with torch.serialization.safe_globals(stand_ins):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsupportedModelError(
            f"{path} cannot be read as weights ({type(error).__name__}: {error}). Load it in the program that wrote it "
            "and save model.state_dict() as safetensors"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise UnsupportedModelError(f"{path} holds no weights; expected a state_dict, or a file with one inside")
    return weights


def read_config(weights: Mapping[str, Tensor], **given: Any) -> dict[str, Any]:
    """Options of :class:`MeterConfig` as the shapes tell them; heads are taken to be 64 wide; ``given`` goes first."""
    needed = (POSITION, TYPES, "vit_model.visual.conv1.weight", "cross_modal_text_transform.weight")
    absent = [name for name in needed if name not in weights]
    if absent:
        raise UnsupportedModelError(f"not a METER checkpoint with CLIP's vision tower: it has no {', '.join(absent)}")
    words = weights["text_transformer.embeddings.word_embeddings.weight"]
    positions = weights["text_transformer.embeddings.position_embeddings.weight"]
    kernel, width = weights["vit_model.visual.conv1.weight"], len(weights["cross_modal_text_transform.weight"])
    text = RobertaConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        num_hidden_layers=_count(weights, "text_transformer.encoder.layer."),
        num_attention_heads=max(words.shape[1] // 64, 1),
        intermediate_size=len(weights["text_transformer.encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(positions),
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    side = math.isqrt(len(weights[POSITION]) - 1)
    return {
        "text_config": text,
        "image_size": side * kernel.shape[-1],
        "patch_size": kernel.shape[-1],
        "vision_hidden_size": len(kernel),
        "vision_layers": _count(weights, "vit_model.visual.transformer.resblocks.") + 1,
        "vision_heads": max(len(kernel) // 64, 1),
        "hidden_size": width,
        "num_attention_heads": max(width // 64, 1),
        "intermediate_size": len(weights["cross_modal_text_layers.0.intermediate.dense.weight"]),
        "num_top_layer": _count(weights, "cross_modal_text_layers."),
        **given,
    }


def fit(weights: Mapping[str, Tensor], config: MeterConfig, head: str) -> dict[str, Tensor]:
    """Weights made to fit a model: positions for its image size, a third token type, a ranking head from matching.

    All as the published code does it: bicubic interpolation of the grid; the second image starts as the first;
    the ranking head starts as the "matches" row of the image-text matching head.
    """
    weights = dict(weights)
    grid = pair(config.image_size)[0] // config.patch_size
    weights[POSITION] = resize_positions(weights[POSITION], grid)
    types = weights[TYPES]
    if len(types) < config.token_types:
        weights[TYPES] = torch.cat([types, types[1:2].expand(config.token_types - len(types), -1)])
    elif len(types) > config.token_types:
        weights[TYPES] = types[: config.token_types]
    if head == "rank_output" and "rank_output.weight" not in weights and "itm_score.fc.weight" in weights:
        for part in ("weight", "bias"):
            weights[f"rank_output.{part}"] = weights[f"itm_score.fc.{part}"][1:]
    return weights


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings (1 + n * n, C) of a class token and a square grid for another grid: (1 + grid * grid, C)."""
    side = math.isqrt(len(positions) - 1)
    if side == grid:
        return positions
    square = positions[1:].T.reshape(1, -1, side, side).float()
    resized = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T.to(positions.dtype)])


def check_names(own: Iterable[str], given: Iterable[str], strict: bool, path: Any) -> None:
    """Name the weights that are missing in the file, and those that the model has no place for.

    Raises:
        UnsupportedModelError: there are any, and ``strict``; otherwise they are a warning.
    """
    missing = sorted(set(own) - set(given))
    surplus = sorted(name for name in set(given) - set(own) if not name.startswith(UNUSED))
    if not missing and not surplus:
        return
    lines = [f"{path} does not fit:"]
    lines += [f"missing in the file: {', '.join(missing)}"] if missing else []
    lines += [f"no place in the model for: {', '.join(surplus)}"] if surplus else []
    if strict:
        hint = "choose the class whose head the file has, or pass strict=False to start those parts at random"
        raise UnsupportedModelError("; ".join([*lines, hint]))
    warnings.warn("; ".join(lines), stacklevel=3)


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in weights if name.startswith(prefix)}
    if not numbers:
        raise OptionError(f"the checkpoint has no {prefix}*")
    return max(numbers) + 1
