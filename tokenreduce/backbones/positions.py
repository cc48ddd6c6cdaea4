"""What a block needs of its tokens' positions. Axes: B batch, N tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

Positions: TypeAlias = Mapping[str, Tensor]
"""Per-token tensors (B or 1, N, ...) by name, such as rotary angles; they are reduced with the tokens."""
