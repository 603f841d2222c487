"""examples/digits.ipynb runs from top to bottom, in a kernel of its own."""

import re
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[1] / "examples" / "digits.ipynb"


def test_the_notebook_runs(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    first = next(cell for cell in book.cells if "EPOCHS, BATCH, LATENT = " in cell.source)
    first.source = first.source.replace("EPOCHS, BATCH, LATENT = 25,", "EPOCHS, BATCH, LATENT = 3,")
    assert "LATENT = 3," in first.source
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = "".join(output.get("text", "") for output in outputs)
    assert "Warning" not in text
    assert "'topk/k': 32" in text  # the floor, half of 64
    found = re.findall(r"^(full batch|top-k) +seed (\d): ([\d.]+)$", text, re.M)
    assert len(found) == 4
    assert all(0 < float(value) < 20 for *_, value in found)
    assert len({value for *_, value in found}) == 4  # seeds and arms differ
    assert "two seeds of the full batch differ by" in text
