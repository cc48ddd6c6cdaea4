"""The words of the task: questions, answers and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenreduce.errors import OptionError

COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta")
ANSWERS = tuple(str(d) for d in range(10)) + COLOURS + ("yes", "no")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("what", "digit", "is", "colour", "the", "there", "a", "how", "many", "digits")
VOCABULARY = SPECIAL + WORDS + COLOURS + tuple(str(d) for d in range(10))
TEXT_LENGTH = 8


def encode(
    questions: Sequence[str], length: int = TEXT_LENGTH, vocabulary: Sequence[str] = VOCABULARY
) -> tuple[Tensor, Tensor]:
    """Questions to ``input_ids`` and ``attention_mask``, each (S, length), padded at the right.

    Raises:
        OptionError: a question has more words than fit between [CLS] and [SEP].
    """
    index = {word: i for i, word in enumerate(vocabulary)}
    ids = torch.full((len(questions), length), index["[PAD]"])
    for row, question in enumerate(questions):
        words = question.lower().replace("?", " ").split()
        if len(words) > length - 2:
            raise OptionError(f"at most {length - 2} words fit, got {len(words)}: {question!r}")
        tokens = ["[CLS]", *words, "[SEP]"]
        ids[row, : len(tokens)] = torch.tensor([index.get(t, index["[UNK]"]) for t in tokens])
    return ids, (ids != index["[PAD]"]).long()


def decode(ids: Tensor, vocabulary: Sequence[str] = VOCABULARY) -> list[str]:
    """Questions (S, T) in words, without what :func:`encode` puts around them."""
    around = ("[PAD]", "[CLS]", "[SEP]")
    return [" ".join(vocabulary[i] for i in row if vocabulary[i] not in around) for row in ids.tolist()]
