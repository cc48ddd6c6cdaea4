"""The record of the last pass through all stacks of an attachment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.trace import Trace
from ..engine.causal.record import CausalRecord, Pieces
from ..engine.record import Record, SiteTokens, spread, sum_by_name
from ..errors import UnsupportedCallError


class LastPass:
    """What the last forward pass did: ``handle.last``.

    Where several stacks are reduced, ``tokens``, ``gates`` and ``trace`` are those of each:
    ``handle.last.stacks["vision"].tokens``.

    Attributes:
        stacks: the record of each stack; the stacks of one language model share theirs. Where only the vision tower in
            front of one is reduced, ``"handover"`` has that of the language model.
    """

    def __init__(self, stacks: Mapping[str, Record | CausalRecord]) -> None:
        self.stacks = dict(stacks)

    @property
    def records(self) -> list[Record | CausalRecord]:
        """The records, each once."""
        return list({id(record): record for record in self.stacks.values()}.values())

    @property
    def sites(self) -> list[SiteTokens]:
        """Tokens of each stream before and after each site."""
        return [row for record in self.records for row in record.sites]

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of the blocks for one sample, without and with reduction; the reducer's own work left out.

        The mean over the samples where they keep different numbers of tokens, each counted by its own. A vision tower
        in front of a language model counts for each picture of a sample.
        """
        pairs = [(record.macs, self._pictures(record)) for record in self.records]
        return round(sum(pair[0] * n for pair, n in pairs)), round(sum(pair[1] * n for pair, n in pairs))

    def _pictures(self, record: Record | CausalRecord) -> float:
        """How many samples of this record make up one sample of the model."""
        if isinstance(record, CausalRecord):
            return 1
        return next((one.pictures for one in self.records if isinstance(one, CausalRecord)), 1)

    @property
    def macs_spread(self) -> float:
        """Standard deviation over the samples of the second of :attr:`macs`; 0 where all keep as many tokens."""
        total = [record.macs_of_samples for record in self.records]
        if any(isinstance(record, CausalRecord) for record in self.records):  # pictures are not samples
            return max(spread(one) for one in total)
        return spread(sum(total[1:], start=total[0]))

    @property
    def losses(self) -> dict[str, Tensor]:
        """What the reducers added to the training loss, with gradients, summed by name; empty in evaluation.

        Add their sum to the loss of the task. Where a model runs a stack several times in one call, these are of the
        last run.
        """
        return sum_by_name(record.losses for record in self.records)

    @property
    def tokens(self) -> dict[str, int | float]:
        """Tokens of each stream after the last block; the mean over the samples where they keep different numbers."""
        tokens: dict[str, int | float] = self._only("tokens")
        return dict(tokens)

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the samples of the tokens of each stream; 0 where all keep the same number."""
        spread: dict[str, float] = self._only("spread")
        return dict(spread)

    @property
    def counts(self) -> dict[str, int | Tensor]:
        """As :attr:`tokens`, with (B,) the number of each sample where they keep different numbers."""
        counts: dict[str, int | Tensor] = self._only("counts")
        return dict(counts)

    @property
    def mean_counts(self) -> dict[str, float | Tensor]:
        """Tokens of each stream that a site leaves, the mean over the sites; (B,) as :attr:`counts` has them."""
        counts: dict[str, float | Tensor] = self._only("mean_counts")
        return dict(counts)

    @property
    def gates(self) -> dict[str, Tensor]:
        """(B, n) how much each token of a stream counted at the end, from 0 to 1, without gradient.

        Only of streams with a :class:`tokenreduce.methods.Gate`, so {} in evaluation. For losses on the tokens
        that were kept.
        """
        gates: dict[str, Tensor] = self._only("gates")
        return dict(gates)

    @property
    def heads(self) -> dict[tuple[int, bool], Tensor]:
        """(B, H) how much each head counted, by block and whether it is of its cross-attention, without gradient.

        Only of attentions whose heads a reducer has masked (``Streams.mask_heads``).
        """
        heads: dict[tuple[int, bool], Tensor] = self._only("heads")
        return dict(heads)

    @property
    def trace(self) -> Trace | None:
        """For each final token the input tokens that it stands for; None if attached without ``trace=True``."""
        trace: Trace | None = self._only("trace")
        return trace

    @property
    def initial(self) -> dict[str, Any]:
        """Tokens of each stream before the first block."""
        initial: dict[str, Any] = self._only("initial")
        return dict(initial)

    @property
    def image_tokens(self) -> list[float]:
        """Image tokens that each layer of a language model works on, the mean over samples."""
        tokens: list[float] = self._language("image_tokens")
        return list(tokens)

    @property
    def mean_image_tokens(self) -> float:
        """Their mean over the layers, as papers state a budget."""
        mean: float = self._language("mean_image_tokens")
        return mean

    @property
    def kv_bytes(self) -> tuple[int, int] | None:
        """Bytes of a language model's keys and values for one sample, with every token and as held; None: no cache."""
        sizes: tuple[int, int] | None = self._language("kv_bytes")
        return sizes

    @property
    def pieces(self) -> Pieces | None:
        """Counts by image and by tile, where a language model's images are of several tiles; None elsewhere."""
        pieces: Pieces | None = self._language("pieces")
        return pieces

    def _language(self, name: str) -> Any:
        """Of the language model's record, which alone has it."""
        record = next((one for one in self.records if isinstance(one, CausalRecord)), None)
        return self._only(name) if record is None else getattr(record, name)

    def _only(self, name: str) -> Any:
        if len(self.records) > 1:
            raise UnsupportedCallError(
                f"several stacks are reduced ({', '.join(self.stacks)}); name one: "
                f"handle.last.stacks[{next(iter(self.stacks))!r}].{name}"
            )
        return getattr(self.records[0], name)
