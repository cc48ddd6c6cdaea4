"""What happens to the tokens of one sequence, as pure tensors.

Axes: B batch, N tokens before, K tokens after, R folded tokens, C width.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from .._torch import plain_size
from ..errors import OptionError, UnsupportedCallError
from ..ops.rows import add_rows, take_rows


class Reduction:
    """Which tokens are kept, in which order, and which fold into which.

    Output token k starts as input token ``keep[b, k]`` (or as zero where that is -1: a new token). Input
    token ``source[b, r]`` is then folded into output token ``target[b, r]`` (or dropped where that is -1).
    Tokens that appear in neither are dropped. Applying costs O(K + R).

    Samples may keep different numbers of tokens: then K is the most that any of them keeps, and ``valid`` tells which
    output positions stand for a token. The others only fill up a sample. Their ``keep`` points at any token, their
    features do not matter, their size is 0, and no ``target`` may point at them.

    Args:
        keep: (B, K) input index of each output token, in output order; -1 starts a new token at zero.
        source: (B, R) input index of each folded token, or None.
        target: (B, R) output position each source folds into; -1 drops it.
        length: N, the number of input tokens.
        keep_weight: (B, K) weight of each kept token, None for 1.
        weight: (B, R) weight of each folded token, None for 1.
        size: (B, N) in place of both: how many input tokens each token stands for (:meth:`Tokens.sizes`). The mean
            weighted by them is then the mean over input tokens.
        mean: divide each output by the sum of its weights (weighted mean); otherwise a weighted sum.
        fresh: number of new tokens at most (-1 in a row of ``keep``), known on the host.
        appended: whether they are so many in every sample, and the last ones, known on the host.
        partial: whether ``target`` may hold -1, known on the host; None if nobody knows, which costs a few more steps.
        valid: (B, K) bool, False where an output position stands for no token; None where all stand for one.
        values: (B, K, C) features that the method has made itself, None for none: at the hand-over to a language model,
            of tokens merged in front of the projector.
        given: (B, K) bool, which output tokens have them; needed with ``values``.
        rest: (B, N - K) the tokens that are dropped, where whoever made it has them at hand; None elsewhere.
    """

    def __init__(
        self,
        keep: Tensor,
        source: Tensor | None = None,
        target: Tensor | None = None,
        *,
        length: int,
        keep_weight: Tensor | None = None,
        weight: Tensor | None = None,
        size: Tensor | None = None,
        mean: bool = True,
        fresh: int = 0,
        appended: bool = False,
        partial: bool | None = None,
        valid: Tensor | None = None,
        values: Tensor | None = None,
        given: Tensor | None = None,
        rest: Tensor | None = None,
    ) -> None:
        if source is not None and source.shape[1] == 0:
            source = target = weight = None
        self.keep, self.source, self.target, self.length = keep, source, target, length
        self._keep_weight, self._weight, self.size, self.mean = keep_weight, weight, size, mean
        self.fresh, self.appended = fresh, appended
        self.partial = False if source is None and partial is None else partial
        self.valid = valid
        self.values, self.given, self.rest = values, given, rest
        self._total: Tensor | None = None

    @classmethod
    def identity(cls, batch: int, length: int, device: torch.device | None = None) -> Reduction:
        """Every token stays."""
        return cls(torch.arange(length, device=device).expand(batch, -1), length=length)

    @property
    def count(self) -> int:
        """K, the number of output tokens."""
        return plain_size(self.keep.shape[1])

    @property
    def drops(self) -> bool:
        """Whether any token is (or may be) dropped rather than kept or folded; known on the host."""
        folded = 0 if self.source is None else plain_size(self.source.shape[1])
        return bool(self.partial) or self.valid is not None or self.count - self.fresh + folded < self.length

    def counts(self) -> Tensor:
        """(B,) number of tokens that each sample has afterwards."""
        if self.valid is None:
            return torch.full(self.keep.shape[:1], self.count, device=self.keep.device)
        return self.valid.sum(dim=1)

    @property
    def keep_weight(self) -> Tensor | None:
        """(B, K) weight of each kept token, None for 1."""
        if self._keep_weight is None and self.size is not None:
            self._keep_weight = self.size.gather(1, self._from())
        return self._keep_weight

    @keep_weight.setter
    def keep_weight(self, value: Tensor | None) -> None:
        self._keep_weight, self._total = value, None

    @property
    def weight(self) -> Tensor | None:
        """(B, R) weight of each folded token, None for 1."""
        if self._weight is None and self.size is not None and self.source is not None:
            self._weight = self.size.gather(1, self.source)
        return self._weight

    @weight.setter
    def weight(self, value: Tensor | None) -> None:
        self._weight, self._total = value, None

    @property
    def even(self) -> bool:
        """Whether every output token is the plain mean of its members; known on the host."""
        weighs = self._keep_weight is not None or self._weight is not None or self.size is not None
        return self.mean and not weighs and not self.fresh

    @property
    def selects(self) -> bool:
        """Whether it only picks tokens, which stay as they are; known on the host."""
        return self.source is None and self.even

    def coefficients(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
        """Share of each kept (B, K) and folded (B, R) token in its output token; folds that drop have 0.

        So does what only fills up a sample.
        """
        kept, folded = self._kept_weights(dtype), self._folded_weights(dtype)
        if folded is None:
            return (self._blanked(torch.ones_like(kept)) if self.mean else kept), None
        if not self.mean:
            return kept, folded
        total = self._totals(kept, folded)
        return kept / total, folded / total.gather(1, self._into())

    def _kept_weights(self, dtype: torch.dtype) -> Tensor:
        """(B, K) weight of each kept token, 0 where there is none."""
        given = self.keep_weight
        return self._blanked(self.keep.new_ones(self.keep.shape, dtype=dtype) if given is None else given.to(dtype))

    def _folded_weights(self, dtype: torch.dtype) -> Tensor | None:
        """(B, R) weight of each folded token, 0 where it is dropped; None without folds."""
        if self.source is None or self.target is None:
            return None
        given = self.weight
        folded = torch.ones_like(self.source, dtype=dtype) if given is None else given.to(dtype)
        return folded if self.partial is False else folded * (self.target >= 0)

    def _totals(self, kept: Tensor, folded: Tensor) -> Tensor:
        """(B, K) what the weights of each output token sum to; more than 0 for an output of padding alone."""
        total = kept.scatter_add(1, self._into(), folded)
        if self.size is not None:
            self._total = total
            return total.clamp(min=torch.finfo(total.dtype).tiny)
        sums_ones = self._keep_weight is None and self._weight is None and not self._blank
        return total if sums_ones else torch.where(total > 0, total, torch.ones_like(total))

    def apply(self, x: Tensor) -> Tensor:
        """Features (B, N, C) to (B, K, C)."""
        folded = self._fold(x)
        if self.values is None or self.given is None:
            return folded
        return torch.where(self.given.unsqueeze(-1), self.values.to(folded.dtype), folded)

    def _fold(self, x: Tensor) -> Tensor:
        if self.selects:
            return take_rows(x, self.keep)
        dtype = wide(x.dtype)
        if self.source is None or self.target is None:
            return take_rows(x, self._from()) * self.coefficients(dtype)[0].to(x.dtype).unsqueeze(-1)
        moved, into, folded = take_rows(x, self.source), self._into(), self._folded_weights(dtype)
        assert folded is not None
        if not self._blank and (self.even or (self.mean and self.size is not None)):
            kept = take_rows(x, self.keep)
            share = folded / self._totals(self._kept_weights(dtype), folded).gather(1, into)
            # what nothing is folded into keeps its very value
            return add_rows(kept, into, (moved - take_rows(kept, into)) * share.to(x.dtype).unsqueeze(-1))
        if self.mean or self._keep_weight is not None or self.size is not None:
            own, folded = self.coefficients(dtype)
            assert folded is not None
            kept = take_rows(x, self._from()) * own.to(x.dtype).unsqueeze(-1)
        elif self.appended and self.valid is None:
            kept = F.pad(take_rows(x, self.keep[:, : -self.fresh]), (0, 0, 0, self.fresh))
        else:
            kept = take_rows(x, self._from())
            kept = kept * self._own().unsqueeze(-1) if self._blank else kept
        return add_rows(kept, into, moved * folded.to(x.dtype).unsqueeze(-1))

    def on(self, device: torch.device) -> Reduction:
        """The same on a device; itself where it is there already."""
        if self.keep.device == device:
            return self
        moved = copy(self)
        for name, side in vars(self).items():
            if isinstance(side, Tensor):
                setattr(moved, name, side.to(device))
        return moved

    def detach(self) -> Reduction:
        """The same for other features of the tokens, with weights that pass no gradient."""
        return Reduction(
            self.keep,
            self.source,
            self.target,
            length=self.length,
            keep_weight=None if self._keep_weight is None else self._keep_weight.detach(),
            weight=None if self._weight is None else self._weight.detach(),
            size=self.size,
            mean=self.mean,
            fresh=self.fresh,
            appended=self.appended,
            partial=self.partial,
            valid=self.valid,
        )

    @property
    def _blank(self) -> bool:
        """Whether an output position may begin as no input token; known on the host."""
        return self.fresh > 0 or self.valid is not None

    def _own(self) -> Tensor:
        """(B, K) whether an output position begins as an input token: it is not new, and does not only fill up."""
        return self.keep >= 0 if self.valid is None else (self.keep >= 0) & self.valid

    def _blanked(self, kept: Tensor) -> Tensor:
        """Numbers (B, K) with 0 where an output position begins as no input token."""
        return kept * self._own() if self._blank else kept

    def _from(self) -> Tensor:
        """(B, K) ``keep``, any token in place of a new one."""
        return self.keep.clamp(min=0) if self.fresh else self.keep

    def _into(self) -> Tensor:
        """(B, R) ``target``, any token in place of none."""
        assert self.target is not None
        return self.target if self.partial is False else self.target.clamp(min=0)

    def add_up(self, size: Tensor) -> Tensor:
        """Sizes (B, N) to (B, K): each output token has the sum of the sizes of its members, 0 without any."""
        if size is self.size and self._total is not None and self._total.dtype == size.dtype:
            return self._total
        total = self._blanked(size.gather(1, self._from()))
        if self.source is None or self.target is None:
            return total
        moved = size.gather(1, self.source)
        moved = moved if self.partial is False else moved * (self.target >= 0)
        return total.scatter_add(1, self._into(), moved)

    def take(self, side: Tensor) -> Tensor:
        """A per-token side tensor (B, N, ...) to (B, K, ...): the kept token's; a new token has the first one's."""
        return take_rows(side, self._from())

    def side(self, side: Tensor, fresh: float) -> Tensor:
        """As :meth:`take` for numbers (B, N), with ``fresh`` for new tokens, and 0 where there is no token."""
        taken = torch.where(self.keep >= 0, self.take(side), fresh) if self.fresh else self.take(side)
        return taken if self.valid is None else taken * self.valid

    def average(self, side: Tensor) -> Tensor:
        """A per-token side tensor (B, N, ...) to (B, K, ...): the mean of each output's members, by their weights."""
        if self.source is None and not self.fresh:
            return self.take(side)
        own, folded = self.coefficients(wide(side.dtype))
        mean = Reduction(
            self.keep,
            self.source,
            self.target,
            length=self.length,
            keep_weight=own,
            weight=folded,
            fresh=self.fresh,
            partial=self.partial,
            valid=self.valid,
        )
        return mean.apply(side.flatten(2) if side.ndim > 2 else side.unsqueeze(-1)).view(
            side.shape[0], self.count, *side.shape[2:]
        )

    def assignment(self) -> Tensor:
        """(B, N): the output position each input token ends in, -1 where it is dropped."""
        batch = self.keep.shape[0]
        end = self.keep.new_full((batch, self.length + 1), -1)  # the last column swallows what is no input token
        position = torch.arange(self.count, device=self.keep.device).expand(batch, -1)
        end = end.scatter(1, torch.where(self._own(), self.keep, self.length), position)
        if self.source is not None and self.target is not None:
            folds = torch.where(self.target >= 0, self.source, self.length)
            end = end.scatter(1, folds, self.target)
        return end[:, : self.length]

    def restore(self, y: Tensor, before: Tensor | None = None) -> Tensor:
        """(B, K, C) back to (B, N, C): each input token gets its output's value, a dropped one ``before``'s or 0."""
        return spread(y, self.assignment(), before)

    def then(self, later: Reduction) -> Reduction:
        """One reduction that does this one and then ``later``."""
        if later.length != self.count:
            raise OptionError(f"the later reduction must take {self.count} tokens, it takes {later.length}")
        self.check_folds_only()
        keep = self.keep.gather(1, later._from())
        if later.fresh:
            keep = torch.where(later.keep >= 0, keep, -1)
        valid, later_target = self._valid_after(later), later.target
        if self.valid is not None and later.source is not None and later_target is not None:
            later_target = torch.where(self.valid.gather(1, later.source), later_target, -1)
        if self.selects:
            source = None if later.source is None else self.keep.gather(1, later.source)
            return Reduction(
                keep,
                source,
                later_target,
                length=self.length,
                keep_weight=later.keep_weight,
                weight=later.weight,
                mean=later.mean,
                fresh=later.fresh,
                partial=True if self.valid is not None else later.partial,
                valid=valid,
                values=later.values,
                given=later.given,
            )
        dtype = torch.float64 if torch.float64 in self._dtypes() | later._dtypes() else torch.float32
        own, folded = self.coefficients(dtype)
        later_own, later_folded = later.coefficients(dtype)
        base = own.gather(1, later._from()) * later_own
        sources, targets, weights = [], [], []
        end, share = later.assignment(), torch.zeros_like(own)  # where each middle token ends, with which share
        share = share.scatter_add(1, later._from(), later_own.to(share.dtype))
        if later.source is not None and later_target is not None and later_folded is not None:
            share = share.scatter_add(1, later.source, later_folded.to(share.dtype))
            middle = self.keep.gather(1, later.source)
            sources.append(middle.clamp(min=0))
            targets.append(torch.where(middle >= 0, later_target, -1))
            weights.append(later_folded * own.gather(1, later.source))
        if self.source is not None and self.target is not None and folded is not None:
            middle = self._into()
            into = end.gather(1, middle)
            sources.append(self.source)
            targets.append(into if self.partial is False else torch.where(self.target >= 0, into, -1))
            weights.append(folded * share.gather(1, middle))
        return Reduction(
            keep,
            torch.cat(sources, 1) if sources else None,
            torch.cat(targets, 1) if targets else None,
            length=self.length,
            keep_weight=base,
            weight=torch.cat(weights, 1) if weights else None,
            mean=False,
            fresh=self.fresh + later.fresh,
            partial=self.fresh > 0 or later.drops or self.valid is not None or any_partial(self, later),
            valid=valid,
            values=later.values,
            given=later.given,
        )

    def check_folds_only(self) -> None:
        """Raise UnsupportedCallError where some features are the method's own, which no further reduction can fold."""
        if self.values is not None:
            raise UnsupportedCallError(
                "a method that makes features of tokens itself (values of a Reduction) acts last at a place; let it be "
                "the last part of the chain, or act at another place"
            )

    def _valid_after(self, later: Reduction) -> Tensor | None:
        """(B, K) which positions stand for a token after this reduction and a later one; None for all."""
        if self.valid is None:
            return later.valid
        kept = self.valid.gather(1, later.keep.clamp(min=0)) | (later.keep < 0)
        return kept if later.valid is None else kept & later.valid

    def _dtypes(self) -> set[torch.dtype]:
        given = (self._keep_weight, self._weight, self.size)
        return {weight.dtype for weight in given if weight is not None}


def any_partial(*parts: Reduction) -> bool | None:
    """Whether the target of any of them may hold -1; None if nobody knows."""
    if any(part.partial for part in parts):
        return True
    return None if any(part.partial is None for part in parts) else False


def spread(y: Tensor, assignment: Tensor, before: Tensor | None = None) -> Tensor:
    """Copy tokens (B, K, C) back along an assignment (B, N); places of -1 take ``before`` (B, N, C), or 0."""
    out = take_rows(y, assignment.clamp(min=0))
    gone = (assignment < 0).unsqueeze(-1)
    return torch.where(gone, torch.zeros_like(out) if before is None else before, out)


def compose_assignments(first: Tensor, later: Tensor) -> Tensor:
    """Compose two assignments (B, N) and (B, K) into one (B, N)."""
    return torch.where(first >= 0, later.gather(1, first.clamp(min=0)), -1)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that shares of tokens are computed in: float32, float64 for float64 tokens."""
    return torch.float64 if dtype == torch.float64 else torch.float32
