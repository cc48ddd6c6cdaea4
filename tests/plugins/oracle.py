"""ToMe, EViT and PuMer again, slowly: written from the specification sheets alone, without the library.

One sample at a time, softmax spelled out, matching in plain loops. Weights are read from the model's modules.

Axes: N tokens, C width, H heads, d head width, T text tokens.
"""

import math
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F


@dataclass
class Result:
    """Of one sample: what the head gives, token counts after each block, and what each final token stands for."""

    logits: torch.Tensor
    counts: list = field(default_factory=list)
    groups: list = field(default_factory=list)
    sizes: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    text_counts: list = field(default_factory=list)


# --- parts of a transformer ------------------------------------------------------------------------------------------


def normed(x, norm):
    mean = x.mean(dim=-1, keepdim=True)
    spread = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(spread + norm.eps) * norm.weight + norm.bias


def linear(x, layer):
    return x @ layer.weight.t() + layer.bias


def softmax(logits):
    weights = torch.exp(logits - logits.max(dim=-1, keepdim=True).values)
    return weights / weights.sum(dim=-1, keepdim=True)


def attend(query, key, value, extra=None):
    """Heads (H, N, d) to the context (N, C) and the attention (H, N, N); ``extra`` (N,) is added to every row."""
    contexts, maps = [], []
    for q, k, v in zip(query, key, value, strict=True):
        logits = q @ k.t() / q.shape[-1] ** 0.5
        attention = softmax(logits if extra is None else logits + extra)
        maps.append(attention)
        contexts.append(attention @ v)
    return torch.cat(contexts, dim=-1), torch.stack(maps)


def split(x, heads):
    """(N, C) to heads (H, N, d)."""
    width = x.shape[-1] // heads
    return torch.stack([x[:, h * width : (h + 1) * width] for h in range(heads)])


# --- matching --------------------------------------------------------------------------------------------------------


