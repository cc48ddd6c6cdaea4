"""The core names no method, no backbone library and no model family: neither in imports nor in other ways."""

import ast
import os
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import tokenreduce
from tokenreduce.registry import default_registry

ROOT = Path(__file__).parents[2]
CORE = Path(tokenreduce.__file__).parent
LIBRARIES = "{'timm', 'torchvision', 'transformers', 'open_clip'}"
FAMILIES = (
    "vilt|meter|clip|siglip|blip|deit|dinov2|dinov3|vitmae|videomae|bridgetower|coca|roberta|timm|torchvision|"
    "transformers|open_clip"
)
METHODS = "|".join(name for name in default_registry().reducers if name not in ("none", "random"))
NAMES = re.compile(rf"(?<![a-z])({METHODS}|{FAMILIES})(?![a-z])", re.I)
OF_TORCH = {"clip_grad_norm_"}
EXAMPLES = re.compile(
    "for example|like \\{|for transformers that|transformers_version|CLIP of transformers|use one that does"
)


def test_imports_keep_the_contracts(python):
    """Run ``PYTHONPATH=plugins:adapters lint-imports``."""
    code = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    done = python("-c", code, cwd=ROOT, PYTHONPATH=os.pathsep.join(["plugins", "adapters"]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import tokenreduce.cli; tokenreduce.cli.main(['list'])", f"{LIBRARIES} | {{'torch', 'sklearn'}}"),
        ("tokenreduce.registry.default_registry()", f"{LIBRARIES} | {{'torch', 'sklearn'}}"),
        ("[getattr(tokenreduce, name) for name in tokenreduce.__all__]", LIBRARIES),
    ],
)
def test_nothing_heavy_is_imported_without_need(python, statement, heavy):
    code = f"import sys, tokenreduce; {statement}; found = ({heavy}) & set(sys.modules); assert not found, found"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_built_in_plugins_come_through_entry_points_as_all_others_do():
    offered = {entry.plugin for table in default_registry().tables.values() for entry in table.values()}
    assert offered <= {point.name for point in entry_points(group="tokenreduce")}


def test_no_names_in_strings_and_identifiers():
    """What imports do not show, such as ``if name == "pumer"``; docstrings and the examples in messages are free."""
    found = {}
    for file in sorted(CORE.rglob("*.py")):
        tree = list(ast.walk(ast.parse(file.read_text())))
        scopes = [node for node in tree if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
        docs = {ast.get_docstring(node, clean=False) for node in scopes}
        strings = [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        words = [text for text in strings if text not in docs and not EXAMPLES.search(text)]
        words += [node.id for node in tree if isinstance(node, ast.Name)]
        words += [node.attr for node in tree if isinstance(node, ast.Attribute)]
        found[str(file.relative_to(CORE))] = [word for word in words if word not in OF_TORCH and NAMES.search(word)]
    assert not any(found.values()), {name: words for name, words in found.items() if words}
