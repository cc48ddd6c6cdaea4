"""Checks at attach that the library is what this adapter takes it for. Axes: B batch, n tokens, C width.

A decoder layer of each kind, small and with random weights, must give the same whether a token is hidden by the mask or
left out; the row that is asked of its attention must be that of its own matrix; and the library's loop must call every
layer once, in order, with the keywords that are mapped.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import LayerCall, Seen
from tokenreduce.errors import UnsupportedModelError

from ..towers import stand_in
from .attention import attention_rows_of, keys_of, normed, unwrapped

TOKENS, HEAD, HEADS, GROUPS = 6, 8, 4, 2
NEEDED = frozenset({"attention_mask", "position_embeddings"})
TOLERANCE = 1e-8


def prove(model: Any) -> None:
    """Raise UnsupportedModelError where the library differs from what is taken for granted."""
    language = model.language
    rotary = prove_loop(model, language)
    kinds: set[Any] = set()
    for index, layer in enumerate(model.layers):
        base = library_class(layer)
        kind = (base, (getattr(language.config, "layer_types", None) or [None] * (index + 1))[index])
        if kind not in kinds:
            kinds.add(kind)
            prove_layer(model, base, index, rotary[index])


def library_class(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer; of what a wrapper holds."""
    inner = unwrapped(layer)
    if inner is None:
        raise UnsupportedModelError(
            f"decoder layer {type(layer).__name__} has no self_attn (linear attention, or a state that it keeps), so "
            "leaving out a token is not the same as hiding it; its model cannot be reduced in the language model"
        )
    return type(inner)


class Probe:
    """Stands in for a layer: notes how it is called."""

    def __init__(self, index: int, seen: list[tuple[int, dict[str, Any]]]) -> None:
        self.index, self.seen = index, seen

    def __call__(self, x: Tensor, *args: Any, **given: Any) -> Tensor:
        self.seen.append((self.index, {**given, "args": args}))
        return x + (self.index + 1)


def prove_loop(model: Any, language: Any) -> list[Any]:
    """Every layer is called once, in order, on what the one before has given; the positions that each is given."""
    seen: list[tuple[int, dict[str, Any]]] = []
    count = len(model.layers)
    weight = next((p for p in language.parameters() if p.is_floating_point()), torch.zeros(1))
    device = "cpu" if weight.is_meta else weight.device
    x = torch.zeros(1, 3, language.config.hidden_size, dtype=weight.dtype, device=device)
    probes = tuple(Probe(index, seen) for index in range(count))
    changed = stand_in(language, layers=probes, norm=_same)
    problem = None
    quiet = {
        "use_cache": False,
        "output_hidden_states": False,
        "output_attentions": False,
    }  # or it puts hooks on layers
    try:
        with torch.no_grad():
            out = type(language).forward(changed, inputs_embeds=x, **quiet).last_hidden_state
    except Exception as error:
        problem = f"its loop over the layers fails with {type(error).__name__}: {error}"
    else:
        if [index for index, _ in seen] != list(range(count)):
            problem = f"its layers are called as {[index for index, _ in seen]}"
        elif any(given["args"] or not set(given) >= NEEDED for _, given in seen):
            problem = f"its layers are called with {sorted(seen[0][1])}, not with {', '.join(sorted(NEEDED))}"
        elif not bool((out == count * (count + 1) / 2).all()):
            problem = "it does more between its layers than handing tokens on"
    if problem is not None:
        raise UnsupportedModelError(
            f"{type(language).__name__} is not as this adapter knows it: {problem}. Another version of transformers "
            "may fit (tokenreduce was tested with those that its documentation names)"
        )
    return [given["position_embeddings"] for _, given in seen]


def _same(x: Tensor) -> Tensor:
    return x


def small_layer(kind: type[nn.Module], config: Any, index: int) -> Any:
    """A layer of this class with few and random weights, in float64, running eagerly."""
    config = copy.deepcopy(config)
    config.hidden_size, config.intermediate_size, config.head_dim = HEAD * HEADS, 2 * HEAD * HEADS, HEAD
    grouped = config.num_key_value_heads < config.num_attention_heads
    config.num_attention_heads, config.num_key_value_heads = HEADS, GROUPS if grouped else HEADS
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("mrope_section") is not None:
        config.rope_parameters = {**rope, "mrope_section": [1, 1, 2]}
    config._attn_implementation = "eager"
    layer = kind(config, index).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = noise / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 1 + 0.2 * noise
    return layer


def prove_layer(model: Any, kind: type[nn.Module], index: int, rotary: Any) -> None:
    """Leaving out a token equals hiding it, and the rows asked for are those of the layer's own attention."""
    name = f"{kind.__name__} of layer {index}"
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
            layer = small_layer(kind, model.language.config, index)
            hidden, rows = compare(layer, rotary, model.cache_name)
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} cannot be tried on a few random tokens ({type(error).__name__}: {error}), so it is not known "
            "whether tokens may be left out of it"
        ) from error
    if hidden > TOLERANCE:
        raise UnsupportedModelError(
            f"{name}: leaving out a token is not the same as hiding it (they differ by {hidden:.1e}); the layer knows "
            "more of other tokens than masked attention, so its model cannot be reduced in the language model"
        )
    if rows > TOLERANCE:
        raise UnsupportedModelError(
            f"{name}: the attention rows asked of it differ from its own by {rows:.1e}; this version of transformers "
            "computes attention in another way"
        )


def compare(layer: Any, rotary: Any, cache_name: str) -> tuple[float, float]:
    """Largest differences: of the tokens left where one is hidden or left out, and of the last row of attention."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, TOKENS, HEAD * HEADS, generator=generator, dtype=torch.float64)
    angles = torch.rand(*rotary[0].shape[:-2], TOKENS, HEAD // 2, generator=generator, dtype=torch.float64) * 6
    angles = torch.cat([angles, angles], dim=-1)
    positions = angles.cos(), angles.sin()
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    hide = causal.clone()
    hide[:, 2], hide[2, 2] = False, True
    left = torch.tensor([0, 1, 3, 4, 5])
    full = run(layer, x, hide, positions)[:, left]
    part = run(layer, x[:, left], causal[left][:, left], tuple(side[..., left, :] for side in positions))
    last = torch.tensor([[TOKENS - 1]])
    seen = Seen(0, x, LayerCall(additive(causal), positions))
    seen.keys = keys_of(layer, seen, positions, cache_name)
    asked = attention_rows_of(layer, seen, last, cache_name)[:, :, 0]
    own = layer.self_attn(
        hidden_states=normed(layer, x), position_embeddings=positions, attention_mask=additive(causal)
    )[1][:, :, -1]
    return float((full - part).abs().max()), float((asked - own).abs().max())


def run(layer: Any, x: Tensor, mask: Tensor, positions: Any) -> Tensor:
    """The layer on tokens (B, n, C) with a mask (n, n)."""
    given: dict[str, Any] = {"attention_mask": additive(mask), "position_embeddings": positions}
    if "position_ids" in inspect.signature(type(layer).forward).parameters:
        given["position_ids"] = None
    out: Tensor = layer(x, **given)
    return out


def additive(mask: Tensor) -> Tensor:
    """(1, 1, n, n) additive mask of one of booleans (n, n)."""
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, float("-inf"))[None, None]
