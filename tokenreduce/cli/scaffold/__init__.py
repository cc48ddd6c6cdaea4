"""A new plugin as a complete small package, for ``tokenreduce new``.

The folders beside this file are what gets written, one for each kind: ``reducer/``, ``adapter/``, ``task/``. Each file
ends in ``.tmpl`` so that no tool takes it for code of this project; the folder ``package`` gets the package's name, and
``${name}``, ``${package}``, ``${distribution}``, ``${class_name}`` and ``${interface}`` stand for what they say.
"""

from __future__ import annotations

from .files import KINDS, next_steps, render, write
from .names import Names, plugin_names

__all__ = ["KINDS", "Names", "next_steps", "plugin_names", "render", "write"]
