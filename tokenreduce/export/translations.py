"""ONNX for operators of reducers that torch's exporter has no translation of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

INT64 = 7
"""As ONNX numbers types."""


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export(..., dynamo=True, custom_translation_table=onnx_translations())``.

    Stable sorting becomes ``TopK`` over the whole axis, which of equal values gives the earlier one first, as ONNX
    defines it. A choice between truth values becomes logic: onnxruntime's ``Where`` takes none.
    """
    return {torch.ops.aten.sort.stable: sort_stable, torch.ops.aten.where.self: where}


def sort_stable(self: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """``aten::sort.stable`` by operators of ONNX: values and indices.

    Whole numbers and truth values, of which many are equal, are sorted together with their places, so that a runtime
    whose ``TopK`` is not stable (OpenVINO's) gives the same order.
    """
    op: Any = importlib.import_module("onnxscript").opset18
    length = op.Gather(op.Shape(self), op.Constant(value_int=dim), axis=0)
    many = op.Reshape(length, op.Constant(value_ints=[1]))
    if _kind(self) in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"):
        return op.TopK(self, many, axis=dim, largest=int(descending), sorted=1)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    place = op.Range(zero, length, one)
    if descending:
        place = op.Sub(op.Sub(length, one), place)
    rank = len(self.shape)
    shape = [1] * rank
    shape[dim] = -1
    place = op.Reshape(place, op.Constant(value_ints=shape))
    key = op.Add(op.Mul(op.Cast(self, to=INT64), length), place)
    _, indices = op.TopK(key, many, axis=dim, largest=int(descending), sorted=1)
    return op.GatherElements(self, indices, axis=dim), indices


def where(condition: Any, self: Any, other: Any) -> Any:
    """``aten::where.self`` by operators of ONNX."""
    op: Any = importlib.import_module("onnxscript").opset18
    if _kind(self) == _kind(other) == "BOOL":
        return op.Or(op.And(condition, self), op.And(op.Not(condition), other))
    return op.Where(condition, self, other)


def _kind(value: Any) -> str:
    """The type of a value in ONNX's words."""
    return str(getattr(value, "dtype", None)).upper().rpartition(".")[2]
