"""What a model costs: multiply-adds, time, memory; and options with which a method keeps what was asked for."""

from __future__ import annotations

from .mean_budget import calibrate

__all__ = ["calibrate"]
