"""Reading the files of a checkpoint: weights only, no code of its own, and what is missing said in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from tokenreduce import TokenReduceError
from tokenreduce.errors import UnsupportedModelError

SAFE = {"trust_remote_code": False}


def config_of(name: str) -> Any:
    """The configuration.

    Raises:
        UnsupportedModelError: there is none, or none that transformers knows.
    """
    with reads(name, "the configuration (config.json)"):
        return transformers.AutoConfig.from_pretrained(name, **SAFE)


def model_of(name: str, kind: str | type[nn.Module]) -> Any:
    """The model with every weight from the files, in evaluation mode and single precision.

    Raises:
        UnsupportedModelError: the files are not there, hold pickled objects, or lack weights.
    """
    cls: Any = getattr(transformers, kind, None) if isinstance(kind, str) else kind
    if cls is None:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no {kind}, which {name!r} asks for; code that comes with a "
            "checkpoint is not run. Take a checkpoint of a class that transformers has"
        )
    with reads(name, "the weights (model.safetensors)"):
        model, report = cls.from_pretrained(name, weights_only=True, output_loading_info=True, dtype="float32")
    missing = sorted(report["missing_keys"])
    if missing:
        raise UnsupportedModelError(
            f"the files of {name!r} lack weights of {cls.__name__}: {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; they would be random. Take a checkpoint "
            "whose head has been trained"
        )
    return model.eval()


def whole_model_of(name: str, kind: str | type[nn.Module], **options: Any) -> Any:
    """The model from safetensors, in the precision that it was saved in unless ``options`` say otherwise.

    Raises:
        UnsupportedModelError: as :func:`model_of`; or a name that is not one of transformers' models.
    """
    found = getattr(transformers, kind, None) if isinstance(kind, str) else kind
    cls: Any = found
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no model {kind}, which {name!r} asks for; code that comes "
            "with a checkpoint is not run. Take a checkpoint of a class that transformers has"
        )
    with reads(name, "the weights (model.safetensors)"):
        model, report = cls.from_pretrained(
            name, **{"dtype": "auto", **options}, use_safetensors=True, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UnsupportedModelError(f"the files of {name!r} lack weights of {cls.__name__}: {', '.join(missing[:5])}")
    return model.eval()


def tokenizer_of(name: str) -> Any:
    """The tokenizer, which must be able to pad.

    Raises:
        UnsupportedModelError: its files are not there, or it has no token to pad with.
    """
    with reads(name, "the tokenizer (tokenizer.json, or vocab.txt and the like)"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **SAFE)
    words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    lacking = [file for file in vocabulary_files(tokenizer) if not (Path(name) / file).is_file()]
    if not words or (Path(name).is_dir() and lacking and not (Path(name) / "tokenizer.json").is_file()):
        raise UnsupportedModelError(
            f"{name!r} has no vocabulary of its tokenizer ({', '.join(lacking) or 'tokenizer.json'}), so every word "
            "would be unknown; save the tokenizer there too: tokenizer.save_pretrained(folder)"
        )
    if tokenizer.pad_token is None:
        raise UnsupportedModelError(f"the tokenizer of {name!r} has no pad_token; set one and save it again")
    return tokenizer


def vocabulary_files(tokenizer: Any) -> list[str]:
    """Names of the files that hold a tokenizer's vocabulary, where it is not in tokenizer.json."""
    named = dict(getattr(type(tokenizer), "vocab_files_names", None) or {})
    return [str(named[key]) for key in ("vocab_file", "merges_file") if isinstance(named.get(key), str)]


def processor_of(name: str) -> Any:
    """The processor of pictures and text together, whose tokenizer pads on the left.

    Raises:
        UnsupportedModelError: its files are not there, or it has no token to pad with.
    """
    tokenizer_of(name)  # says what is missing of it
    with reads(name, "the processor (processor_config.json, preprocessor_config.json and the tokenizer)"):
        processor = transformers.AutoProcessor.from_pretrained(name, **SAFE)
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise UnsupportedModelError(
            f"{name!r} has no processor for pictures and text together; save it there too: "
            "processor.save_pretrained(folder)"
        )
    processor.tokenizer.padding_side = "left"
    return processor


def image_processor_of(name: str) -> Any:
    """The image processor.

    Raises:
        UnsupportedModelError: its file is not there.
    """
    with reads(name, "the image processor (preprocessor_config.json)"):
        return transformers.AutoImageProcessor.from_pretrained(name, **SAFE)


@contextlib.contextmanager
def reads(name: str, what: str) -> Iterator[None]:
    """Say in words what could not be read.

    Raises:
        UnsupportedModelError: for every error of the library.
    """
    try:
        yield
    except TokenReduceError:
        raise
    except Exception as error:  # the libraries raise nearly anything for files that do not suit them
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if Path(name).is_dir():
            hint = "A folder needs what model, tokenizer and image processor write with save_pretrained."
        else:
            hint = "There is no folder of this name here, so the hub was asked: check the id and the network."
        raise UnsupportedModelError(
            f"{what} of {name!r} cannot be read ({type(error).__name__}: {first}). {hint}"
        ) from error
