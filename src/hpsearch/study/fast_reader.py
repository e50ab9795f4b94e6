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
_Rows = list[list[Any]]  # columns of a table


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
        known: Keys of trials to return.
        after: All trials with a greater key are returned too.

    Raises:
        KeyError: There is no such study.
    """
    found = _trial_rows(session, study_id, known, after)
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
    params = read(
        models.TrialParamModel, "param_id", "param_name", "param_value", "distribution_json"
    )
    values = read(models.TrialValueModel, "objective", "value", "value_type")
    user_attrs = read(models.TrialUserAttributeModel, "key", "value_json")
    system_attrs = read(models.TrialSystemAttributeModel, "key", "value_json")
    epochs = read(
        models.TrialIntermediateValueModel, "step", "intermediate_value", "intermediate_value_type"
    )
    trials = []
    for row in found:
        key = row.trial_id
        distributions = _distributions(params[key])
        trial = FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=_values(values[key]),
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params=_params(params[key], distributions),
            distributions=distributions,
            user_attrs=_attrs(user_attrs[key]),
            system_attrs=_attrs(system_attrs[key]),
            intermediate_values=_epochs(epochs[key]),
            trial_id=key,
        )
        trials.append(trial)
    return trials


def _trial_rows(
    session: Session,
    study_id: int,
    known: Iterable[int],
    after: int,
) -> list[Any]:
    """Return the rows of the known trials and of all later ones, the latter with the last query."""
    table = models.TrialModel
    key = table.trial_id
    chosen = sqlalchemy.select(table).where(table.study_id == study_id)
    earlier = [number for number in known if number <= after]
    batches = list(_batches(earlier))
    last: list[int] = []
    if batches:
        last = batches.pop()
    found: list[Any] = []
    for keys in batches:
        found += session.scalars(chosen.where(key.in_(keys)))
    # The new trials are read last: a trial that is tried again has its successor before it ends.
    last_or_new = key.in_(last) | (key > after)
    found += session.scalars(chosen.where(last_or_new))
    return found


def _batches(keys: list[int]) -> Iterator[list[int]]:
    for begin in range(0, len(keys), MOST_KEYS):
        yield keys[begin : begin + MOST_KEYS]


def _rows_of(
    session: Session,
    keys: list[int],
    model: Any,
    *names: str,
) -> dict[int, _Rows]:
    """Return columns of a table by the trial's key, in the order of the first column."""
    rows: dict[int, _Rows] = defaultdict(list)
    columns = [getattr(model, name) for name in names]
    for batch in _batches(keys):
        chosen = (
            sqlalchemy.select(model.trial_id, *columns)
            .where(model.trial_id.in_(batch))
            .order_by(columns[0])
        )
        for trial_id, *row in session.execute(chosen):
            rows[trial_id].append(row)
    return rows


def _values(rows: _Rows) -> list[float] | None:
    if not rows:
        return None
    read = models.TrialValueModel.stored_repr_to_value
    return [read(value, kind) for _, value, kind in rows]


def _epochs(rows: _Rows) -> dict[int, float]:
    read = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return {step: read(value, kind) for step, value, kind in rows}


def _attrs(rows: _Rows) -> dict[str, object]:
    return {key: json.loads(text) for key, text in rows}


def _distributions(rows: _Rows) -> dict[str, BaseDistribution]:
    return {name: _distribution(text) for _, name, _, text in rows}


def _params(rows: _Rows, distributions: dict[str, BaseDistribution]) -> dict[str, object]:
    params = {}
    for _, name, value, _ in rows:
        distribution = distributions[name]
        params[name] = distribution.to_external_repr(value)
    return params


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """Return the distribution that Optuna has stored as text; all trials share a few."""
    return json_to_distribution(text)
