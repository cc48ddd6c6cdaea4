"""The captions of the zero-shot task: "a photo of a red 7", one for each colour and digit, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenreduce.errors import OptionError

from .words import COLOURS

PAD, START, END = "[PAD]", "[START]", "[END]"
VOCABULARY = (PAD, START, "a", "photo", "of", *COLOURS, *(str(d) for d in range(10)), END)
CONTEXT = 10
CLASSES = tuple((colour, digit) for colour in COLOURS for digit in range(10))
CAPTIONS = tuple(f"a photo of a {colour} {digit}" for colour, digit in CLASSES)

_INDEX = {word: i for i, word in enumerate(VOCABULARY)}
END_ID = _INDEX[END]


def class_of(digit: int, colour: str) -> int:
    """Which of the captions names this digit in this colour."""
    return CLASSES.index((colour, digit))


def encode_captions(captions: Sequence[str] = CAPTIONS) -> tuple[Tensor, Tensor]:
    """Captions to ``input_ids`` and ``attention_mask``, each (K, CONTEXT), padded at the right.

    Raises:
        OptionError: a caption has a word that is not in the vocabulary, or too many words.
    """
    ids = torch.full((len(captions), CONTEXT), _INDEX[PAD])
    for row, caption in enumerate(captions):
        words = caption.lower().split()
        unknown = [word for word in words if word not in VOCABULARY[2:-1]]
        if unknown or len(words) > CONTEXT - 2:
            raise OptionError(
                f"a caption has at most {CONTEXT - 2} words out of {', '.join(VOCABULARY[2:-1])}; got {caption!r}"
            )
        tokens = [START, *words, END]
        ids[row, : len(tokens)] = torch.tensor([_INDEX[token] for token in tokens])
    return ids, (ids != _INDEX[PAD]).long()
