"""Reductions of the streams of a sequence as one reduction of it. Axes: B batch, N tokens, K kept, R folded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..backbones.layout import Layout, Segment
from .reduction import Reduction, any_partial, wide


def combine(
    layout: Layout,
    chosen: Mapping[str, Reduction],
    batch: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[Reduction, Layout]:
    """What is done to a sequence, and its layout afterwards.

    Args:
        layout: of the sequence now.
        chosen: reductions by stream, those left out stay whole; or one of the whole sequence, under its name.
        dtype: of the tokens.
    """
    if layout.name in chosen:
        whole = chosen[layout.name]
        if len(layout.streams) == 1:
            return whole, Layout([Segment(layout.name, whole.count, layout.prefix(layout.name))])
        kinds = whole.take(layout.all_kinds(batch, device))
        segments = [Segment(layout.streams[0], whole.count, layout.prefix(layout.name))]
        segments += [Segment(name, 0) for name in layout.streams[1:]]
        return whole, Layout(segments, kinds)
    lengths = layout.lengths
    parts = {name: chosen.get(name) or Reduction.identity(batch, n, device) for name, n in lengths.items()}
    if layout.kinds is None and len(layout.segments) == len(layout.streams):
        left = [Segment(name, part.count, layout.prefix(name)) for name, part in parts.items()]
        return join(list(parts.values()), dtype), Layout(left)
    return interleave(layout, parts, batch, device, dtype)


def join(parts: list[Reduction], dtype: torch.dtype = torch.float32) -> Reduction:
    """Reductions of segments that stand side by side, as one reduction of the whole sequence.

    Args:
        parts: in sequence order.
        dtype: least of the shares: float64 for float64 tokens.
    """
    if len(parts) == 1:
        return parts[0]
    dtype = torch.float64 if any(torch.float64 in part._dtypes() for part in parts) else wide(dtype)
    for part in parts:
        part.check_folds_only()
    even = all(part.even for part in parts)
    shift_in = shift_out = 0
    keeps, sources, targets, owns, folds = [], [], [], [], []
    for part in parts:
        moved = part.keep + shift_in if shift_in else part.keep
        keeps.append(torch.where(part.keep >= 0, moved, -1) if part.fresh and shift_in else moved)
        if part.source is not None and part.target is not None:
            sources.append(part.source + shift_in if shift_in else part.source)
            into = part.target + shift_out if shift_out else part.target
            targets.append(torch.where(part.target >= 0, into, -1) if part.partial is not False and shift_out else into)
        if not even:
            own, folded = part.coefficients(dtype)
            owns.append(own)
            folds += [] if folded is None else [folded]
        shift_in, shift_out = shift_in + part.length, shift_out + part.count
    return Reduction(
        torch.cat(keeps, 1),
        torch.cat(sources, 1) if sources else None,
        torch.cat(targets, 1) if targets else None,
        length=shift_in,
        keep_weight=None if even else torch.cat(owns, 1),
        weight=torch.cat(folds, 1) if folds else None,
        mean=even,
        fresh=sum(part.fresh for part in parts),
        partial=any_partial(*parts),
        valid=_valid(parts),
    )


def interleave(
    layout: Layout,
    parts: Mapping[str, Reduction],
    batch: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[Reduction, Layout]:
    """Reductions of streams that alternate in a sequence: what is left stays in sequence order.

    A new token takes the position of the last token of its stream, and so does what only fills up a sample.
    """
    keeps, owns, sources, targets, folds, kinds, places = [], [], [], [], [], [], []
    shift = 0
    for number, name in enumerate(layout.streams):
        part, columns = parts[name], layout.columns(name, device)
        part.check_folds_only()
        if isinstance(columns, slice):
            columns = torch.arange(columns.start, columns.stop, device=device)[None]
        columns = columns.expand(batch, -1)
        own, folded = part.coefficients(wide(dtype))
        place = columns.gather(1, part._from())
        keeps.append(torch.where(part.keep >= 0, place, -1) if part.fresh else place)
        places.append(torch.where(part._own(), 2 * place, 2 * columns[:, -1:] + 1))
        owns.append(own)
        kinds.append(torch.full_like(part.keep, number))
        if part.source is not None and part.target is not None and folded is not None:
            sources.append(columns.gather(1, part.source))
            targets.append(torch.where(part.target >= 0, part.target + shift, -1))
            folds.append(folded)
        shift += part.count
    order = torch.cat(places, 1).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    target = None
    if targets:
        joined = torch.cat(targets, 1)
        target = torch.where(joined >= 0, rank.gather(1, joined.clamp(min=0)), -1)
    selects = all(part.selects for part in parts.values())
    valid = _valid(list(parts.values()))
    whole = Reduction(
        torch.cat(keeps, 1).gather(1, order),
        torch.cat(sources, 1) if sources else None,
        target,
        length=layout.length,
        keep_weight=None if selects else torch.cat(owns, 1).gather(1, order),
        weight=torch.cat(folds, 1) if folds else None,
        mean=selects,
        fresh=sum(part.fresh for part in parts.values()),
        partial=any_partial(*parts.values()),
        valid=None if valid is None else valid.gather(1, order),
    )
    counts = {name: part.count for name, part in parts.items()}
    segments = [Segment(name, counts[name], layout.prefix(name)) for name in layout.streams]
    return whole, Layout(segments, torch.cat(kinds, 1).gather(1, order), counts)


def _valid(parts: list[Reduction]) -> Tensor | None:
    """(B, K) which positions of several reductions, side by side, stand for a token; None for all."""
    if all(part.valid is None for part in parts):
        return None
    return torch.cat([_all(part) if part.valid is None else part.valid for part in parts], dim=1)


def _all(part: Reduction) -> Tensor:
    return torch.ones_like(part.keep, dtype=torch.bool)


def take_columns(side: Tensor, columns: slice | Tensor) -> Tensor:
    """A per-token tensor (B, N, ...) for the tokens at ``columns`` (see :meth:`Layout.columns`): (B, n, ...)."""
    if isinstance(columns, slice):
        return side[:, columns]
    index = columns.expand(side.shape[0], -1)
    return side.gather(1, index.view(*index.shape, *[1] * (side.ndim - 2)).expand(-1, -1, *side.shape[2:]))
