"""Tell what does not exist in MLflow from what could not be asked.

Any other error, such as a locked database or a login that is refused, is never taken for an
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException

_Result = TypeVar("_Result")


def unless_absent(call: Callable[[], _Result]) -> _Result | None:
    """Return what `call` asks of MLflow; None where MLflow says that it does not exist.

    Raises:
        MlflowException: MLflow has given another answer, or none.
    """
    try:
        return call()
    except MlflowException as error:
        if not _is_absent(error):
            raise
        return None


def is_answer(error: MlflowException) -> bool:
    """Return whether a store has answered, and would answer the same when it is asked again.

    Any other failure may pass.
    """
    return error.error_code in {
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_ALREADY_EXISTS",
        "INVALID_STATE",
        "BAD_REQUEST",
    }


def _is_absent(error: MlflowException) -> bool:
    """Return whether an error is MLflow's answer that something does not exist.

    MLflow 3.17 calls an alias that a registered model does not have an invalid value.
    """
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return True
    is_invalid = error.error_code == "INVALID_PARAMETER_VALUE"
    message = str(error.message)
    return is_invalid and "Registered model alias" in message and message.endswith(" not found.")
