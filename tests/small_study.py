"""A study of short trials, opened as a worker opens it."""

from short_trials import ShortTrials


def study_in(tmp_path, **changes):
    settings = {"n_trials": 4, "epoch_s": 0.0} | changes
    trials = ShortTrials(f"journal:{tmp_path}/study.log", tmp_path, **settings)
    return trials.open_study(trials.open_storage())


def suggested(trial):
    trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    trial.suggest_float("momentum", 0.8, 0.99)
    return trial.params
