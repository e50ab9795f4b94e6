"""Reads what trials hold from Optuna's tables as rows, where Optuna itself makes an object of each
row.

A look at the study reads every trial that runs anew, at each claim and each rung; many workers
spend most of their time on it, and nearly all of that on the objects. The tables are those of
Optuna 5; a test compares with Optuna's reader.
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

MOST_KEYS = 500  # databases bound the number of parameters in a statement
Rows = dict[int, list[Any]]


def read_trials(
    session: Session,
    study_id: int,
    states: Container[TrialState] | None,
    known: Iterable[int],
    after: int,
) -> list[FrozenTrial]:
    """Return the trials of a study, by their keys: those of `known`, and all with a key greater
    than `after`.

    Raises:
        KeyError: There is no such study.
    """
    trial = models.TrialModel
    chosen = sqlalchemy.select(trial).where(trial.study_id == study_id)
    *batches, last = [*_batches([key for key in known if key <= after])] or [[]]
    found: list[Any] = [
        row for keys in batches for row in session.scalars(chosen.where(trial.trial_id.in_(keys)))
    ]
    # The new ones last: a trial that is to be tried again has its successor before it ends.
    found += session.scalars(chosen.where(trial.trial_id.in_(last) | (trial.trial_id > after)))
    if not found:
        models.StudyModel.find_or_raise_by_id(study_id, session)
    if states is not None:
        found = [row for row in found if row.state in states]
    found.sort(key=lambda row: row.trial_id)
    read = functools.partial(_rows_of, session, [row.trial_id for row in found])
    params = read(
        models.TrialParamModel, "param_id", "param_name", "param_value", "distribution_json"
    )
    values = read(models.TrialValueModel, "objective", "value", "value_type")
    user_attrs = read(models.TrialUserAttributeModel, "key", "value_json")
    system_attrs = read(models.TrialSystemAttributeModel, "key", "value_json")
    epochs = read(
        models.TrialIntermediateValueModel, "step", "intermediate_value", "intermediate_value_type"
    )
    return [
        FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=_values(values[row.trial_id]),
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            **_drawn(params[row.trial_id]),
            user_attrs={key: json.loads(text) for key, text in user_attrs[row.trial_id]},
            system_attrs={key: json.loads(text) for key, text in system_attrs[row.trial_id]},
            intermediate_values=_epochs(epochs[row.trial_id]),
            trial_id=row.trial_id,
        )
        for row in found
    ]


def _batches(keys: list[int]) -> Iterator[list[int]]:
    for begin in range(0, len(keys), MOST_KEYS):
        yield keys[begin : begin + MOST_KEYS]


def _rows_of(session: Session, keys: list[int], model: Any, *names: str) -> Rows:
    """Return what a table holds of each trial, in the order of the first column."""
    rows: Rows = defaultdict(list)
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


def _values(rows: list[Any]) -> list[float] | None:
    return [
        models.TrialValueModel.stored_repr_to_value(value, kind) for _, value, kind in rows
    ] or None


def _epochs(rows: list[Any]) -> dict[int, float]:
    read = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return {step: read(value, kind) for step, value, kind in rows}


def _drawn(rows: list[Any]) -> dict[str, Any]:
    distributions = {name: _distribution(text) for _, name, _, text in rows}
    params = {name: distributions[name].to_external_repr(value) for _, name, value, _ in rows}
    return {"params": params, "distributions": distributions}


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """All trials of a search share a few."""
    return json_to_distribution(text)
