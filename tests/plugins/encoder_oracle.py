"""PiToMe, ToFu and DiffRate once more, slowly: written from the papers' formulas, nothing of the library used.

One sample at a time, in plain loops. The transformer around them is that of oracle.py, which is handed in as ``base``.

Axes: N tokens, C width, d head width.
"""

import math

import torch


def cosine(one, other):
    return float(one @ other / (one.norm() * other.norm()))


def merged(x, sizes, members, groups):
    """Each group of tokens as one: its size-weighted mean, its size, and the input tokens in it."""
    total = [sum(sizes[token] for token in group) for group in groups]
    means = [
        sum(x[token] * sizes[token] for token in group) / whole for group, whole in zip(groups, total, strict=True)
    ]
    return torch.stack(means), torch.stack(total), [[m for token in group for m in members[token]] for group in groups]


def energies(keys, margin, alpha):
    """Of each token, the mean of f(cosine) to all others."""
    found = []
    for one in range(len(keys)):
        total = 0.0
        for other in range(len(keys)):
            if other != one:
                c = cosine(keys[one], keys[other])
                total += c if c >= margin else alpha * (math.exp(c - margin) - 1)
        found.append(total / len(keys))
    return found


def pitome_groups(keys, remove, margin, alpha):
    """Groups of tokens in the order of their first members: mergeable tokens paired, the others alone."""
    energy = energies(keys, margin, alpha)
    order = sorted(range(len(keys)), key=lambda token: -energy[token])
    groups = {token: [token] for token in order[2 * remove :]} | {token: [token] for token in order[1 : 2 * remove : 2]}
    for token in order[: 2 * remove : 2]:
        into = max(order[1 : 2 * remove : 2], key=lambda other: cosine(keys[token], keys[other]))
        groups[into].append(token)
    return [groups[token] for token in sorted(groups)]


def vit_pitome(base, model, image, keep, margin=None, alpha=1.0, proportional=True):
    """PiToMe with a share of ``keep[layer]`` of the patches kept in each block."""
    prefix, depth = model.num_prefix_tokens, len(model.blocks)

    def reduce(layer, x, sizes, keys, attention, groups):
        free = len(x) - prefix
        remove = min(math.floor(round((1 - keep[layer]) * free, 9)), free // 2)
        if not remove:
            return x, sizes, groups
        level = 0.9 - 0.9 * layer / depth if margin is None else margin
        pairs = pitome_groups(keys[prefix:], remove, level, alpha)
        pairs = [[token] for token in range(prefix)] + [[prefix + token for token in pair] for pair in pairs]
        return merged(x, sizes, groups, pairs)

    return base.vit(model, image, reduce, proportional)


def vit_tofu(base, model, image, r, merge_from, preserve_norm=True, proportional=True):
    """ToFu with ``r[layer]`` tokens removed in each block; pairs merge from block ``merge_from`` on."""
    class_token = model.cls_token is not None

    def reduce(layer, x, sizes, keys, attention, groups):
        pairs = base.match(keys, r[layer], class_token)
        if layer < merge_from:
            first = [pair[0] for pair in pairs]
            return x[first], sizes[first], [groups[token] for token in first]
        out, size, members = merged(x, sizes, groups, pairs)
        if preserve_norm:
            longest = [max(float(x[token].norm()) for token in pair) for pair in pairs]
            out = torch.stack([mean / mean.norm() * length for mean, length in zip(out, longest, strict=True)])
        return out, size, members

    return base.vit(model, image, reduce, proportional)


def vit_diffrate(base, model, image, prune, merge, similarity="features", proportional=True):
    """DiffRate with ``prune[layer]`` and ``merge[layer]`` patches pruned and merged in each block."""
    prefix = model.num_prefix_tokens

    def reduce(layer, x, sizes, keys, attention, groups):
        if not prune[layer] and not merge[layer]:
            return x, sizes, groups
        score = attention[:, 0, prefix:].mean(dim=0)
        order = [prefix + token for token in base.falling(score)][: len(x) - prefix - prune[layer]]
        important, others = order[: len(order) - merge[layer]], order[len(order) - merge[layer] :]
        found = {token: [token] for token in [*range(prefix), *important]}
        metric = x if similarity == "features" else keys
        for token in others:
            found[max(important, key=lambda other: cosine(metric[token], metric[other]))].append(token)
        return merged(x, sizes, groups, list(found.values()))

    return base.vit(model, image, reduce, proportional)
