"""Check the MLflow store that a job will use, before anything is made there.

This file imports no MLflow, since importing it takes seconds that few mistakes need.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from hpsearch import command_form
from hpsearch.errors import TrackingError, first_line
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study.database import check_database, why_not
from hpsearch.study.sqlite_file import check_file

_FORMS = "http://HOST:PORT of a server or sqlite:///FILE.db"
_DATABASES = ("postgresql", "mysql", "mssql")
_OTHERS = ("file", "databricks", "databricks-uc", "uc")


@dataclass(frozen=True)
class Store:
    """An MLflow store and an experiment there, as settings and the environment name them.

    Args:
        given_uri: The tracking URI; None takes MLFLOW_TRACKING_URI, or `mlflow.db` in the current
            folder.
        given_experiment: The name of an experiment; None takes MLFLOW_EXPERIMENT_NAME, or Default.
            Under `mlflow run` it is the experiment that `mlflow run` has chosen.
    """

    given_uri: str | None
    given_experiment: str | None

    @property
    def uri(self) -> str:
        """The tracking URI."""
        given = self.given_uri or os.environ.get("MLFLOW_TRACKING_URI")
        return given or "sqlite:///mlflow.db"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise TrackingError in place of an error of MLflow; its sentence names the store."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 (it takes seconds)

        try:
            yield
        except (MlflowException, OSError) as error:
            raise self.fault(error) from error

    def fault(self, error: Exception) -> TrackingError:
        """Return an error that says why the store cannot be used, and what helps.

        Args:
            error: What MLflow has raised. The store itself is asked first, which says it better.
        """
        try:
            self.check(10.0, 0.0, _to_nobody)
        except TrackingError as found:
            return found
        sentences = re.split(r"[.:] (?=[A-Z])", first_line(error))
        return self._fault(sentences[0].rstrip("."))

    def _fault(self, cause: str) -> TrackingError:
        return TrackingError(
            f"The MLflow store {without_secrets(self.uri)} cannot be used "
            f"({without_secrets(cause)}); tracking.uri or MLFLOW_TRACKING_URI must name a running "
            "server or a database file that can be written."
        )

    @property
    def experiment_id(self) -> str | None:
        """The id of the experiment, where the environment names one and no setting does."""
        if self.given_experiment:
            return None
        return os.environ.get("MLFLOW_EXPERIMENT_ID")

    @property
    def experiment(self) -> str:
        """The name of the experiment, where no id is given."""
        return self.given_experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"

    @property
    def is_server(self) -> bool:
        """Whether the store is a server."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None for every other store."""
        scheme, separator, rest = self.uri.partition(":///")
        path = rest.partition("?")[0]
        if not scheme.startswith("sqlite") or not separator or path in ("", ":memory:"):
            return None
        # `mlflow run` writes a blank as %20, and not every SQLAlchemy reads it so.
        if not Path(path).exists() and Path(unquote(path)).exists():
            return Path(unquote(path))
        return Path(path)

    def check_exists(self) -> None:
        """Check that a database file of MLflow exists, since MLflow makes it where it does not.

        Raises:
            TrackingError: The URI names a file that does not exist.
        """
        if self.file is None or self.file.exists():
            return
        raise TrackingError(
            f"There is no MLflow database {self.file} here: run this in the folder of the search, "
            "or give the store of its runs, tracking.uri=URI or MLFLOW_TRACKING_URI."
        )

    def check(
        self,
        timeout_s: float,
        patience_s: float,
        say: Callable[[str], object],
    ) -> None:
        """Check that the store answers, and that the experiment there is not deleted.

        Args:
            timeout_s: How long a server may take, in seconds.
            patience_s: How long a lock of a database file is waited for, in seconds.
            say: Called with a sentence where the check waits.

        Raises:
            TrackingError: One of them cannot be used. The sentence says why, and what helps.
        """
        self._check_form()
        found = None
        if self.is_server:
            found = self._asked(timeout_s)
        elif self.file is not None:
            self._check_file(self.file, patience_s, say)
            found = self._read(self.file)
        elif self.uri.startswith(_DATABASES):
            self._check_database()
        if found is not None:
            self.check_active(*found)

    def check_reachable(self) -> None:
        """Check within seconds that the store takes what is written; a server answers, no more.

        Raises:
            TrackingError: It is away. MLflow's own client would try for minutes.
        """
        if self.is_server:
            from hpsearch.tracking.server import ask  # noqa: PLC0415 (it imports MLflow)

            ask(self.uri, "experiments/search", 10.0, {"max_results": "1"})
        elif self.file is not None:
            self._check_file(self.file, 5.0, _to_nobody)

    def _check_file(
        self,
        file: Path,
        patience_s: float,
        say: Callable[[str], object],
    ) -> None:
        try:
            check_file(file, patience_s, say)
        except TimeoutError as error:
            raise TrackingError(
                f"The MLflow store {without_secrets(self.uri)} cannot be used: {error}; end that "
                "process, or wait for its end."
            ) from error
        except OSError as error:
            raise self._fault(str(error)) from error

    def _check_database(self) -> None:
        shown = without_secrets(self.uri)
        try:
            check_database(self.uri, "experiments")
        except OSError as error:
            raise TrackingError(f"The MLflow store {shown} cannot be used: {error}.") from error
        except SQLAlchemyError as error:
            cause = without_secrets(why_not(self.uri, error))
            raise TrackingError(f"The MLflow store {shown} cannot be used: {cause}.") from error
        except ImportError as error:
            raise TrackingError(
                f"The MLflow store {shown} cannot be used: {error}; install the driver."
            ) from error

    def _check_form(self) -> None:
        """Raise TrackingError where MLflow could not read the URI, or would misread it."""
        uri = self.uri
        scheme = ""
        if ":" in uri:
            scheme = uri.partition(":")[0]
        if self._is_well_formed(scheme):
            return
        key = "tracking.uri"
        if not self.given_uri:
            key = "MLFLOW_TRACKING_URI"
        raise TrackingError(
            f"{key}={without_secrets(uri)} is no address of an MLflow store; give {_FORMS}."
        )

    def _is_well_formed(self, scheme: str) -> bool:
        uri = self.uri
        kind = scheme.partition("+")[0]
        if kind in ("http", "https"):
            return _is_address(uri)
        if kind == "sqlite":
            return uri == "sqlite://" or uri.startswith(f"{scheme}:///")
        if kind in _DATABASES:
            return uri.startswith(f"{scheme}://")
        if not scheme:
            return re.match(r"(https?|sqlite|postgresql|localhost)\b", uri) is None or (
                Path(uri).exists()
            )
        plugins = entry_points(group="mlflow.tracking_store").names
        return kind in _OTHERS or kind in plugins or uri in _OTHERS

    def _asked(self, timeout_s: float) -> tuple[str, str] | None:
        """Return id and stage of the experiment on a server; None where there is none yet."""
        from hpsearch.tracking.server import ask  # noqa: PLC0415 (it imports MLflow)

        if "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` has just made it there
            ask(self.uri, "runs/get", timeout_s, {"run_id": os.environ["MLFLOW_RUN_ID"]})
            return None
        known = self.experiment_id
        found: dict[str, Any] | None
        if known is not None:
            found = ask(self.uri, "experiments/get", timeout_s, {"experiment_id": known})
        else:
            query = {"experiment_name": self.experiment}
            found = ask(self.uri, "experiments/get-by-name", timeout_s, query)
        if found is None:
            self._check_known_id()
            return None
        if "experiment" not in found:
            raise TrackingError(
                f"The MLflow server {without_secrets(self.uri)} cannot be used: what answers "
                "there is no MLflow server; give the address of mlflow server, with its port."
            )
        experiment = found["experiment"]
        return str(experiment["experiment_id"]), str(experiment["lifecycle_stage"])

    def _read(self, file: Path) -> tuple[str, str] | None:
        """Return id and stage of the experiment in a database file; None where there is none yet.

        MLflow's own code would make or change the tables first.
        """
        if not file.exists() or "MLFLOW_RUN_ID" in os.environ:
            return None
        column, value = "name", self.experiment
        if self.experiment_id is not None:
            column, value = "experiment_id", self.experiment_id
        uri = f"file:{quote(str(file.absolute()))}?mode=ro"
        query = (
            f"SELECT experiment_id, lifecycle_stage FROM experiments WHERE {column} = ? "
            "ORDER BY lifecycle_stage"
        )
        try:
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                row = connection.execute(query, [value]).fetchone()
        except sqlite3.Error:  # it has no tables yet, or those of another version of MLflow
            return None
        if row is None:
            self._check_known_id()
            return None
        return str(row[0]), str(row[1])

    def _check_known_id(self) -> None:
        if self.experiment_id is None:
            return
        raise TrackingError(
            f"There is no experiment with the id {self.experiment_id} at "
            f"{without_secrets(self.uri)}, but MLFLOW_EXPERIMENT_ID names it; unset it, or give "
            "another experiment, tracking.experiment=NAME."
        )

    def check_active(self, experiment_id: str, stage: str) -> None:
        """Raise TrackingError where the experiment is deleted, so that nothing can be written."""
        if stage != "deleted":
            return
        uri = command_form.store_in_shell(self.uri)
        raise TrackingError(
            f"The experiment {experiment_id} at {without_secrets(self.uri)} is deleted; restore "
            f"it with: MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id "
            f"{experiment_id}, or give another one, tracking.experiment=NAME."
        )


def _to_nobody(_sentence: str) -> None:
    """Say nothing."""


def _is_address(uri: str) -> bool:
    """Return whether a URI of a server has a host, and a port that there can be."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    return "://" in uri and bool(parts.hostname) and port != 0
