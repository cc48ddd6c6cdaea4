"""How many image tokens the samples of an evaluation had, from what is recorded of every pass."""

from __future__ import annotations

from typing import Any

import tokenreduce


class TokenCount:
    """Means over the samples that a language model has answered while a reducer was attached.

    Args:
        handle: of the attachment.
    """

    def __init__(self, handle: tokenreduce.Attachment) -> None:
        self.handle = handle
        self.samples, self._sums = 0, {"before": 0.0, "after": 0.0, "mean": 0.0}

    def add(self, samples: int) -> None:
        """Count the last pass, of so many samples."""
        last = self.handle.last
        record = None if last is None else (last.stacks.get("handover") or last.stacks.get("language"))
        if last is None or record is None:
            return
        self.samples += samples
        self._sums["before"] += samples * float(record.initial["image"])
        self._sums["after"] += samples * float(record.tokens["image"])
        self._sums["mean"] += samples * float(last.mean_image_tokens)

    def summary(self) -> dict[str, Any]:
        """``image_tokens`` of a prompt, those after the last layer, and their mean over the layers; {} before any."""
        if not self.samples:
            return {}
        names = {"before": "image_tokens", "after": "image_tokens_left", "mean": "image_tokens_mean"}
        return {names[key]: round(total / self.samples, 3) for key, total in self._sums.items()}
