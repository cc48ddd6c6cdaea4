"""Models whose weights are split in ways that a reduced block cannot follow; found by name before anything is tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedModelError


def check_sharding(model: nn.Module) -> None:
    """Raise UnsupportedModelError for a tensor-parallel plan or DeepSpeed's ZeRO stage 3.

    What stays whole where it is used is fine: FSDP gathers a block's weights when it is called, accelerate brings them,
    and ZeRO up to stage 2 splits optimizer states and gradients alone.
    """
    kind = type(model).__name__
    planned = tensor_parallel(model)
    if planned is not None:
        raise UnsupportedModelError(
            f"{kind} has a tensor-parallel plan ({planned}): each process holds some heads of every attention, so none "
            "sees the attention or the keys by which tokens are chosen, and the processes would keep different ones. "
            'Load it without tp_plan (device_map="auto" spreads whole blocks over devices), or use FSDP or '
            "DistributedDataParallel"
        )
    name = next((name for name, weight in model.named_parameters() if hasattr(weight, "ds_id")), None)
    if name is not None:
        raise UnsupportedModelError(
            f"{kind} is under ZeRO stage 3 of DeepSpeed ({name} is split over the processes): weights are gathered by "
            "hooks on the modules that own them, some of which a reduced block uses without calling them. Use stage 2, "
            "or FSDP, which gathers whole blocks"
        )


def tensor_parallel(model: nn.Module) -> str | None:
    """What says that weights are split by a tensor-parallel plan; None where nothing does."""
    for name, module in model.named_modules():
        size = getattr(module, "_tp_size", None)  # of transformers
        if isinstance(size, int) and size > 1:
            return f"tp_size={size} of {name or type(module).__name__}"
    gathered = {part for module in model.modules() if _is_fsdp(module) for part in module.modules()}
    for name, module, weight in _weights(model):
        placements: Any = getattr(weight, "placements", None)  # of a DTensor
        if placements is None or not any(place.is_shard() for place in placements):
            continue
        axes = getattr(weight.device_mesh, "mesh_dim_names", None) or ()  # type: ignore[attr-defined]
        if module not in gathered or "tp" in axes:
            return f"{name} is a DTensor with placements {tuple(placements)}"
    return None


def _is_fsdp(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    for prefix, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}".lstrip("."), module, weight
