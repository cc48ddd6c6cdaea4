"""docs/coverage.md is what the registry says today, and every pair in it does what it says."""

from pathlib import Path

import pytest

import tokenreduce
from tokenreduce.lab.coverage import coverage
from tokenreduce.report.coverage_tables import markdown
from tokenreduce_methods.e_adaprune.method import EAdaPrune

pytestmark = pytest.mark.sweep  # every reducer on every model
PROTECTED = 5  # class and register tokens, at most
PADDING = 4  # of the examples, at most
PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"


@pytest.fixture(scope="module")
def cells():
    return list(coverage())


def test_the_page_is_current(cells):
    """Run ``tokenreduce coverage`` and put its output below the line in docs/coverage.md."""
    _, _, tables = PAGE.read_text().partition("\n---\n\n")
    assert tables == markdown(cells)


def test_every_adapter_has_examples_and_every_reducer_is_tried(cells):
    registry = tokenreduce.registry.default_registry()
    assert {cell.adapter for cell in cells} == set(registry.adapters)
    assert {cell.reducer for cell in cells} == set(registry.reducers)


def test_whatever_runs_removes_tokens_and_whatever_does_not_says_why(cells):
    registry = tokenreduce.registry.default_registry()
    for cell in cells:
        if cell.tokens is None:
            assert len(cell.reason) > 20, cell
            continue
        before, after = cell.tokens
        if registry.reducers[cell.reducer].spec.role == "baseline":
            assert before == after, cell
        elif cell.reducer == "smarttrim":  # new trimmers keep all but padding
            assert before - PADDING <= after <= before, cell
        elif cell.reducer == "e-adaprune" and before - PROTECTED <= EAdaPrune.min_keep:  # so few that it may keep all
            assert after <= before, cell
        else:
            assert after < before, cell


def test_each_default_stack_takes_every_control_and_baseline(cells):
    registry = tokenreduce.registry.default_registry()
    free = {name for name, entry in registry.reducers.items() if entry.spec.role != "method"}
    first = {(cell.adapter, cell.example): cell.stack for cell in reversed(cells)}
    for cell in cells:
        if cell.reducer in free and cell.stack == first[cell.adapter, cell.example]:
            assert cell.tokens is not None, cell


def test_every_family_of_language_models_is_tried_on_every_stack(cells):
    from tokenreduce_models.transformers.language.families import FAMILIES

    registry = tokenreduce.registry.default_registry()
    classes = {cls.__name__ for family in FAMILIES.values() for cls in family.outer}
    mine = [cell for cell in cells if cell.adapter == "hf-lvlm"]
    assert {(cell.example, cell.stack, cell.reducer) for cell in mine} == {
        (name, stack, reducer)
        for name in classes
        for stack in ("handover", "language", "vision")
        for reducer in registry.reducers
    }
    for cell in mine:  # FastV's rows are those of the layers, whatever the family
        if cell.reducer == "fastv" and cell.stack != "vision":
            assert (cell.tokens is not None) == (cell.stack == "language"), cell
        if cell.reducer == "divprune" and cell.stack != "vision":
            assert cell.tokens is not None, cell
    assert not [cell for cell in mine if "it provides" in cell.reason]
