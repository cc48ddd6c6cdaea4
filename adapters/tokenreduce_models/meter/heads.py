"""METER's heads: question answering, pairs of images, entailment, retrieval.

Axes: B batch, T text tokens, C width, L answers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from tokenreduce.errors import UnsupportedCallError

from .config import MeterConfig
from .model import MeterEncoder


def classifier(width: int, middle: int, labels: int) -> nn.Sequential:
    """The published two-layer head on pooled vectors (B, width)."""
    return nn.Sequential(nn.Linear(width, middle), nn.LayerNorm(middle), nn.GELU(), nn.Linear(middle, labels))


class Classifier(MeterEncoder):
    """A head on the pooled text and image."""

    def add_head(self, config: MeterConfig) -> None:
        setattr(self, self.head, classifier(2 * config.hidden_size, 2 * config.hidden_size, config.num_labels))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Logits (B, L) and, with ``labels``, the loss; inputs as for :class:`MeterModel`."""
        pooled = self.pool(input_ids, pixel_values, attention_mask)
        logits = getattr(self, self.head)(pooled)
        return self.output(logits, None if labels is None else self.loss(logits, labels), return_dict)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy; labels (B,)."""
        return F.cross_entropy(logits, labels)

    def output(
        self, logits: Tensor, loss: Tensor | None, return_dict: bool | None
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


class MeterForQuestionAnswering(Classifier):
    """Visual question answering as choice among ``config.num_labels`` answers.

    Labels are soft scores (B, L): binary cross-entropy times L, as published; or answers (B,): cross-entropy.
    """

    head = "vqa_classifier"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 1:
            return F.cross_entropy(logits, labels)
        return F.binary_cross_entropy_with_logits(logits, labels) * labels.shape[1]


class MeterForVisualEntailment(Classifier):
    """Entailment, neutral or contradiction (``config.num_labels`` is 3 as published); labels (B,)."""

    head = "snli_classifier"


class MeterForImagesAndTextClassification(Classifier):
    """NLVR2: whether a sentence is true of two images; ``config.token_types`` must be 3; labels (B,)."""

    head = "nlvr2_classifier"
    token_types = 3

    def add_head(self, config: MeterConfig) -> None:
        if config.token_types < 3:
            raise UnsupportedCallError(
                f"two images need three token types (text, first, second image), got token_types={config.token_types}"
            )
        self.nlvr2_classifier = classifier(4 * config.hidden_size, 2 * config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """``pixel_values`` is (B, 2, 3, H, W): the two images of each pair, passed through the model in turn."""
        if pixel_values.ndim != 5 or pixel_values.shape[1] != 2:
            raise UnsupportedCallError(f"pixel_values must be (B, 2, 3, H, W), got {tuple(pixel_values.shape)}")
        both = [self.pool(input_ids, pixel_values[:, i], attention_mask, 1 + i) for i in range(2)]
        logits = self.nlvr2_classifier(torch.cat(both, dim=-1))
        return self.output(logits, None if labels is None else self.loss(logits, labels), return_dict)


class MeterForImageAndTextRetrieval(Classifier):
    """How well text and image fit: logits (B, 1).

    With ``labels`` (G,) the batch is G groups of B / G candidates, and each label names the one that fits:
    cross-entropy over the group, as published (one positive among negatives).
    """

    head = "rank_output"

    def add_head(self, config: MeterConfig) -> None:
        self.rank_output = nn.Linear(2 * config.hidden_size, 1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if len(logits) % len(labels):
            raise UnsupportedCallError(f"{len(logits)} pairs cannot be split into {len(labels)} groups of equal size")
        return F.cross_entropy(logits.view(len(labels), -1), labels)
