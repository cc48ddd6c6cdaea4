"""What the methods inside a language model choose, by full matrices and loops; nothing of the library is used.

Every layer runs at full length, without a cache; what was dropped is hidden by the mask. Axes: n columns, H heads.
"""

import math
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from . import tinies
from .oracle import base_mask, cache_name, deepstack, entry, form, rotary


@dataclass
class Look:
    """What a chooser sees of one layer: its matrix (H, n, n), keys (G, n, d) with and without positions, final norm."""

    weights: torch.Tensor
    keys: torch.Tensor
    plain: torch.Tensor
    normed: torch.Tensor


def image_columns(tiny, inputs):
    """The columns of the prompt's only image, separators between its rows left out."""
    places = [i for i, token in enumerate(inputs["input_ids"][0].tolist()) if token == tinies.IMAGE]
    return [places[i] for i in tiny.columns(tiny.size)[0]]


def recompute(tiny, inputs, new, chooser, layers, *, ahead=False, compact=False, gone=(), start=None):
    """Logits of the new tokens, and what each layer works on: the choice is made anew from full matrices.

    Args:
        chooser: of a look, the image columns left and a stage: columns that stay, and the members of new tokens; a new
            token that stands for one that stays begins with it.
        layers: after which it acts.
        ahead: whether it looks at the layer to come.
        compact: positions are counted anew in every layer, new tokens come last.
        gone: image columns that never enter the first layer.
        start: what enters it (1, n, C), where that is not what the model makes of the prompt.
    """
    model = tiny.model
    with torch.no_grad():
        language, given = entry(model, inputs)
        start = given["inputs_embeds"] if start is None else start
        positions, mask = given["position_ids"], given.get("attention_mask")
        columns = start.shape[1]
        x = torch.cat([start, language.get_input_embeddings()(new[:, :-1])], dim=1)
        total = x.shape[1]
        later = torch.arange(1, total - columns + 1).view(*[1] * (positions.ndim - 1), -1)
        positions = torch.cat([positions, later + positions[..., -1:]], dim=-1)
        positions = positions[1:] if positions.ndim == 3 and positions.shape[0] == 4 else positions
        kinds = getattr(language.config, "layer_types", None) or ["full_attention"] * len(language.layers)
        scales, deep = getattr(language, "rope_types", None) or kinds, deepstack(given, total)
        image, ids = image_columns(tiny, inputs), inputs["input_ids"][0].tolist()
        text = [i for i in range(image[-1] + 1, columns) if ids[i] != tinies.IMAGE]
        alive, seen, stage = [column for column in image if column not in gone], [], 0
        state = {"embeddings": start[0], "image": list(alive), "text": text}

        def run(index, x, alive):
            hidden = set(image) - set(alive)
            visible = base_mask(mask, kinds[index], columns, total, language.config)
            at = positions
            if compact:
                here = torch.tensor([column not in hidden for column in range(total)])
                at = (here.cumsum(0) - 1).clamp(min=0)[None]
            for column in hidden:
                visible[:, column], visible[column, column] = False, True
            layer, turned = language.layers[index], rotary(language, x, at, scales[index])
            before = language.config._attn_implementation
            language.config._attn_implementation = "eager"
            found = []
            for positions_ in (turned, (torch.ones_like(turned[0]), torch.zeros_like(turned[1]))):
                cache = DynamicCache()
                weights = layer.self_attn(
                    hidden_states=layer.input_layernorm(x),
                    position_embeddings=positions_,
                    attention_mask=form(visible, language.config, x.dtype),
                    **{cache_name(model): cache},
                )[1]
                held = next(one for one in cache.layers if one.is_initialized).keys
                found.append((weights[0, :, :columns, :columns], held[0, :, :columns]))
            language.config._attn_implementation = before
            out = layer(
                x,
                attention_mask=form(visible, language.config, x.dtype),
                position_embeddings=turned,
                position_ids=None,
            )
            if index < len(deep):
                out = out + deep[index]
            (weights, keys), (_, plain) = found
            return out, Look(weights, keys, plain, language.norm(out)[0])

        def cut(look, x, alive, stage):
            kept, made = chooser(look, alive, stage, {**state, "x": x[0]})
            own = {members[0]: members for members in made if members[0] in kept}
            made = [members for members in made if members[0] not in kept]
            slots = sorted([*kept, *(max(members) for members in made)])
            deep[:] = [moved(side, kept, own, made, slots) for side in deep]
            return moved(x, kept, own, made, slots), slots

        def moved(x, kept, own, made, slots):
            values = {column: x[0, own.get(column, [column])].mean(dim=0) for column in kept}
            fresh = [x[0, members].mean(dim=0) for members in made]
            if compact:
                order = [*(values[column] for column in sorted(kept)), *fresh]
                values = dict(zip(slots, order, strict=True))
            else:
                values |= {max(members): value for members, value in zip(made, fresh, strict=True)}
            x = x.clone()
            for column, value in values.items():
                x[0, column] = value
            return x

        for index in range(len(language.layers)):
            out, look = run(index, x, alive)
            if ahead and index - 1 in layers:
                x, alive = cut(look, x, alive, stage)
                out, look = run(index, x, alive)
                stage += 1
            seen.append(set(alive) | (set(range(columns)) - set(image)))
            x = out
            if not ahead and index in layers:
                x, alive = cut(look, x, alive, stage)
                stage += 1
        return model.lm_head(language.norm(x))[:, columns - 1 :], seen


