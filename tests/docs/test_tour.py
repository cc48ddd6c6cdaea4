"""The notebook of the tour runs from top to bottom, in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def test_the_tour_is_kept_without_what_a_run_leaves():
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.sweep
def test_the_tour_runs(tmp_path):
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(one.get("text", "") + str(one.get("data", {}).get("text/plain", "")) for one in outputs)
    assert "145 → 87" in printed and "smaller input" in printed and "written: picture.png" in printed
    assert (tmp_path / "picture.png").stat().st_size > 10_000
