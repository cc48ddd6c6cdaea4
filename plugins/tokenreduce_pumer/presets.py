"""The ablations of the paper, as a grid."""

from __future__ import annotations

from pathlib import Path

from tokenreduce.lab.grid import Request, read


def paper() -> Request:
    """Parts taken out, modalities mixed, and layers early, late and cascaded (paper, ablation study)."""
    return read(Path(__file__).parent / "paper.toml")
