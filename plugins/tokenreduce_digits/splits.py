"""What a task is judged on, chosen by and trained on: scenes by number, in batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenreduce.tasks import Batch

HELD_OUT_SEED = 1_000_003  # scenes that results are given on
VALIDATION_SEED = 1_000_033  # other scenes of the same held-out digits, to choose among checkpoints
TUNING_SEED = 2_000_003  # scenes of the training digits, for fine-tuning; a run adds its own seed

Scenes = Callable[[int], Any]


@dataclass(frozen=True)
class Splits:
    """The scenes of a task.

    Args:
        factory: ``factory(split, seed)`` gives what makes scene number i of ``"train"`` or ``"held-out"``.
        as_batch: turns scenes into a batch.
    """

    factory: Callable[[str, int], Scenes]
    as_batch: Callable[[list[Any]], Batch]

    def held_out(self, samples: int, batch: int) -> list[Batch]:
        """The first ``samples`` held-out scenes in batches."""
        return self._batches(_made(self.factory, "held-out", HELD_OUT_SEED), samples, batch)

    def scenes(self, samples: int) -> list[Any]:
        """The scenes of :meth:`held_out` themselves."""
        made = _made(self.factory, "held-out", HELD_OUT_SEED)
        return [made(index) for index in range(samples)]

    def validation(self, samples: int, batch: int) -> list[Batch]:
        """As :meth:`held_out`: other scenes of the same held-out digits."""
        return self._batches(_made(self.factory, "held-out", VALIDATION_SEED), samples, batch)

    def train(self, seed: int, first: int, count: int) -> Batch:
        """Scenes of the training digits that the training of the shipped weights has not seen."""
        return self._batch(_made(self.factory, "train", TUNING_SEED + seed), first, count)

    def _batches(self, scenes: Scenes, samples: int, batch: int) -> list[Batch]:
        starts = range(0, samples, batch)
        return [self._batch(scenes, first, min(batch, samples - first)) for first in starts]

    def _batch(self, scenes: Scenes, first: int, count: int) -> Batch:
        return self.as_batch([scenes(first + i) for i in range(count)])


@functools.cache
def _made(factory: Callable[[str, int], Scenes], split: str, seed: int) -> Scenes:
    return factory(split, seed)
