"""What a folder with a checkpoint says of itself. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def folder_config(folder: str | Path, file: str = "config.json") -> dict[str, Any]:
    """The JSON object in a file of a folder; empty where there is no such folder, file or object."""
    try:
        found = json.loads((Path(folder) / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
