"""The kinds of task that loaders make: answers to questions, classes of pictures, the best of several texts.

A loader brings the model, how pictures and texts become its inputs, and names; the rest is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import Inputs, call
from ..errors import OptionError
from .batches import Prepare, RecordBatches, Remark, Scale, Target, samples
from .folders import FolderRecords
from .loader import Record
from .retrieval import recalls
from .scoring import Labels, logits_of, normalize_answer, vqa_accuracy
from .task import Batch, Sample, Task

NO_ANSWER = "(not a number)"  # said where a logit is none


@dataclass(frozen=True)
class Source:
    """A model with its data.

    Args:
        name: as the user typed it.
        model: ready for evaluation.
        records: may be empty, when only pictures are shown.
        prepare: ``prepare(images, texts)`` gives the model's inputs.
        scale: how its pixels are scaled.
        pixels: name of the pixels among the inputs.
        remarks: each gives what is to be said of some records, as :class:`RecordBatches` takes them.
    """

    name: str
    model: nn.Module
    records: Sequence[Record]
    prepare: Prepare
    scale: Scale
    pixels: str = "pixel_values"
    remarks: tuple[Remark, ...] = ()

    def data(self, count: int, batch: int) -> RecordBatches:
        """The first ``count`` records."""
        return RecordBatches(self.records[: max(count, 0)], batch, self.prepare, self.remarks)

    def with_remark(self, remark: Remark) -> Source:
        """The source with something more to be said."""
        return replace(self, remarks=(*self.remarks, remark))

    def samples(self, batch: Batch) -> list[Sample]:
        """What a person sees of a batch."""
        inputs = batch.inputs if isinstance(batch.inputs, Mapping) else {self.pixels: batch.inputs[0]}
        return samples(inputs[self.pixels], batch.targets, self.scale)

    def task(
        self,
        metric: Callable[[Any, Any], Tensor],
        answers: Callable[[Any], list[str]],
        what: str,
        ask: Callable[[nn.Module, Inputs], Any] = call,
    ) -> Task:
        """The task, with the model in evaluation mode."""
        return Task(
            name=self.name,
            model=self.model.eval(),
            data=self.data,
            metric=metric,
            description=what,
            prepare=self.prepare,
            samples=self.samples,
            answers=answers,
            ask=ask,
        )


def questions(source: Source, names: Sequence[str]) -> Task:
    """A classifier over answers; the score is VQA accuracy (:func:`tokenreduce.tasks.scoring.vqa_accuracy`).

    Args:
        names: the answers that it can give. One that it cannot give may be right all the same, and is missed.

    Raises:
        OptionError: a record has no answer, or has choices.
    """
    check_answers(source.records)
    for record in source.records:
        if record.choices:
            raise OptionError(f"{of(record)} has choices, but the model answers freely; leave 'choices' out")

    def words(output: Any) -> list[str]:
        return [NO_ANSWER if index is None else names[index] for index in likeliest(logits_of(output))]

    def score(output: Any, asked: Sequence[Target]) -> Tensor:
        said = zip(likeliest(logits_of(output)), asked, strict=True)
        return logits_of(output).new_tensor(
            [0.0 if index is None else vqa_accuracy(names[index], one.answers) for index, one in said]
        )

    source = source.with_remark(partial(beyond_answers, {normalize_answer(name) for name in names}))
    return source.task(score, words, f"answers to questions, {len(names)} of them")


def written(source: Source, ask: Callable[[nn.Module, Inputs], list[str]]) -> Task:
    """A model that writes its answers; the score is VQA accuracy of the text, as for :func:`questions`.

    Args:
        ask: gives the text that the model writes for each sample.

    Raises:
        OptionError: a record has no answer, or has choices.
    """
    check_answers(source.records)
    for record in source.records:
        if record.choices:
            raise OptionError(f"{of(record)} has choices, but the model writes its answer; leave 'choices' out")

    def score(texts: list[str], asked: Sequence[Target]) -> Tensor:
        return torch.tensor([vqa_accuracy(text, one.answers) for text, one in zip(texts, asked, strict=True)])

    return source.task(score, list, "answers that are written", ask)


def classes(source: Source, names: Sequence[str]) -> Task:
    """A classifier of pictures; 1 where the likeliest class is an answer of the record.

    Raises:
        OptionError: a record has no answer, one that is not a class, or choices.
    """
    labels, source = by_folder(Labels(names), source)
    check_answers(source.records)
    for record in source.records:
        if record.choices:
            raise OptionError(f"{of(record)} has choices, but the model has its own classes; leave 'choices' out")
        for answer in record.answers:
            labels.index(answer, of(record))

    def score(output: Any, asked: Sequence[Target]) -> Tensor:
        best = zip(likeliest(logits_of(output)), asked, strict=True)
        return logits_of(output).new_tensor(
            [float(index in {labels.index(answer, "a record") for answer in one.answers}) for index, one in best]
        )

    def words(output: Any) -> list[str]:
        return [NO_ANSWER if index is None else labels.names[index] for index in likeliest(logits_of(output))]

    return source.task(score, words, f"pictures of {len(names)} classes")


def by_folder(labels: Labels, source: Source) -> tuple[Labels, Source]:
    """The labels of a data set whose classes are folders: by their names, or by their order where no name is a class's.

    Raises:
        OptionError: neither fits.
    """
    folders = source.records.classes if isinstance(source.records, FolderRecords) else ()
    known = [name for name in folders if labels.knows(name)]
    if known or not folders:
        return labels, source
    if len(folders) != len(labels.names):
        raise OptionError(
            f"the data has {len(folders)} folders of classes ({', '.join(folders[:3])}, ...), none of them named like "
            f"one of the model's {len(labels.names)} classes ({', '.join(labels.names[:3])}, ...); name the folders as "
            "the model names its classes, or by their numbers from 0, or give a folder for each of its classes"
        )
    order = f"{folders[0]!r} is class 0 ({labels.names[0]!r}), {folders[-1]!r} class {len(folders) - 1}"
    remark = f"class folders are numbered in sorted order, as their names are none of the model's: {order}"
    return labels.renamed(folders), source.with_remark(lambda records: [remark])


def best_text(source: Source, texts: Sequence[str]) -> Task:
    """A model that scores each picture against texts; 1 where the best of the record's choices is right.

    Args:
        source: its model gives (B, K) scores, K being the number of texts.
        texts: :func:`texts_of` the records; where there are none, the model is given B texts with B pictures.
    """
    place = {text: column for column, text in enumerate(texts)}

    def score(output: Any, asked: Sequence[Target]) -> Tensor:
        logits, right = logits_of(output), []
        for row, one in zip(logits, asked, strict=True):
            choices = list(one.choices or texts)
            (best,) = likeliest(row[[place[text] for text in choices]][None])
            right.append(float(best is not None and choices[best] in (one.answers or (one.text,))))
        return logits.new_tensor(right)

    def words(output: Any) -> list[str]:
        logits = logits_of(output)
        if texts:
            return [NO_ANSWER if index is None else texts[index] for index in likeliest(logits)]
        return [f"score {row[i]:.2f}" if len(row) else "" for i, row in enumerate(logits)]

    source = source.with_remark(several_captions)
    task = source.task(score, words, f"the best of {len(texts)} texts" if texts else "scores of texts")
    return replace(task, metrics=recalls(texts)) if texts else task


def likeliest(logits: Tensor) -> list[int | None]:
    """The column of the greatest logit of each row (B, K), the first of equal ones; None where one is no number."""
    best, wrong = logits.argmax(dim=-1).tolist(), logits.isnan().any(dim=-1).tolist()
    return [None if no_number else index for index, no_number in zip(best, wrong, strict=True)]


def beyond_answers(known: Set[str], records: Sequence[Record]) -> Iterator[str]:
    """How many questions have no right answer among those that the model can give."""
    missed = sum(known.isdisjoint(map(normalize_answer, record.answers)) for record in records)
    if missed:
        yield f"{missed} of {len(records)} questions have no right answer among the {len(known)} of the model"


def several_captions(records: Sequence[Record]) -> Iterator[str]:
    """How many pictures stand in several lines with different right texts, of which a line has its own alone."""
    right: dict[Path, set[tuple[str, ...]]] = {}
    for record in records:
        right.setdefault(record.image, set()).add(record.answers or (record.text,))
    several = sum(len(texts) > 1 for texts in right.values())
    if several:
        yield (
            f"{several} of {len(right)} pictures stand in several lines with different right texts, and a line counts "
            'its own alone as right (one line with "answers": [...] counts each of them)'
        )


def texts_of(records: Sequence[Record]) -> list[str]:
    """Every text that pictures are scored against, each once: choices, and answers (or captions, without answers).

    Raises:
        OptionError: a record has no answer and no text, or no answer among its choices.
    """
    found: dict[str, None] = {}
    for record in records:
        right = record.answers or tuple(text for text in (record.text,) if text)
        if not right:
            raise OptionError(f"{of(record)} has no answer and no text; add 'answer' to its line")
        if record.choices and not set(right) & set(record.choices):
            raise OptionError(f"{of(record)}: expected one of its choices to be right, got {', '.join(right)}")
        found.update(dict.fromkeys(record.choices or right))
    return list(found)


def check_answers(records: Sequence[Record]) -> None:
    """Raise OptionError where a record has no answer."""
    for record in records:
        if not record.answers:
            raise OptionError(f"{of(record)} has no answer; add 'answer' (or 'answers') to its line")


def of(record: Record) -> str:
    """A record in a message."""
    return f"the record of {Path(record.image).name}" + (f" ({record.text!r})" if record.text else "")
