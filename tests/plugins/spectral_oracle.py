"""FoPru, leverage scores and energy ranks in numpy, token by token, and files of them as reference data has them."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

SHARES = (0.8, 0.9, 0.95, 0.99)


def significance(attention):
    """(N,) of a map (H, N, N): what a patch is paid or pays, whichever varies more."""
    mean = np.asarray(attention, dtype=np.float64).mean(axis=0)
    received, paid = mean.mean(axis=0), mean.mean(axis=1)
    return received if received.var(ddof=1) > paid.var(ddof=1) else paid


def rank(attention, keep):
    score = significance(attention)
    return sorted(np.argsort(-score, kind="stable")[:keep].tolist())


def rows(attention, count):
    score = significance(attention)
    side = int(len(score) ** 0.5)
    best = np.argsort(-score.reshape(side, side).sum(axis=1), kind="stable")[:count]
    return sorted(row * side + column for row in best.tolist() for column in range(side))


def spectrum(x, centre):
    x = np.asarray(x, dtype=np.float64)
    return np.linalg.svd(x - x.mean(axis=0) if centre else x, full_matrices=False)


def ranks(values, share):
    for count in range(1, len(values) + 1):
        if values[:count].sum() >= share * values.sum():
            return count
    return len(values)


def leverage(x, share=0.9, centre=False):
    u, s, _ = spectrum(x, centre)
    count = ranks(s**2, share)
    return (u[:, :count] ** 2).sum(axis=1) / count


def energy_rank(x, share, centre=False, power=2):
    return ranks(spectrum(x, centre)[1] ** power, share)


def low_rank(generator, batch, tokens, width, directions):
    """(B, N, C) tokens along a few directions, and noise."""
    strong = torch.randn(batch, tokens, directions, generator=generator)
    x = strong @ torch.randn(batch, directions, width, generator=generator)
    return x + 0.3 * torch.randn(batch, tokens, width, generator=generator)


def write(folder, name, tensors, params, meaning=""):
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"params": params, "meaning": meaning}))


def write_maps(folder, name, side, keep, count, heads=3, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = side * side
    maps = (2 * torch.randn(batch, heads, n, n + 1, generator=generator)).softmax(dim=-1)[..., 1:]
    tensors = {
        "attention_patches": maps,
        "tokens": torch.randn(batch, n, 4, generator=generator),
        "out_rank_idx": torch.tensor([rank(one, keep) for one in maps.numpy()]),
        "out_row_idx": torch.tensor([rows(one, count) for one in maps.numpy()]),
    }
    params = {"rank: n_output_tokens": keep, "row: ratio": count / side, "row: rows kept": count}
    write(folder, name, tensors, params)


def write_logits(folder, name, side, keep, count, heads=2, batch=3, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = side * side
    query, key = (torch.randn(batch, heads, n, width, generator=generator) for _ in range(2))
    query = query + torch.arange(batch).view(-1, 1, 1, 1) * 0.4
    maps = (query.double() @ key.double().transpose(-1, -2) / width**0.5).numpy()
    tensors = {
        "query": query,
        "key": key,
        "tokens": torch.randn(batch, n, 4, generator=generator),
        "out_rank_idx": torch.tensor([rank(one, keep) for one in maps]),
        "out_row_idx": torch.tensor([rows(one, count) for one in maps]),
    }
    params = {"rank: n_output_tokens": keep, "row: ratio": count / side, "row: rows kept": count}
    write(folder, name, tensors, params)


def write_spectra(folder, name, tokens, width, share=0.9, shares=SHARES, batch=2, seed=0):
    x = low_rank(torch.Generator().manual_seed(seed), batch, tokens, width, min(tokens, width) // 3)
    tensors = {"features": x}
    for label, centre in (("raw", False), ("centred", True)):
        scores = np.stack([leverage(one, share, centre) for one in x.numpy()])
        found = [[energy_rank(one, tau, centre) for one in x.numpy()] for tau in shares]
        tensors[f"leverage_{label}"] = torch.from_numpy(scores)
        tensors[f"order_{label}"] = torch.from_numpy(np.argsort(-scores, axis=1, kind="stable"))
        tensors[f"energy_rank_{label}"] = torch.tensor(found)
    meaning = f"energy_rank rows: tau={','.join(map(str, shares))}; columns: samples."
    write(folder, name, tensors, {"tau_for_leverage": share}, meaning)
