"""docs/python.md: every example runs, in a script and in a notebook."""

import re
from contextlib import chdir
from pathlib import Path

import pytest

from workplace import SRC

nbclient = pytest.importorskip("nbclient", reason="requirements-dev.txt is not installed")
nbformat = pytest.importorskip("nbformat", reason="requirements-dev.txt is not installed")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()
CELLS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
AGAIN = """
again = hpsearch.search(
    build_model, x[:1500], y[:1500], n_val=300, n_trials=3, epochs=2, study_name="narrow",
    pruner="promoting", monitor="val/accuracy",
    space={"lr": {"low": 1e-3, "high": 1e-2, "scale": "log"}, "units": 64},
    config={"training.patience_epochs": 2},
)
print("AGAIN", len(again.trials()), again.study_name)
again
"""
OWN_LAYER = """
class Own(layers.Layer):
    def call(self, x):
        return x

def with_own(hp):
    model = keras.Sequential([layers.Flatten(), Own(), layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.SGD(hp.Float("lr", 0.1, 0.2)), "categorical_crossentropy")
    return model

try:
    hpsearch.search(with_own, x, y, n_val=300, study_name="own")
except hpsearch.errors.ModelError as error:
    print("REFUSED", error)
"""


def printed(cell):
    """Return what a cell has printed, and what it shows as HTML."""
    texts = []
    for output in cell.outputs:
        texts.append(output.get("text", ""))
        texts.append(output.get("data", {}).get("text/html", ""))
    return "".join(texts)


@pytest.mark.slow
def test_the_page_runs_in_a_notebook_and_a_second_call_goes_on(workplace, monkeypatch):
    uri = f"sqlite:///{workplace.folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PYTHONPATH", str(SRC))
    cells = [nbformat.v4.new_code_cell(code) for code in (*CELLS, AGAIN, OWN_LAYER)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with chdir(workplace.folder):
        nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    first, result, _, again, refused = cells
    assert "'units'" in printed(first)
    assert "npz-own 1" in printed(result)
    assert "AGAIN 3 narrow" in printed(again)
    assert "<table>" in printed(again)
    assert "REFUSED" in printed(refused)
    assert "Own is defined in the notebook" in printed(refused)
    assert {study.name for study in workplace.client.search_registered_models()} == {
        "npz-own",
        "narrow",
    }
