"""How long a batch is whose samples keep different numbers of tokens. Axes: B batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .._torch import traced


def batch_length(counts: Tensor, cap: int, bucket: int | None = None) -> tuple[Tensor | None, int]:
    """The counts (B,), None where all samples keep as many as the batch is long; and that length.

    The length is known on the host. It is the greatest of the counts, rounded up to a multiple of ``bucket``, for which
    the host waits for the device once. It is ``cap``, without waiting, where ``bucket`` is at least that, and where the
    pass is compiled, exported or traced: shapes are static then.

    Args:
        counts: at most ``cap`` each.
    """
    if (bucket is not None and bucket >= cap) or traced(counts):
        return counts, cap
    least, most = torch.stack([counts.min(), counts.max()]).tolist()
    if bucket is not None:
        most = min(-(-most // bucket) * bucket, cap)
    return (None if least == most else counts), most