def match(metric, r, class_token, distill_token=False):
    """Bipartite soft matching: the output as a list of groups of input tokens, the destination first in each."""
    count = len(metric)
    r = min(r, (count - class_token - distill_token) // 2)
    if r <= 0:
        return [[token] for token in range(count)]
    metric = metric / metric.norm(dim=-1, keepdim=True)
    best = {}
    for a in range(0, count, 2):
        if class_token and a == 0:
            continue
        for b in range(1, count, 2):
            if distill_token and b == 1:
                continue
            similarity = float(metric[a] @ metric[b])
            if a not in best or similarity > best[a][0]:
                best[a] = (similarity, b)
    ranked = sorted(best, key=lambda a: -best[a][0])
    sources, unmerged = ranked[:r], ranked[r:]
    if class_token:
        unmerged = [0, *sorted(unmerged)]
    groups = {b: [b] for b in range(1, count, 2)}
    for a in sources:
        groups[best[a][1]].append(a)
    odd = [groups[b] for b in range(1, count, 2)]
    if distill_token:
        return [[unmerged[0]], odd[0], *([a] for a in unmerged[1:]), *odd[1:]]
    return [[a] for a in unmerged] + odd


def mean_of(x, groups):
    """Plain means."""
    return torch.stack([sum(x[token] for token in group) / len(group) for group in groups])


def gather(members, groups):
    """The members of each group's tokens, in one list per group."""
    return [[member for token in group for member in members[token]] for group in groups]


# --- ViT -------------------------------------------------------------------------------------------------------------


def vit_embed(model, image):
    x = F.conv2d(image[None], model.patch_embed.proj.weight, model.patch_embed.proj.bias, model.patch_embed.proj.stride)
    parts = [x[0].flatten(1).t()]
    if getattr(model, "dist_token", None) is not None:
        parts.insert(0, model.dist_token[0])
    if getattr(model, "reg_token", None) is not None:
        parts.insert(0, model.reg_token[0])
    if model.cls_token is not None:
        parts.insert(0, model.cls_token[0])
    return torch.cat(parts) + model.pos_embed[0]


def vit_head(model, x, sizes):
    """The class token's logits, the mean of class and distillation logits, or the size-weighted mean of patches."""
    if hasattr(model, "head_dist"):
        x = normed(x, model.norm)
        return (linear(x[0], model.head) + linear(x[1], model.head_dist)) / 2
    if model.global_pool == "token":
        return linear(normed(x, model.norm)[0], model.head)
    x, sizes = x[model.num_prefix_tokens :], sizes[model.num_prefix_tokens :]
    if not isinstance(model.norm, torch.nn.Identity):
        x = normed(x, model.norm)
    pooled = (x * sizes[:, None]).sum(dim=0) / sizes.sum()
    if not isinstance(model.fc_norm, torch.nn.Identity):
        pooled = normed(pooled, model.fc_norm)
    return linear(pooled, model.head)


def vit(model, image, reduce, proportional=False):
    """One image through a timm ViT; ``reduce(layer, x, sizes, keys, attention, groups)`` acts before the MLP."""
    x = vit_embed(model, image)
    sizes, groups, counts = x.new_ones(len(x)), [[token] for token in range(len(x))], []
    for layer, block in enumerate(model.blocks):
        heads = block.attn.num_heads
        query, key, value = (split(part, heads) for part in linear(normed(x, block.norm1), block.attn.qkv).chunk(3, -1))
        context, attention = attend(query, key, value, sizes.log() if proportional else None)
        x = x + linear(context, block.attn.proj)
        x, sizes, groups = reduce(layer, x, sizes, key.mean(dim=0), attention, groups)
        x = x + linear(F.gelu(linear(normed(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)
        counts.append(len(x))
    return Result(vit_head(model, x, sizes), counts, [sorted(group) for group in groups], sizes, x)


def vit_tome(model, image, r, proportional):
    """ToMe with ``r[layer]`` tokens merged in each block."""
    class_token, distill_token = model.cls_token is not None, getattr(model, "dist_token", None) is not None

    def reduce(layer, x, sizes, keys, attention, groups):
        merged = match(keys, r[layer], class_token, distill_token)
        weighted, totals = [], []
        for group in merged:
            total = sum(sizes[token] for token in group)
            weighted.append(sum(x[token] * sizes[token] for token in group) / total)
            totals.append(total)
        return torch.stack(weighted), torch.stack(totals), gather(groups, merged)

    return vit(model, image, reduce, proportional)


def vit_evit(model, image, keep, fuse):
    """EViT with a share of ``keep[layer]`` of the non-class tokens kept in each block."""

    def reduce(layer, x, sizes, keys, attention, groups):
        count = len(x) - 1
        kept = math.ceil(keep[layer] * count)
        if kept == count:
            return x, sizes, groups
        score = attention[:, 0, 1:].mean(dim=0)
        order = falling(score)
        stay, gone = [0] + [token + 1 for token in order[:kept]], [token + 1 for token in sorted(order[kept:])]
        out = [x[token] for token in stay]
        left = [groups[token] for token in stay]
        size = [sizes[token] for token in stay]
        if fuse:
            out.append(sum(score[token - 1] * x[token] for token in gone))
            left += gather(groups, [gone])
            size.append(sum(sizes[token] for token in gone))
        return torch.stack(out), torch.stack(size), left

    return vit(model, image, reduce)


# --- ViLT ------------------------------------------------------------------------------------------------------------


def vilt_embed(vilt, ids, image):
    """Text (T, C) and image (N, C) tokens, patches in raster order."""
    parts = vilt.embeddings
    text = parts.text_embeddings.word_embeddings.weight[ids]
    text = text + parts.text_embeddings.position_embeddings.weight[: len(ids)]
    text = normed(text + parts.text_embeddings.token_type_embeddings.weight[0], parts.text_embeddings.LayerNorm)
    kernel = parts.patch_embeddings.projection
    patches = F.conv2d(image[None], kernel.weight, kernel.bias, kernel.stride)[0].flatten(1).t()
    image = torch.cat([parts.cls_token[0], patches]) + parts.position_embeddings[0]
    kinds = parts.token_type_embeddings.weight
    return text + kinds[0], image + kinds[1]


def vilt_attend(block, x, eps=0.0):
    """A block's first half: tokens after the attention, keys (N, d) averaged over heads, and attention (H, N, N)."""
    parts, inner = block.attention.attention, normed(x, block.layernorm_before)
    heads = parts.num_attention_heads
    query, key, value = (split(linear(inner, part), heads) for part in (parts.query, parts.key, parts.value))
    contexts, maps = [], []
    for q, k, v in zip(query, key, value, strict=True):
        logits = q @ k.t() / q.shape[-1] ** 0.5
        weights = torch.exp(logits - logits.max(dim=-1, keepdim=True).values)
        maps.append((weights + eps / len(x)) / (weights.sum(dim=-1, keepdim=True) + eps))
        contexts.append(maps[-1] @ v)
    return x + linear(torch.cat(contexts, dim=-1), block.attention.output.dense), key.mean(dim=0), torch.stack(maps)


def vilt_mlp(block, x):
    inner = F.gelu(linear(normed(x, block.layernorm_after), block.intermediate.dense))
    return x + linear(inner, block.output.dense)


def vilt_head(model, x):
    pooled = torch.tanh(linear(x[0], model.vilt.pooler.dense))
    hidden = F.gelu(normed(linear(pooled, model.classifier[0]), model.classifier[1]))
    return linear(hidden, model.classifier[3])


def falling(score):
    """Indices by falling score."""
    return sorted(range(len(score)), key=lambda token: -float(score[token]))


def vilt_pumer(model, ids, image, layers, prune_r=0.1, merge_r=0.3, merge_text=0.2, eps=0.0):
    """ViLT's question answering head under PuMer, on unpadded input.

    ``eps`` 1e-6 is the published masked softmax, (w + eps / N) / (sum w + eps); 0 is plain softmax. With
    ``prune_r`` 0 the image tokens merge in the order in which they stand: the library's own extension.
    """
    text, image = vilt_embed(model.vilt, ids, image)
    text_groups = [[token] for token in range(len(text))]
    image_groups = [[len(text) + token] for token in range(len(image))]
    counts, text_counts = [], []
    for layer, block in enumerate(model.vilt.encoder.layer):
        length = len(text)
        x, keys, maps = vilt_attend(block, torch.cat([text, image]), eps)
        text, image = x[:length], x[length:]
        prune = round(prune_r * len(image))
        if layer in layers and (prune > 0 or prune_r == 0):
            order = list(range(len(image)))
            if prune:
                score = maps.mean(dim=0)[:length, length:].sum(dim=0) / length
                order = falling(score)[: max(len(image) - prune, 1)]
            merge = round(merge_r * len(image))
            image, keys_image = image[order], keys[length:][order]
            image_groups = [image_groups[token] for token in order]
            merged = match(keys_image, merge, class_token=True)
            image = mean_of(image, merged)
            image_groups = gather(image_groups, merged)
            merged = match(keys[:length], round(merge_text * length), class_token=True)
            text = mean_of(text, merged)
            text_groups = gather(text_groups, merged)
        x = vilt_mlp(block, torch.cat([text, image]))
        text, image = x[: len(text)], x[len(text) :]
        counts.append(len(image))
        text_counts.append(len(text))
    x = normed(torch.cat([text, image]), model.vilt.layernorm)
    groups = [sorted(group) for group in text_groups + image_groups]
    return Result(vilt_head(model, x), counts, groups, None, x, text_counts)


def vilt_joint(model, ids, image, layers, prune_r=0.1, merge_r=0.3, merge_text=0.2):
    """PuMer with ``modality_aware=False``: as many tokens, merged over text and image as one sequence.

    Image tokens are pruned as ever, the survivors stay in place, and merged tokens stand where (and count as
    the modality of what) they merged into. Budgets go by the nominal lengths, as if only image tokens went.
    """
    text, image = vilt_embed(model.vilt, ids, image)
    x, length, nominal = torch.cat([text, image]), len(text), len(image)
    groups, is_text = [[token] for token in range(len(x))], [True] * len(text) + [False] * len(image)
    counts = []
    for layer, block in enumerate(model.vilt.encoder.layer):
        x, keys, maps = vilt_attend(block, x)
        prune = round(prune_r * nominal)
        if layer in layers and prune > 0:
            merge = min(round(merge_r * nominal), (nominal - prune - 1) // 2)
            merge += min(round(merge_text * length), (length - 1) // 2)
            rows = [token for token in range(len(x)) if is_text[token]]
            score = maps.mean(dim=0)[rows].mean(dim=0)
            score = [float("inf") if is_text[token] else float(score[token]) for token in range(len(x))]
            order = sorted(sorted(range(len(x)), key=lambda token: -score[token])[: len(x) - prune])
            merged = [[order[token] for token in group] for group in match(keys[order], merge, class_token=True)]
            merged.sort(key=lambda group: group[0])
            x = mean_of(x, merged)
            groups = gather(groups, merged)
            is_text = [is_text[group[0]] for group in merged]
            nominal -= prune + merge
        x = vilt_mlp(block, x)
        counts.append(len(x))
    x = normed(x, model.vilt.layernorm)
    return Result(vilt_head(model, x), counts, [sorted(group) for group in groups], None, x)


# --- METER -----------------------------------------------------------------------------------------------------------


def meter_attend(part, x, memory, padding=None):
    """Post-norm attention of tokens (N, C) to a memory (M, C): tokens after it, keys (M, d), attention (H, N, M)."""
    own, heads = part.self, part.self.num_attention_heads
    query = split(linear(x, own.query), heads)
    key, value = (split(linear(memory, layer), heads) for layer in (own.key, own.value))
    context, maps = attend(query, key, value, padding)
    return normed(linear(context, part.output.dense) + x, part.output.LayerNorm), key.mean(dim=0), maps


def meter_mlp(block, x):
    inner = F.gelu(linear(x, block.intermediate.dense))
    return normed(linear(inner, block.output.dense) + x, block.output.LayerNorm)


def meter_towers(model, ids, image):
    """Both towers by the model's own code, up to the first level; one sample without padding."""
    text = model.text_transformer(input_ids=ids[None]).last_hidden_state[0]
    kinds = model.token_type_embeddings.weight
    text = linear(text, model.cross_modal_text_transform) + kinds[0]
    return text, linear(model.vit_model(image[None])[0], model.cross_modal_image_transform) + kinds[1]


def meter_pumer(model, ids, image, levels, prune_r=0.2, merge_r=0.2, merge_text=0.2, *, updated=True, protect=False):
    """METER under PuMer, one sample without padding: pooled features, counts per level, final groups.

    ``updated``: the image layer sees the text after this level's text layer, as PuMer's authors released it;
    otherwise the text before it, reduced in the same way. ``protect``: the image's class token stays first.
    """
    text, image = meter_towers(model, ids, image)
    text_groups = [[token] for token in range(len(text))]
    image_groups = [[len(text) + token] for token in range(len(image))]
    counts, text_counts = [], []
    for level, (text_block, image_block) in enumerate(
        zip(model.cross_modal_text_layers, model.cross_modal_image_layers, strict=True)
    ):
        old = text
        text, text_keys, _ = meter_attend(text_block.attention, text, text)
        text, image_keys, maps = meter_attend(text_block.crossattention, text, image)
        if level in levels:
            prune, merge = round(prune_r * len(image)), round(merge_r * len(image))
            order = list(range(len(image)))
            if prune_r > 0:
                score = maps.mean(dim=0).sum(dim=0) / len(text)
                order = falling(score)
                if protect:
                    order = [0, *(token for token in order if token != 0)]
                order = order[: max(len(image) - prune, 1)]
            merged = match(image_keys[order], merge, class_token=True)
            image = mean_of(image[order], merged)
            image_groups = gather([image_groups[token] for token in order], merged)
            merged = match(text_keys, round(merge_text * len(text)), class_token=True)
            text, old = mean_of(text, merged), mean_of(old, merged)
            text_groups = gather(text_groups, merged)
        text = meter_mlp(text_block, text)
        image, _, _ = meter_attend(image_block.attention, image, image)
        image, _, _ = meter_attend(image_block.crossattention, image, text if updated else old)
        image = meter_mlp(image_block, image)
        counts.append(len(image))
        text_counts.append(len(text))
    poolers = (model.cross_modal_text_pooler, text), (model.cross_modal_image_pooler, image)
    pooled = torch.cat([torch.tanh(linear(x[0], pooler.dense)) for pooler, x in poolers])
    groups = [sorted(group) for group in text_groups + image_groups]
    return Result(pooled, counts, groups, None, torch.cat([text, image]), text_counts)


def first_signals(model, *inputs):
    """Of the first block and one sample: head-mean keys (N, d) and head-mean attention (N, N)."""
    if hasattr(model, "vilt"):
        _, keys, maps = vilt_attend(model.vilt.encoder.layer[0], torch.cat(vilt_embed(model.vilt, *inputs)))
        return keys, maps.mean(dim=0)
    block = model.blocks[0]
    parts = linear(normed(vit_embed(model, *inputs), block.norm1), block.attn.qkv).chunk(3, dim=-1)
    query, key, value = (split(part, block.attn.num_heads) for part in parts)
    return key.mean(dim=0), attend(query, key, value)[1].mean(dim=0)
