"""A faster reader of trials from Optuna's relational tables; Optuna makes an object of each row.

Each claim and each rung reads all running trials anew. With many workers this takes most of their
time, and nearly all of that goes into the objects. The tables are those of Optuna 5; a test
compares the result with that of Optuna's reader.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

MOST_KEYS = 500  # databases limit the number of parameters in a statement


def read_trials(
    session: Session,
    study_id: int,
    states: Container[TrialState] | None,
    known: Iterable[int],
    after: int,
) -> list[FrozenTrial]:
    """Return trials of a study in the order of their keys.

    Args:
        session: An open session of the database.
        study_id: The key of the study.
        states: The states of the trials to return; None for all.
        known: The keys of trials to return.
        after: All trials with a greater key are returned too.

    Raises:
        KeyError: There is no such study.
    """
    key = models.TrialModel.trial_id
    chosen = sqlalchemy.select(models.TrialModel)
    chosen = chosen.where(models.TrialModel.study_id == study_id)
    earlier = [each for each in known if each <= after]
    found: list[Any] = []
    for keys in _batches(earlier[MOST_KEYS:]):
        of_batch = chosen.where(key.in_(keys))
        found += session.scalars(of_batch)
    # The new trials are read in the last query. A retry is created before its first try is marked
    # as ended, so whoever reads a first try as ended also reads its retry.
    is_last = key.in_(earlier[:MOST_KEYS])
    is_new = key > after
    last_or_new = chosen.where(is_last | is_new)
    found += session.scalars(last_or_new)
    if not found:
        models.StudyModel.find_or_raise_by_id(study_id, session)
    if states is not None:
        found = [row for row in found if row.state in states]
    found.sort(key=lambda row: row.trial_id)
    return _as_trials(session, found)


def _as_trials(session: Session, found: list[Any]) -> list[FrozenTrial]:
    """Return trials, given their rows in the table of trials."""
    keys = [row.trial_id for row in found]
    read = functools.partial(_rows_of, session, keys)
    drawn = read(
        models.TrialParamModel,
        "param_id",
        "param_name",
        "param_value",
        "distribution_json",
    )
    values = read(models.TrialValueModel, "objective", "value", "value_type")
    user_attrs = read(models.TrialUserAttributeModel, "key", "value_json")
    system_attrs = read(models.TrialSystemAttributeModel, "key", "value_json")
    epochs = read(
        models.TrialIntermediateValueModel,
        "step",
        "intermediate_value",
        "intermediate_value_type",
    )
    as_value = models.TrialValueModel.stored_repr_to_value
    as_reported = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    trials = []
    for row in found:
        key = row.trial_id
        params = {}
        kinds = {}
        for _, name, value, text in drawn[key]:
            kinds[name] = _distribution(text)
            params[name] = kinds[name].to_external_repr(value)
        reported = {step: as_reported(*stored) for step, *stored in epochs[key]}
        objectives = [as_value(*stored) for _, *stored in values[key]]
        trial = FrozenTrial(
            row.number,
            row.state,
            None,
            row.datetime_start,
            row.datetime_complete,
            params,
            kinds,
            {name: json.loads(text) for name, text in user_attrs[key]},
            {name: json.loads(text) for name, text in system_attrs[key]},
            reported,
            key,
            values=objectives or None,
        )
        trials.append(trial)
    return trials


def _batches(keys: list[int]) -> Iterator[list[int]]:
    for begin in range(0, len(keys), MOST_KEYS):
        yield keys[begin : begin + MOST_KEYS]


def _rows_of(
    session: Session,
    keys: list[int],
    model: Any,
    *names: str,
) -> dict[int, list[list[Any]]]:
    """Return columns of a table by the trial's key, in the order of the first column."""
    rows = defaultdict(list)
    columns = [getattr(model, name) for name in names]
    chosen = sqlalchemy.select(model.trial_id, *columns).order_by(columns[0])
    for batch in _batches(keys):
        of_batch = chosen.where(model.trial_id.in_(batch))
        for trial_id, *row in session.execute(of_batch):
            rows[trial_id].append(row)
    return rows


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """Return the distribution that Optuna has stored as text; all trials share a few."""
    return json_to_distribution(text)
