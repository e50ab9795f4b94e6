"""The command that compares several ways to predict with uncertainty on one page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow.artifacts import download_artifacts

from workplace import SMALL

LEFT_OUT = [
    f"parts.{part}=null" for part in ("calibration", "conformal", "selective", "shift", "passes")
]
FAST = [*LEFT_OUT, "parts.rates=null", "parts.verdict.n_seeds=2", "uncertainty.n_samples=10"]
METHODS = ("laplace", "swag", "ensemble")


def evaluate(place, *words):
    return place.here("registered_model=digits-selu", *words, *FAST, script="evaluate")


@pytest.mark.slow
def test_one_evaluation_compares_all_methods(workplace):
    small = (*SMALL, "arch=selu", "budget.n_trials=1", "pruner=none")
    done = workplace.here(*small, "space.bounds.learning_rate=0.003", "training.swag=true")
    assert done.returncode == 0, done.stderr
    done = evaluate(
        workplace,
        "uncertainty=all",
        "uncertainty.swag_samples=3",
        "uncertainty.ensemble_seeds=2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    metrics = found["metrics"]
    for method in METHODS:
        assert 0 < metrics[f"test/{method}/nll"] < 3
        assert metrics[f"test/{method}/s_per_1000"] > 0
        assert f"test/verdict/{method}/nll/p" in metrics
    assert np.isclose(metrics["test/plain/deep_ensemble_equivalent"], 1, atol=1)
    said = found["says"]["Verdict"].split("\n\n")
    assert said[0].startswith("MC Dropout, Laplace, SWAG and ensemble were compared with the plain")
    assert len(said) == 6
    costs = found["says"]["What the methods cost"]
    for method in ("Laplace: ", "SWAG: ", "ensemble: "):
        assert method in costs
    folder = download_artifacts(
        run_id=found["run_id"], tracking_uri=f"sqlite:///{workplace.folder}/mlflow.db"
    )
    assert "What the methods cost" in (Path(folder) / "evaluation.html").read_text()
    again = evaluate(workplace, "uncertainty=laplace", "--json")
    of_laplace = json.loads(again.stdout)["metrics"]
    assert not any("/mc/" in key for key in of_laplace)


@pytest.mark.slow
def test_a_version_without_moments_has_no_swag(workplace):
    done = workplace.here(*SMALL, "arch=selu", "budget.n_trials=1", "pruner=none")
    assert done.returncode == 0, done.stderr
    refused = evaluate(workplace, "uncertainty=swag")
    sentence = (
        "Version 1 of digits-selu has no moments of SWAG: search with training.swag=true, or "
        "give uncertainty.methods without swag."
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == f"Error: {sentence}"
    assert workplace.runs("evaluation") == []
    done = evaluate(workplace, "uncertainty=all", "uncertainty.methods=[laplace,swag]")
    assert done.returncode == 0, done.stderr
    assert f"SWAG is left out. {sentence}" in done.stdout
