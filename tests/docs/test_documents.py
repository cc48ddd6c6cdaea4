"""Every Python block of README and docs runs, in order, page by page."""

import re
from pathlib import Path

import pytest

import tokenreduce

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.stem)
def test_code_runs(page, capsys):
    scope = {"__name__": page.stem}
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        exec(compile(block, f"{page.name} block {number}", "exec"), scope)


def test_readme_begins_with_the_two_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    block = lines[lines.index("```sh") + 1 : lines.index("```")]
    assert [line.split("#")[0].strip() for line in block] == [
        'pip install -e ".[all]" && tokenreduce ablate',
        'pip install -e ".[all,dev]" && pytest',
    ]


def test_every_reducer_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for name in tokenreduce.registry.default_registry().reducers:
        assert f"`{name}`" in text


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
