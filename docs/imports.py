"""Draw which package imports which: ``python docs/imports.py`` writes pictures/imports.svg, ``--check`` compares.

The imports are read from the code by grimp, the floors from the contract in pyproject.toml. An arrow that follows from
others is left out: what imports ``engine`` may import what ``engine`` imports.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp
from pictures.draw import CARD, EDGE, IMAGE, PLAIN, SOFT, TEXT, arrow, box, escape, words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
PICTURE = HERE / "pictures" / "imports.svg"
CORE = "tokenreduce"
OUTSIDE = {  # beside which floor they stand
    "tokenreduce_digits": 1,
    "tokenreduce_models": 2,
    "tokenreduce_evals": 3,
    "tokenreduce_methods": 5,
}
PUBLIC = {"methods", "backbones", "tasks", "registry", "ops", "errors", "testing", "train"}
ACROSS = {  # horizontal centre of each box
    "cli": 290,
    "report": 290,
    "lab": 290,
    "measure": 130,
    "train": 290,
    "testing": 430,
    "export": 570,
    "attachments": 400,
    "engine": 400,
    "methods": 400,
    "tasks": 130,
    "core": 330,
    "ops": 150,
    "backbones": 330,
    "registry": 520,
    "_torch": 330,
    "_documents": 150,
    "errors": 330,
    "_version": 690,
    **dict.fromkeys(OUTSIDE, 830),
}
WIDTH, HEIGHT, HIGH, STEP, TOP = 940, 850, 38, 72, 62


def floors() -> list[list[str]]:
    """The packages of each floor, the highest first."""
    config = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    return [[name.strip() for name in floor.split("|")] for floor in layers]


def imports(names: list[str]) -> dict[str, set[str]]:
    """The packages that each package imports itself."""
    graph = grimp.build_graph(CORE, *OUTSIDE, cache_dir=None)
    modules = {name if name in OUTSIDE else f"{CORE}.{name}": name for name in names}
    for module in modules:
        graph.squash_module(module)
    return {
        name: {modules[found] for found in graph.find_modules_directly_imported_by(module) if found in modules} - {name}
        for module, name in modules.items()
    }


def needed(direct: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others, in order."""
    reached: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in reached:
            reached[name] = direct[name].union(*(reach(other) for other in direct[name]))
        return reached[name]

    return sorted(
        (name, target)
        for name, targets in direct.items()
        for target in targets
        if not any(target in reach(other) for other in targets)
    )


def picture() -> str:
    """The picture as SVG."""
    rows = {name: number for number, floor in enumerate(floors()) for name in floor} | OUTSIDE
    unplaced = sorted(set(rows) - set(ACROSS))
    if unplaced:
        raise SystemExit(f"docs/imports.py places every package; give {', '.join(unplaced)} a centre in ACROSS")
    edges = needed(imports(list(rows)))
    parts = [words(24, 34, "Packages by floor; imports go down only", more=' font-weight="bold"')]
    parts += [words(830, 34, "plugins and adapters", "middle", more=' font-weight="bold"')]
    for name, target in edges:
        begin = (ACROSS[name], TOP + rows[name] * STEP + HIGH)
        end = (ACROSS[target], TOP + rows[target] * STEP)
        parts.append(arrow(begin, (end[0], end[1] - 12), end))
    for name, number in rows.items():
        wide = 170 if name in OUTSIDE else 124
        fill = TEXT if name in OUTSIDE else IMAGE if name in PUBLIC else PLAIN
        parts.append(box(ACROSS[name] - wide / 2, TOP + number * STEP, wide, HIGH, fill, name))
    parts.append(words(24, HEIGHT - 16, "blue: what plugins import; white: private", color=SOFT, size=13))
    desc = "Which package imports which. " + " ".join(f"{name} imports {target}." for name, target in edges)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-labelledby="t d" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">\n'
        f'<title id="t">Imports between packages</title>\n<desc id="d">{escape(desc)}</desc>\n'
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" fill="{CARD}" stroke="{EDGE}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> int:
    """Write the picture, or with ``--check`` say that it is not current."""
    after = picture()
    if "--check" not in sys.argv:
        PICTURE.write_text(after, encoding="utf-8")
        return 0
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == after:
        return 0
    print("docs/pictures/imports.svg is not current; run: python docs/imports.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
