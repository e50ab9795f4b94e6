"""The fast reader returns the same trials as Optuna's own reader."""

import math

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from hpsearch.study import fast_reader
from hpsearch.study.storage import sqlite


@pytest.fixture
def storage(tmp_path):
    storage = sqlite(str(tmp_path / "optuna.db"), timeout_s=5, patience_s=5)
    study = optuna.create_study(study_name="s", storage=storage)
    kinds = {
        "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "version": optuna.distributions.CategoricalDistribution(("v1", "v2", None)),
        "depth": optuna.distributions.IntDistribution(2, 8, step=2),
    }
    for value in (0.5, math.inf, -math.inf):
        study.add_trial(
            create_trial(
                params={"rate": 0.01, "version": None, "depth": 4},
                distributions=kinds,
                value=value,
                user_attrs={"ticket": 3, "history": {"finished": "0-2"}, "lease": None},
                system_attrs={"why": [1, 2]},
                intermediate_values={3: math.nan, 1: 1.5, 2: math.inf},
            )
        )
    study.enqueue_trial({"rate": 0.02})
    study.ask(), study.ask()
    study.add_trial(create_trial(state=TrialState.FAIL))
    return storage


@pytest.mark.parametrize("batch", [500, 2])
@pytest.mark.parametrize(
    "states", [None, (TrialState.COMPLETE,), (TrialState.RUNNING, TrialState.WAITING)]
)
@pytest.mark.parametrize("keys", [(set(), -1), ({1, 2, 5}, 3), (set(), 4), ({1}, 100)])
def test_trials_are_those_that_optuna_reads(storage, monkeypatch, batch, states, keys):
    monkeypatch.setattr(fast_reader, "MOST_KEYS", batch)
    ours = storage._get_trials(1, states, *keys)
    theirs = RDBStorage._get_trials(storage, 1, states, *keys)
    assert [repr(t) for t in ours] == [repr(t) for t in theirs]  # nan is not equal to itself
    assert [t._trial_id for t in ours] == [t._trial_id for t in theirs]


def test_two_objectives_stand_in_their_order(tmp_path):
    storage = sqlite(str(tmp_path / "optuna.db"), timeout_s=5, patience_s=5)
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    study.add_trial(create_trial(values=[1.0, 2.0]))
    assert study.get_trials()[0].values == [1.0, 2.0]


def test_a_study_that_is_gone_is_an_error_as_in_optuna(storage):
    with pytest.raises(KeyError, match="Record does not exist") as theirs:
        RDBStorage._get_trials(storage, 17, None, set(), -1)
    with pytest.raises(KeyError) as ours:
        storage._get_trials(17, None, set(), -1)
    assert str(ours.value) == str(theirs.value)
