"""docs/python.md: every example runs, in a script and in a notebook."""

import asyncio
import re
import threading
import time
from contextlib import chdir
from pathlib import Path

import pytest

from hpsearch.study.trial_end import TrialEnd
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
STOPPED = """
import time
from pathlib import Path
import keras_tuner

class Waiting(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if self.params["epochs"] == 1:  # a model is tried before the search
            return
        try:
            Path("in_a_trial").touch()
            while not Path("interrupted").exists():
                time.sleep(0.05)
        except KeyboardInterrupt:
            Path("interrupted").touch()
            raise

class Model(keras_tuner.HyperModel):
    def build(self, hp):
        return build_model(hp)

    def companions(self):
        return [Waiting()]

def stopped():
    return hpsearch.search(
        Model, x[:1500], y[:1500], n_val=300, n_trials=1, epochs=2, study_name="stopped"
    )

stopped()
"""
ON = "print('WENT ON', list(stopped().trials()['end']))"


def interrupt(client, folder):
    """Interrupt the kernel, as a notebook's stop button does, once a trial has begun."""
    while not (folder / "in_a_trial").exists():
        time.sleep(0.05)
    asyncio.run(client.km.interrupt_kernel())


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
    cells = [nbformat.v4.new_code_cell(code) for code in (*CELLS, AGAIN, OWN_LAYER, STOPPED, ON)]
    cells[-2].metadata.tags = ["raises-exception"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    stop = threading.Thread(target=interrupt, args=(client, workplace.folder), daemon=True)
    stop.start()
    with chdir(workplace.folder):
        client.execute()
    first, result, evaluated, _, again, refused, stopped, on = cells
    assert "'units'" in printed(first)
    assert "result.evaluate(), where result is what hpsearch.search" in printed(first)
    assert "npz-own 1" in printed(result)
    page = re.search(r"The page is (\S+/evaluation\.html)", printed(evaluated))
    assert "Verdict" in Path(page[1]).read_text()
    assert "AGAIN 3 narrow" in printed(again)
    assert "<table>" in printed(again)
    assert "REFUSED" in printed(refused)
    assert "Own is defined in the notebook" in printed(refused)
    (error,) = [output for output in stopped.outputs if output.output_type == "error"]
    assert error.ename == "KeyboardInterrupt"
    assert "During handling" not in "".join(error.traceback)
    assert "WENT ON ['finished']" in printed(on)
    ends = [TrialEnd.of(trial) for trial in workplace.study("stopped").trials]
    assert ends == [TrialEnd.INTERRUPTED, TrialEnd.FINISHED]
    assert {study.name for study in workplace.client.search_registered_models()} == {
        "npz-own",
        "narrow",
        "stopped",
    }
