"""ONNX for operators of reducers that torch's exporter has no translation of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

WIDE = 6
"""``INT32`` in ONNX: runtimes sort no narrower whole numbers."""


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export(..., dynamo=True, custom_translation_table=onnx_translations())``.

    Stable sorting becomes ``TopK`` over the whole axis, which of equal values gives the earlier one first, as ONNX
    defines it.
    """
    return {torch.ops.aten.sort.stable: sort_stable}


def sort_stable(self: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """``aten::sort.stable`` by operators of ONNX: values and indices."""
    op: Any = importlib.import_module("onnxscript").opset18
    wide = self if _sorted_as_it_is(self) else op.Cast(self, to=WIDE)
    length = op.Reshape(op.Gather(op.Shape(self), op.Constant(value_int=dim), axis=0), op.Constant(value_ints=[1]))
    values, indices = op.TopK(wide, length, axis=dim, largest=int(descending), sorted=1)
    return values if wide is self else op.CastLike(values, self), indices


def _sorted_as_it_is(value: Any) -> bool:
    return str(getattr(value, "dtype", None)).upper().rpartition(".")[2] in ("FLOAT", "DOUBLE", "INT32", "INT64")
