"""What the singular values and vectors of tokens say of them. Axes: B batch, N tokens, C width, R values.

All through the smaller of the two Gram matrices, X X^T or X^T X, so that no decomposition of X itself is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError
from .noise import hash_noise
from .similarity import at_least_float

ROUNDING = 1e-12  # share of a sum that is rounding, in float64
GRID = 2.0**40  # scores that differ by less than 1 / GRID are equal: duplicates differ by rounding only
OVERSAMPLE, ITERATIONS = 8, 2


@torch.no_grad()
def leverage(x: Tensor, energy: float = 0.9, *, centre: bool = False, real: Tensor | None = None) -> Tensor:
    """Leverage scores (B, N) of tokens: the share of each in the leading left singular vectors, summing to 1.

    ``(1 / r) * sum_{j <= r} U_tj ** 2`` with the smallest r that holds the share ``energy`` of the squared singular
    values. Where all tokens are zero, each has 1 / N. Equal tokens have equal scores.

    Args:
        x: (B, N, C).
        energy: in (0, 1].
        centre: subtract the mean token first.
        real: (B, N) False for padding, which scores 0.

    Returns:
        float64 (float32 where a device has none).
    """
    wide = prepared(x, centre, real)
    narrow = wide.shape[1] > wide.shape[2]
    gram = wide.transpose(1, 2) @ wide if narrow else wide @ wide.transpose(1, 2)
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
    rank = rank_of_share(values, energy)
    kept = torch.arange(values.shape[1], device=x.device) < rank[:, None]
    if narrow:
        vectors = wide @ (vectors * torch.where(kept & (values > 0), values, 1).rsqrt()[:, None])
    score = (vectors.square() * kept[:, None]).sum(dim=2) / rank.clamp(min=1)[:, None]
    even = torch.ones_like(score) if real is None else real.to(score)
    even = even / even.sum(dim=1, keepdim=True).clamp(min=1)
    score = torch.where((rank > 0)[:, None], score, even)
    return (score * GRID).round() / GRID if score.dtype == torch.float64 else score


@torch.no_grad()
def energies(x: Tensor, *, centre: bool = False, real: Tensor | None = None) -> Tensor:
    """Squared singular values (B, R) of tokens (B, N, C), falling; R is the smaller of N and C.

    Args:
        x, centre, real: as :func:`leverage` has them.
    """
    wide = prepared(x, centre, real)
    gram = wide @ wide.transpose(1, 2) if wide.shape[1] <= wide.shape[2] else wide.transpose(1, 2) @ wide
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.flip(-1).clamp(min=0)


@torch.no_grad()
def leading_energies(
    x: Tensor, count: int, *, seed: int = 0, centre: bool = False, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The ``count`` leading squared singular values (B, R) by a seeded random projection, and the sum of all (B,).

    The projection is the same for every sample and call, so no result depends on what else was computed. Where it
    would be no smaller than the tokens, the values are exact.

    Source: Halko, Martinsson and Tropp, Finding Structure with Randomness, SIAM Review 2011, algorithm 4.4, with 8
    columns more than asked for and 2 power iterations.

    Args:
        x, centre, real: as :func:`leverage` has them.
        count: R, at most the smaller of N and C; fewer are returned where there are fewer.
        seed: of the projection.
    """
    columns = count + OVERSAMPLE
    if columns >= min(x.shape[1:]):
        exact = energies(x, centre=centre, real=real)
        return exact[:, :count], exact.sum(dim=1)
    x = _centred(at_least_float(x), centre, real)
    noise = hash_noise(x.shape[2], columns, seed=seed, layer=0, device=x.device) + 2.0**-25
    start = torch.erfinv(2 * noise - 1).to(x.dtype)
    basis = torch.linalg.qr(x @ start).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(x.transpose(1, 2) @ basis).Q
        basis = torch.linalg.qr(x @ basis).Q
    small = _wide(basis.transpose(1, 2) @ x)
    found = torch.linalg.eigvalsh(small @ small.transpose(1, 2)).flip(-1).clamp(min=0)
    return found[:, :count], _wide(x).square().sum(dim=(1, 2))


def rank_of_share(values: Tensor, share: float, total: Tensor | None = None) -> Tensor:
    """(B,) least number of values (B, R), falling, that together reach a share of their sum; 0 where that is 0.

    Args:
        total: (B,) the sum, where there are more values than these; R where these do not reach the share.
    """
    summed = values.cumsum(dim=1)
    whole = summed[:, -1] if total is None else total
    slack = ROUNDING if values.dtype == torch.float64 else 1e-6
    reached = summed >= (share * whole * (1 - slack))[:, None]
    rank = torch.where(reached.any(dim=1), reached.int().argmax(dim=1) + 1, values.shape[1])
    return torch.where(whole > 0, rank, 0)


@torch.no_grad()
def energy_rank(x: Tensor, share: float, real: Tensor | None = None, *, centre: bool = False, power: int = 2) -> Tensor:
    """(B,) least number of singular directions of tokens (B, N, C) that hold a share of their energy.

    Args:
        x, centre, real: as :func:`leverage` has them.
        share: in (0, 1].
        power: of the singular values that are summed: 2 is energy.

    Raises:
        OptionError: another power than 1 or 2.
    """
    if power not in (1, 2):
        raise OptionError(f"power must be 1 or 2, got {power!r}")
    values = energies(x, centre=centre, real=real)
    return rank_of_share(values.sqrt() if power == 1 else values, share)


def prepared(x: Tensor, centre: bool = False, real: Tensor | None = None) -> Tensor:
    """Tokens in float64, padding as zeros, and the mean token subtracted where asked for."""
    return _centred(_wide(x), centre, real)


def _centred(x: Tensor, centre: bool, real: Tensor | None) -> Tensor:
    if real is not None:
        x = x * real.unsqueeze(-1)
    if centre:
        count = x.shape[1] if real is None else real.sum(dim=1).clamp(min=1)[:, None, None]
        x = x - x.sum(dim=1, keepdim=True) / count
        x = x if real is None else x * real.unsqueeze(-1)
    return x


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()
