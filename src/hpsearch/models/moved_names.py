"""Import paths that earlier versions of hpsearch recorded, and what they are called now.

Studies, runs and registered models hold import paths: the class of an architecture, the module of a
layer. An earlier version recorded other paths, since its modules lay elsewhere.
"""

from __future__ import annotations

from typing import Any

MOVED = {
    "hpsearch.uncertainty.mc_dropout": "hpsearch.mc_dropout.prediction",
    "hpsearch.uncertainty.registration": "hpsearch.serving.registration",
    "hpsearch.training.range_test": "hpsearch.experiments.learning_rate_test",
    "hpsearch.architectures.dense": "hpsearch.models.dense",
    "hpsearch.architectures.conv": "hpsearch.models.conv",
    "hpsearch.architectures.sparsity": "hpsearch.models.sparse",
    "hpsearch.architectures.sparse": "hpsearch.models.sparse",
    "hpsearch.architectures.settings": "hpsearch.models.settings",
    "hpsearch.architectures.initializers": "hpsearch.models.initializers",
    "hpsearch.studies.budget": "hpsearch.study.budget",
    "hpsearch.studies.storage": "hpsearch.study.storage",
    "hpsearch.studies.sampling": "hpsearch.study.sampling",
    "hpsearch.studies.sampling.Hyperband": "hpsearch.study.pruners.Hyperband",
    "hpsearch.studies.promotion": "hpsearch.study.pruners",
    "hpsearch.studies.sampling.grid": "hpsearch.study.sampling.Grid",
    "hpsearch.study.sampling.grid": "hpsearch.study.sampling.Grid",
    "hpsearch.study.sampling.Hyperband": "hpsearch.study.pruners.Hyperband",
    "hpsearch.study.promotion": "hpsearch.study.pruners",
    "hpsearch.spaces.space": "hpsearch.space.space",
    "hpsearch.reports.job": "hpsearch.jobs.report",
    "hpsearch.questions.ablation": "hpsearch.experiments.ablation",
    "hpsearch.questions.probes": "hpsearch.experiments.probes",
    "hpsearch.uncertainty.job": "hpsearch.jobs.evaluate",
    "hpsearch.uncertainty.verdict": "hpsearch.evaluation.verdict",
    "hpsearch.uncertainty.calibration": "hpsearch.evaluation.calibration",
    "hpsearch.uncertainty.conformal": "hpsearch.evaluation.conformal",
    "hpsearch.evaluation.calibration.Conformal": "hpsearch.evaluation.conformal.Conformal",
    "hpsearch.uncertainty.selective": "hpsearch.evaluation.selective",
    "hpsearch.uncertainty.curve.Passes": "hpsearch.evaluation.number_of_passes.NumberOfPasses",
    "hpsearch.evaluation.number_of_passes.Passes": (
        "hpsearch.evaluation.number_of_passes.NumberOfPasses"
    ),
    "hpsearch.uncertainty.rates.Rates": "hpsearch.evaluation.dropout_rates.DropoutRates",
    "hpsearch.evaluation.dropout_rates.Rates": "hpsearch.evaluation.dropout_rates.DropoutRates",
    "hpsearch.uncertainty.ensembles": "hpsearch.evaluation.ensembles",
    "hpsearch.uncertainty.shift": "hpsearch.evaluation.shift",
    "hpsearch.uncertainty.unknown.Unknown": (
        "hpsearch.evaluation.out_of_distribution.OutOfDistribution"
    ),
    "hpsearch.evaluation.out_of_distribution.Unknown": (
        "hpsearch.evaluation.out_of_distribution.OutOfDistribution"
    ),
    "hpsearch.architectures.facts": "hpsearch.data.statistics",
    "hpsearch.jobs.Search": "hpsearch.jobs.search.Search",
}


def with_current_names(recorded: Any) -> Any:
    """Return recorded settings, as plain data, in which every import path of hpsearch is the
    current one.
    """
    if isinstance(recorded, dict):
        return {key: with_current_names(value) for key, value in recorded.items()}
    if isinstance(recorded, list):
        return [with_current_names(value) for value in recorded]
    if isinstance(recorded, str) and recorded.startswith("hpsearch."):
        return _current_name(recorded)
    return recorded


def _current_name(path: str) -> str:
    """Return the current import path of a module, or of an object that a module holds."""
    if path in MOVED:
        return MOVED[path]
    module, _, name = path.rpartition(".")
    if module in MOVED:
        return f"{MOVED[module]}.{name}"
    return path
