"""The example notebook runs from top to bottom, and draws what it says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline import open_run

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "from-training-to-figures.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 2
    printed = "".join(one.get("text", "") for one in outputs)
    # What it says, by the numbers: memorised early, generalised later.
    losses = open_run(tmp_path / "grokking" / "run.zarr")["modular_addition"]
    assert (
        float(losses["train_loss"].sel(step=100)) < 0.1 < float(losses["test_loss"].sel(step=100))
    )
    assert float(losses["test_loss"][-1]) < 0.1
    assert "train_loss: from step" in printed and "test_loss: from step" in printed
    assert "- The model memorised the train pairs" in printed


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(
        not cell.outputs and cell.execution_count is None for cell in cells if "outputs" in cell
    )
