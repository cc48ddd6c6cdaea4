"""A new plugin as a complete small package, for ``tokenreduce new``.

The folders beside this file are what gets written, one for each kind: ``reducer/``, ``adapter/``, ``task/``. Each file
ends in ``.tmpl`` so that no tool takes it for code of this project; the folder ``package`` gets the package's name, and
``${name}``, ``${package}``, ``${distribution}``, ``${class_name}`` and ``${interface}`` stand for what they say.
"""

from __future__ import annotations

from .names import Names, named
from .writing import KINDS, next_steps, render, write

__all__ = ["KINDS", "Names", "named", "next_steps", "render", "write"]
