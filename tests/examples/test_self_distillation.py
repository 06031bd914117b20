"""Tests for the notebook: its outputs come from one run, and it runs with the installed packages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "examples" / "self_distillation.ipynb"
SHORTER = {"epochs = 10": "epochs = 1", "width = 64": "width = 8"}
"""Shortens the run from minutes to seconds; every cell still runs."""


def notebook() -> Any:  # noqa: ANN401 - nbformat annotates nothing
    return nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(read: Any) -> list[Any]:  # noqa: ANN401
    return [cell for cell in read.cells if cell.cell_type == "code"]


def printed(read: Any) -> Iterator[str]:  # noqa: ANN401
    for cell in code_cells(read):
        for output in cell.outputs:
            if output.output_type == "stream":
                yield from output.text.splitlines()


def has_plot(read: Any) -> bool:  # noqa: ANN401
    return any("image/png" in output.get("data", {}) for cell in code_cells(read) for output in cell.outputs)


def test_the_stored_figures_come_from_one_run_from_top_to_bottom() -> None:
    counts = [cell.execution_count for cell in code_cells(notebook())]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(notebook()) for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert has_plot(notebook())
    assert any(line.startswith("Acc(M1) < Acc(M2) < Acc(M3): ") for line in printed(notebook()))


def test_no_figure_is_typed_into_the_text() -> None:
    prose = " ".join(cell.source for cell in notebook().cells if cell.cell_type == "markdown")
    assert "%" not in prose


@pytest.mark.timeout(170)
def test_the_notebook_runs_with_the_installed_packages() -> None:
    fresh = notebook()
    for before, after in SHORTER.items():
        assert before in fresh.cells[2].source
        fresh.cells[2].source = fresh.cells[2].source.replace(before, after)
    NotebookClient(
        fresh, timeout=160, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    lines = list(printed(fresh))
    assert [line.split(":")[0] for line in lines if line.startswith("M")] == ["M1", "M2", "M3"]
    points = [line.split()[0] for line in lines if line.startswith(("exact", "balanced", "fast"))]
    assert points == ["exact", "balanced", "fast"]
    assert has_plot(fresh)
