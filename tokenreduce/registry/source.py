"""What the source of a reducer's class says, read without importing it: that would import torch."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASES: dict[str, dict[str, Any]] = {"BaseReducer": {}, "Reducer": {"keep": None, "remove": None}}
"""Classes of ``tokenreduce.methods`` that a reducer may derive from, and the options that they have."""


@dataclass(frozen=True)
class ClassSource:
    """Options with their defaults, and the docstring, of a class."""

    options: dict[str, Any]
    doc: str


def read_class(target: str) -> ClassSource | None:
    """What ``"module:Class"`` says of itself; None where that cannot be read off its source alone."""
    module, _, name = target.partition(":")
    path = source_file(module)
    try:
        tree = None if path is None else ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    if tree is None:
        return None
    known = _imported(tree)
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None or found.decorator_list or found.keywords:
        return None
    options: dict[str, Any] = {}
    for base in found.bases:
        if not isinstance(base, ast.Name) or base.id not in known:
            return None
        options |= BASES[known[base.id]]
    for node in found.body:
        try:
            options |= _option(node, options)
        except ValueError:  # a default that is computed
            return None
    return ClassSource(options, ast.get_docstring(found) or "")


def source_file(module: str) -> Path | None:
    """The file of a module, found without importing it or what it is in."""
    top, *inside = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inside:
        return None if spec.origin is None else Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *inside)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def _imported(tree: ast.Module) -> dict[str, str]:
    """Names under which the module has the classes of :data:`BASES`."""
    found: dict[str, str] = {}
    for node in tree.body:
        ours = isinstance(node, ast.ImportFrom) and (
            node.module in ("tokenreduce", "tokenreduce.methods") or node.level
        )
        if isinstance(node, ast.ImportFrom) and ours:
            found |= {one.asname or one.name: one.name for one in node.names if one.name in BASES}
    return found


def _option(node: ast.stmt, inherited: dict[str, Any]) -> dict[str, Any]:
    """The option that a statement in the class's body gives; ValueError where its default is no literal."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        if "ClassVar" in ast.dump(node.annotation):
            return {}
        return {node.target.id: ast.literal_eval(node.value)}
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        return {name: ast.literal_eval(node.value)} if name in inherited else {}
    return {}
