"""ONNX for operators of reducers that torch's exporter has no translation of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

SORTED, WIDE = ("FLOAT", "DOUBLE", "INT32", "INT64"), 6
"""What runtimes sort, and ``INT32`` in ONNX, which everything else becomes for it."""


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export(..., dynamo=True, custom_translation_table=onnx_translations())``.

    Stable sorting becomes ``TopK`` over the whole axis, which of equal values gives the earlier one first, as ONNX
    defines it. A choice between truth values becomes logic: onnxruntime's ``Where`` takes none.
    """
    return {torch.ops.aten.sort.stable: sort_stable, torch.ops.aten.where.self: where}


def sort_stable(self: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """``aten::sort.stable`` by operators of ONNX: values and indices."""
    op: Any = importlib.import_module("onnxscript").opset18
    wide = self if _kind(self) in SORTED else op.Cast(self, to=WIDE)
    length = op.Reshape(op.Gather(op.Shape(self), op.Constant(value_int=dim), axis=0), op.Constant(value_ints=[1]))
    values, indices = op.TopK(wide, length, axis=dim, largest=int(descending), sorted=1)
    return values if wide is self else op.CastLike(values, self), indices


def where(condition: Any, self: Any, other: Any) -> Any:
    """``aten::where.self`` by operators of ONNX."""
    op: Any = importlib.import_module("onnxscript").opset18
    if _kind(self) == _kind(other) == "BOOL":
        return op.Or(op.And(condition, self), op.And(op.Not(condition), other))
    return op.Where(condition, self, other)


def _kind(value: Any) -> str:
    """The type of a value in ONNX's words."""
    return str(getattr(value, "dtype", None)).upper().rpartition(".")[2]
