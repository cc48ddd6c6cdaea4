"""The ablations of the paper, as a grid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def paper() -> dict[str, Any]:
    """Parts taken out, modalities mixed, and layers early, late and cascaded (paper, ablation study)."""
    return tomllib.loads((Path(__file__).parent / "paper.toml").read_text())
