"""The core, the laboratory and the pictures know no method, no backbone library and no model family by name."""

import ast
import re
from pathlib import Path

import pytest

import tokenreduce

CORE = Path(tokenreduce.__file__).parent
FAMILIES = "vilt|meter|clip|siglip|blip|deit|dinov2|dinov3|vitmae|videomae|bridgetower|coca|roberta"
METHODS = "|".join(name for name in tokenreduce.registry.default_registry().reducers if name not in ("none", "random"))
NAMES = re.compile(rf"(?<![a-z])({METHODS}|{FAMILIES}|timm|torchvision|transformers|open_clip)(?![a-z])", re.I)
OF_TORCH = {"clip_grad_norm_"}
EXAMPLES = re.compile(
    "for example|like \\{|for transformers that|transformers_version|CLIP of transformers|use one that does"
)


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=lambda p: p.relative_to(CORE).as_posix())
def test_no_names_but_in_examples(file):
    tree = ast.parse(file.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        words = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            words = [] if EXAMPLES.search(node.value) else [node.value]
        elif isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            words = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
        found += [word for word in words if word not in OF_TORCH and NAMES.search(word)]
    assert not found, found
