"""A slow recompute without a cache, by the library's own layers at full length: what a cut pass must equal.

Layer l hides, by the mask, what had been dropped before it; merged tokens are edited where they were merged.
Axes: N columns of the prompt, n of the prompt and what was written after it, C width.
"""

import inspect

import torch

WRITE = {
    "max_new_tokens": 6,
    "do_sample": False,
    "output_logits": True,
    "return_dict_in_generate": True,
    "eos_token_id": None,
    "pad_token_id": 0,
    "suppress_tokens": [100, 101, 102, 103, 104, 105],  # those that stand for images
}


def write(model, inputs, **options):
    """What a model writes: new tokens (B, t), their logits (B, t, V), the whole output."""
    with torch.no_grad():
        out = model.generate(**inputs, **{**WRITE, **options})
    logits = torch.stack(out.logits, dim=1).to(model.dtype)  # generate() hands them over in float32
    return out.sequences[:, inputs["input_ids"].shape[1] :], logits, out


def language_of(model):
    """The language model in a model."""
    inner = model.model
    return inner.language_model if hasattr(inner, "language_model") else inner.text_model


def cache_name(model):
    """What this version calls the argument for a cache."""
    parameters = inspect.signature(type(language_of(model).layers[0]).forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def cache_of(output):
    """The cache in an output, whatever this version calls it."""
    return output["cache"] if "cache" in output else output["past_key_values"]


class Prefill(Exception):
    """Carries what the language model is given in the first pass."""


def entry(model, inputs):
    """What the plain language model is given for a prompt: embeddings with images, positions, mask."""
    language = language_of(model)

    def catch(module, args, kwargs):
        raise Prefill(kwargs)

    handle = language.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    except Prefill as caught:
        return language, caught.args[0]
    finally:
        handle.remove()


def recompute(model, inputs, new, visible, edit=None, compact=False):
    """Logits (1, t, V) of every new token (1, t) for one sample.

    Args:
        visible: of each layer the columns of the prompt that it works on, a set.
        edit: changes hidden states (1, n, C) before layer l: ``edit(l, h)``.
        compact: positions are counted anew in every layer.
    """
    with torch.no_grad():
        language, given = entry(model, inputs)
        start, positions, mask = given["inputs_embeds"], given["position_ids"], given.get("attention_mask")
        columns = start.shape[1]
        x = torch.cat([start, language.get_input_embeddings()(new[:, :-1])], dim=1)
        total = x.shape[1]
        later = torch.arange(1, total - columns + 1).view(*[1] * (positions.ndim - 1), -1)
        positions = torch.cat([positions, later + positions[..., -1:]], dim=-1)
        if positions.ndim == 3 and positions.shape[0] == 4:
            positions = positions[1:]
        deep = deepstack(given, total)
        kinds = getattr(language.config, "layer_types", None) or ["full_attention"] * len(language.layers)
        scales = getattr(language, "rope_types", None)
        for index, layer in enumerate(language.layers):
            if edit is not None:
                x = edit(index, x)
                deep = [*deep[:index], *(edit(index, side) for side in deep[index:])]
            seen = base_mask(mask, kinds[index], columns, total, language.config)
            hidden = set(range(columns)) - set(visible[index])
            at = positions
            if compact:
                here = torch.tensor([column not in hidden for column in range(total)])
                at = (here.cumsum(0) - 1).clamp(min=0)[None]
            for column in hidden:
                seen[:, column], seen[column, column] = False, True
            x = layer(
                x,
                attention_mask=form(seen, language.config, x.dtype),
                position_embeddings=rotary(language, x, at, scales[index] if scales else kinds[index]),
                position_ids=None,
            )
            if index < len(deep):
                x = x + deep[index]
        x = x if edit is None else edit(len(language.layers), x)
        return model.lm_head(language.norm(x))[:, columns - 1 :]


def deepstack(given, total):
    """What Qwen3-VL adds to image tokens after each of the first layers, at its columns (1, N, C)."""
    found = []
    for features in given.get("deepstack_visual_embeds") or ():
        side = torch.zeros(1, total, features.shape[-1], dtype=features.dtype)
        side[:, : given["visual_pos_masks"].shape[1]][given["visual_pos_masks"]] = features
        found.append(side)
    return found


def base_mask(mask, kind, columns, total, config):
    seen = torch.ones(total, total, dtype=torch.bool).tril()
    own = mask.get(kind) if isinstance(mask, dict) else mask
    if own is not None and own.ndim == 4:
        own = own if own.dtype == torch.bool else own == 0
        seen[:columns, :columns] = own[0, 0]
    if kind == "sliding_attention":
        place = torch.arange(total)
        seen[columns:] &= (place[:, None] - place[None] < config.sliding_window)[columns:]
        if own is None:
            seen &= place[:, None] - place[None] < config.sliding_window
    return seen


def form(seen, config, dtype):
    if config._attn_implementation != "eager":
        return seen[None, None]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]


def rotary(language, x, positions, kind):
    embed = language.rotary_emb
    if kind == "unscaled":
        embed = language.rotary_emb_unscaled
    if "layer_type" in inspect.signature(type(embed).forward).parameters:
        return embed(x, positions, kind)
    return embed(x, positions)


def visible(trace):
    """Of each layer, the columns that it works on, for the only sample of a trace."""
    return [set(columns[0].tolist()) - {-1} for columns in trace.layers]
