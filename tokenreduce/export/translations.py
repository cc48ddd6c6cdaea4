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

    Stable sorting becomes ``TopK`` over the whole axis, of keys that are never equal. A choice between truth values
    becomes logic: onnxruntime's ``Where`` takes none.
    """
    return {torch.ops.aten.sort.stable: sort_stable, torch.ops.aten.where.self: where}


def sort_stable(self: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """``aten::sort.stable`` by operators of ONNX: values and indices.

    ``TopK`` of OpenVINO gives equal values in any order. So what is sorted is a whole number in which no two are equal:
    the rank of the value and its place. The rank of a number with a fraction is how many go before it, for which all
    are compared with all.
    """
    op: Any = importlib.import_module("onnxscript").opset18
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    rank = len(self.shape)
    axis = dim % rank
    length = op.Gather(op.Shape(self), op.Constant(value_int=axis), axis=0)
    place = op.Range(zero, length, one)
    if _kind(self) in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"):
        others = op.Unsqueeze(self, op.Constant(value_ints=[axis]))
        own = op.Unsqueeze(self, op.Constant(value_ints=[axis + 1]))
        first = op.Greater(others, own) if descending else op.Less(others, own)
        order = op.ReduceSum(op.Cast(first, to=INT64), op.Constant(value_ints=[axis + 1]), keepdims=0)
    else:
        order = op.Neg(op.Cast(self, to=INT64)) if descending else op.Cast(self, to=INT64)
    shape = [1] * rank
    shape[axis] = -1
    key = op.Add(op.Mul(order, length), op.Reshape(place, op.Constant(value_ints=shape)))
    many = op.Reshape(length, op.Constant(value_ints=[1]))
    _, indices = op.TopK(key, many, axis=axis, largest=0, sorted=1)
    return op.GatherElements(self, indices, axis=axis), indices


def where(condition: Any, self: Any, other: Any) -> Any:
    """``aten::where.self`` by operators of ONNX."""
    op: Any = importlib.import_module("onnxscript").opset18
    if _kind(self) == _kind(other) == "BOOL":
        return op.Or(op.And(condition, self), op.And(op.Not(condition), other))
    return op.Where(condition, self, other)


def _kind(value: Any) -> str:
    """The type of a value in ONNX's words."""
    return str(getattr(value, "dtype", None)).upper().rpartition(".")[2]
