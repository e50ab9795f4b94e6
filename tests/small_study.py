"""A study of short trials, opened as a worker opens it, and single trials without a study."""

from datetime import datetime

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from short_trials import ShortTrials


def study_in(tmp_path, **changes):
    settings = {"n_trials": 4, "epoch_s": 0.0} | changes
    trials = ShortTrials(f"journal:{tmp_path}/study.log", tmp_path, **settings)
    return trials.open_study(trials.open_storage())


def suggested(trial):
    trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    trial.suggest_float("momentum", 0.8, 0.99)
    return trial.params


def trial_of(state, has_ended=True, **attrs):
    """Return a trial in a state, with these user attributes, without a study."""
    begin = datetime(2026, 1, 1)
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        datetime_start=begin,
        datetime_complete=begin if has_ended else None,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0.0, 1.0)},
        user_attrs=attrs,
        system_attrs={},
        intermediate_values={1: 1.0},
    )
