"""A model with a reducer attached, written for a server: ``torch.export`` (.pt2), ONNX (.onnx), OpenVINO (.xml)."""

from __future__ import annotations

from .agreement import Agreement, compare_closely, compare_outputs
from .formats import FORMATS, export, load
from .program import Served, export_program, without_masks
from .translations import onnx_translations

__all__ = [
    "FORMATS",
    "Agreement",
    "Served",
    "compare_closely",
    "compare_outputs",
    "export",
    "export_program",
    "load",
    "onnx_translations",
    "without_masks",
]
