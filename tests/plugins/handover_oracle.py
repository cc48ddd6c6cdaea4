"""Hand-over methods for one image, by plain loops, as their published code chooses. Axes: N tokens, C width."""

import torch
from torch.nn import functional as F


def cosines(x):
    unit = F.normalize(x.double(), dim=-1)
    return (unit @ unit.T).fill_diagonal_(1)


def divprune(x, keep):
    """Max-min over 1 - cosine; the first is farthest from its nearest other token."""
    distance = 1 - cosines(x)
    nearest = distance.sort(dim=0).values[1]
    chosen = [int(nearest.argmax())]
    while len(chosen) < keep:
        least = distance[chosen].amin(dim=0)
        least[chosen] = -1
        chosen.append(int(least.argmax()))
    return chosen


def cdpruner(x, keep, cosine=None):
    """Greedy determinants of the kernel, computed as determinants; ``cosine`` (N, Q) with the texts."""
    kernel = cosines(x)
    if cosine is not None:
        score = -cosine.double().mean(dim=-1)
        relevance = (score - score.min() + 1e-6) / (score.max() - score.min())
        kernel = relevance[:, None] * kernel * relevance
    chosen = []
    while len(chosen) < keep:
        best, index = -1.0, -1
        for j in range(len(x)):
            if j not in chosen:
                part = [*chosen, j]
                volume = float(torch.linalg.det(kernel[part][:, part]))
                if volume > best:
                    best, index = volume, j
        chosen.append(index)
    return chosen


def vispruner(x, attention, keep, important):
    """Important tokens, then the rest thinned out, eight at most in a round; no ties."""
    cosine, order = cosines(x), attention.argsort(descending=True).tolist()
    first = int(keep * important)
    chosen, rest, wanted = order[:first], order[first:], keep - first
    while len(rest) > wanted and wanted:
        even, odd = rest[::2], rest[1::2]
        gone = min(8, len(rest) - wanted, len(even))
        alike = sorted(even, key=lambda i: -float(max(cosine[i, j] for j in odd)))
        rest = alike[gone:] + odd
    return chosen + (rest if wanted else [])


def scope(x, attention, keep, alpha=1.0):
    """What each adds to the coverage, times its attention."""
    cosine, covered, chosen = cosines(x), torch.zeros(len(x), dtype=torch.float64), []
    while len(chosen) < keep:
        gains = [
            -1.0
            if j in chosen
            else float(sum(max(float(c) - float(v), 0.0) for c, v in zip(cosine[j], covered, strict=True)))
            * float(attention[j]) ** alpha
            for j in range(len(x))
        ]
        chosen.append(max(range(len(x)), key=lambda j: (gains[j], -j)))
        covered = torch.maximum(covered, cosine[chosen[-1]])
    return chosen


def visionzip(x, attention, keys, dominant, contextual):
    """Dominant tokens in order, then contextual ones: each its target plus the mean of its members."""
    first = sorted(attention.argsort(descending=True)[:dominant].tolist())
    rest = [i for i in range(len(x)) if i not in first]
    step = max(1, len(rest) // contextual) if contextual else 1
    targets = rest[::step][:contextual]
    members = {t: [] for t in targets}
    cosine = cosines(keys)
    for i in rest:
        if targets and i not in members:
            members[max(targets, key=lambda t: (float(cosine[i, t]), -t))].append(i)
    merged = [x[t] + (x[own].mean(dim=0) if own else 0) for t, own in members.items()]
    return torch.stack([*(x[i] for i in first), *merged])


def pooling(x, rows, columns, side):
    """Means over square cells."""
    grid = x.T.reshape(1, -1, rows, columns)
    return F.avg_pool2d(grid, side)[0].flatten(1).T