def by_part(chooser, parts):
    """A chooser that chooses in each part of the image columns by itself."""

    def choose(look, alive, stage, state):
        kept, made = [], []
        for part in parts:
            own = chooser(look, [column for column in alive if column in part], stage, {**state, "image": part})
            kept, made = kept + own[0], made + own[1]
        return kept, made

    return choose


def best(scores, count):
    """Keys of the highest scores."""
    return sorted(sorted(scores, key=lambda column: -scores[column])[:count])


def fastv(keep):
    def choose(look, alive, stage, state):
        row = look.weights.mean(dim=0)[-1]
        return best({column: float(row[column]) for column in alive}, math.ceil(keep * len(alive))), []

    return choose


def pyramiddrop(*shares):
    def choose(look, alive, stage, state):
        row = look.weights.mean(dim=0)[-1]
        count = math.ceil(shares[stage] * len(state["image"]))
        return best({column: float(row[column]) for column in alive}, count), []

    return choose


def dart(keep, pivots=4):
    def choose(look, alive, stage, state):
        length = look.keys.abs().sum(dim=(0, 2))
        own = sorted(alive, key=lambda column: -float(length[column]))[:pivots]
        words = sorted(state["text"], key=lambda column: -float(length[column]))[:pivots]
        chosen, rest = set(own), keep - len(own)
        for number, pivot in enumerate(own + words):
            count = rest // (2 * pivots) + (number < rest % (2 * pivots))
            free = [column for column in alive if column not in chosen]
            cosine = {c: float(torch.cosine_similarity(look.normed[pivot], look.normed[c], dim=0)) for c in free}
            chosen |= set(sorted(free, key=cosine.get)[:count])
        return sorted(chosen), []

    return choose


def sparsevlm(shares, recycle=0.3, heads=None, scale=None, bias=0.0):
    def choose(look, alive, stage, state):
        embeddings, text = state["embeddings"], state["text"]
        share = torch.stack([(embeddings[text] @ embeddings[v]).softmax(0) for v in state["image"]]).mean(0)
        raters = [column for column, one in zip(text, share, strict=True) if one > share.mean()]
        rows = look.weights[:, raters][:, :, alive]
        if heads is not None:
            order = rows.sum(dim=(1, 2)).argsort(descending=True)
            rows = rows[order[: round(heads * len(rows))]]
        score = dict(zip(alive, rows.mean(dim=(0, 1)).tolist(), strict=True))
        if scale is None:
            count = math.ceil(shares[stage] * len(state["image"]))
        else:
            count = int(int(torch.linalg.matrix_rank(rows.mean(dim=0))) * scale + bias)
        if count >= len(alive):
            return list(alive), []
        kept = best(score, count)
        gone = [column for column in alive if column not in kept]
        if not recycle:
            return kept, []
        recycled = best({column: score[column] for column in gone}, int(recycle * len(gone)) + 1)
        return kept, density_peaks(state["x"][recycled], recycled, int(len(recycled) / 10) + 1)

    return choose


def pumer(prune, merge):
    def choose(look, alive, stage, state):
        if round(prune * len(alive)) == 0:  # as published, such a site does nothing
            return alive, []
        row = look.weights.mean(dim=0)[state["text"]][:, alive].mean(dim=0)
        score = dict(zip(alive, row.tolist(), strict=True))
        left = sorted(alive, key=lambda column: -score[column])[: len(alive) - round(prune * len(alive))]
        keys = look.plain.mean(dim=0)
        pairs = []
        for source in left[2::2]:  # the highest-scored never goes
            cosine = {to: float(torch.cosine_similarity(keys[source], keys[to], dim=0)) for to in left[1::2]}
            to = max(cosine, key=cosine.get)
            pairs.append((cosine[to], source, to))
        pairs = sorted(pairs, reverse=True)[: min(round(merge * len(alive)), (len(left) - 1) // 2)]
        members = {}
        for _, source, to in pairs:
            members.setdefault(to, [to]).append(source)
        return [column for column in left if column not in {source for _, source, _ in pairs}], list(members.values())

    return choose


def density_peaks(x, columns, count):
    """Members of each cluster."""
    far = [[float((a - b).norm()) / math.sqrt(x.shape[-1]) for b in x] for a in x]
    size = range(len(x))
    density = [math.exp(-sum(d * d for d in sorted(row)[:count]) / min(count, len(x))) for row in far]
    apart = [min((far[i][j] for j in size if density[j] > density[i]), default=max(map(max, far))) for i in size]
    centres = sorted(size, key=lambda i: -apart[i] * density[i])[:count]
    members = {centre: [columns[centre]] for centre in centres}
    for i in size:
        if i not in centres:
            members[min(centres, key=lambda centre: far[i][centre])].append(columns[i])
    return list(members.values())
