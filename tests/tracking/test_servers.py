"""A server that cannot be used is told as what it is, and nothing is taken for its answer."""

import json
import os
import re
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from conftest import free_port
from faulty_server import ABSENT, certificate, faulty_server, silent_port
from hpsearch.errors import TrackingError
from hpsearch.tracking.absent import unless_absent
from hpsearch.tracking.client import StoreClient
from hpsearch.tracking.keys import as_key
from hpsearch.tracking.registry import Candidate, Registry
from hpsearch.tracking.server import ask
from hpsearch.tracking.store import Store

PAGE = "<html>Welcome</html>"
FAILED = '{"error_code": "INTERNAL_ERROR", "message": "(psycopg) no space left"}'
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MLFLOW_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def said_by(uri, timeout_s=1.0):
    with pytest.raises(TrackingError) as caught:
        ask(uri, "experiments/get-by-name", timeout_s, {"experiment_name": "a"})
    said = str(caught.value)
    assert said.startswith(f"The MLflow server {uri} cannot be used: "), said
    assert re.fullmatch(r".+\.", said), said
    return said


@pytest.mark.parametrize(
    ("status", "kind", "text", "cause"),
    [
        (401, "text/plain", "You are not authenticated.", f"it needs a login; set {LOGIN}"),
        (403, "application/json", '{"error_code": "PERMISSION_DENIED"}', "this login may not"),
        (403, "text/plain", "Invalid Host header - possible attack", "--allowed-hosts"),
        (404, "text/html", PAGE, "no MLflow server (HTTP 404)"),
        (200, "text/html", PAGE, "no MLflow server (HTTP 200)"),
        (200, "application/json", "[]", "no MLflow server (HTTP 200)"),
        (405, "text/html", PAGE, "no MLflow server (HTTP 405)"),
        (407, "text/html", PAGE, "the proxy in between needs a login"),
        (418, "text/html", PAGE, "no MLflow server (HTTP 418)"),
        (429, "text/html", PAGE, "too many requests"),
        (500, "application/json", FAILED, "(HTTP 500, (psycopg) no space left)"),
        (502, "text/html", PAGE, "an error of its own (HTTP 502)"),
        (503, "text/html", PAGE, "any proxy before it"),
    ],
)
def test_each_answer_that_is_none_is_told_as_what_it_is(status, kind, text, cause):
    with faulty_server((status, kind, text)) as server:
        assert cause in said_by(server.uri)
        assert len(server.seen) == 1, "a question is asked once"


def test_a_login_is_sent_as_mlflow_sends_it_and_a_wrong_one_is_told(monkeypatch):
    def check(request):
        if request.headers.get("Authorization") == "Basic bWU6cmlnaHQ=":
            return ABSENT
        return (401, "text/plain", "no")

    with faulty_server(check) as server:
        assert "it needs a login" in said_by(server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        assert "does not accept the login" in said_by(server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "right")
        assert ask(server.uri, "experiments/get-by-name", 5, {"experiment_name": "a"}) is None
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        address = server.uri.replace("://", "://me:right@")
        assert ask(address, "experiments/get-by-name", 5, {"experiment_name": "a"}) is None
        with pytest.raises(TrackingError) as caught:
            ask(address.replace("right", "s3cret"), "x", 5, {})
        assert "s3cret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_told_in_time():
    assert "nothing answers there" in said_by(f"http://127.0.0.1:{free_port()}")
    assert "there is no host nowhere.invalid" in said_by("http://nowhere.invalid:5000")
    begin = time.monotonic()
    with silent_port() as port:
        assert "has not answered for 0.5 seconds" in said_by(f"http://127.0.0.1:{port}", 0.5)
        assert "has not answered for 0.5 seconds" in said_by(f"https://127.0.0.1:{port}", 0.5)
    assert time.monotonic() - begin < 5
    with silent_port(sends=b"") as port:
        assert "ends the connection" in said_by(f"http://127.0.0.1:{port}")


def test_certificates_are_told_apart_and_mlflows_settings_hold(tmp_path, monkeypatch):
    good = certificate(tmp_path / "good.pem")
    old = certificate(tmp_path / "old.pem", valid_days=-1)
    other = certificate(tmp_path / "other.pem", host="elsewhere.example")
    with faulty_server(certificate=good) as server:
        said = said_by(server.uri)
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in said
        assert "MLFLOW_TRACKING_INSECURE_TLS" in said
        assert "it speaks https, not http" in said_by(server.uri.replace("https", "http"))
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "missing.pem"))
        assert "missing.pem" in said_by(server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", good)
        assert ask(server.uri, "x", 5, {}) is None
    for path, cause in ((old, "has expired"), (other, "is for another host")):
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", path)
        with faulty_server(certificate=path) as server:
            assert cause in said_by(server.uri)
    monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
    with faulty_server() as server:
        assert "it speaks http, not https" in said_by(server.uri.replace("http", "https"))


def test_a_server_that_wants_a_certificate_of_the_client_gets_it(tmp_path, monkeypatch):
    mine = certificate(tmp_path / "mine.pem")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", mine)
    with faulty_server(certificate=mine, wants_certificate=True) as server:
        assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in said_by(server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", mine)
        assert ask(server.uri, "x", 5, {}) is None


def test_a_proxy_is_used_and_one_that_is_away_is_told(monkeypatch):
    with faulty_server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.uri)
        assert ask("http://mlflow.example:5000", "x", 5, {}) is None
        assert proxy.seen[0][0].startswith("http://mlflow.example:5000/api/2.0/mlflow/x")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert "HTTP_PROXY, HTTPS_PROXY" in said_by("http://mlflow.example:5001")


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite://x.db",
        "sqlite:/x.db",
        "sqlite:x.db",
        "http//host",
        "http:/host",
        "http://",
        "http://:5000",
        "http://host:port",
        "http://host:99999",
        "https:host",
        "foo://x",
        "localhost:5000",
        "127.0.0.1:5000",
        "postgresql:/host/db",
        "C\\:mlruns:x",
    ],
)
def test_an_address_that_mlflow_would_misread_is_refused_by_the_name_of_its_setting(
    uri, monkeypatch
):
    with pytest.raises(TrackingError, match="no address of an MLflow store") as caught:
        Store(uri, None).check(1, 0, print)
    assert str(caught.value).startswith(f"tracking.uri={uri} is")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as caught:
        Store(None, None).check(1, 0, print)
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI={uri} is")


def locked_for(path, seconds):
    """Lock a database as another process would; return the thread and wait until it is locked."""
    is_locked = threading.Event()

    def hold():
        with sqlite3.connect(path, isolation_level=None) as database:
            database.execute("BEGIN EXCLUSIVE")
            is_locked.set()
            time.sleep(seconds)
            database.execute("ROLLBACK")
        database.close()

    thread = threading.Thread(target=hold)
    thread.start()
    is_locked.wait()
    return thread


def test_a_locked_database_is_waited_for_and_that_is_said_once(tmp_path, mlflow_tables):
    path = tmp_path / "mlflow.db"
    path.write_bytes(mlflow_tables.read_bytes())
    store = Store(f"sqlite:///{path}", None)
    said = []
    thread = locked_for(path, 2)
    store.check(1, 30, said.append)
    thread.join()
    assert said == [f"{path} is locked by another process; waiting up to 30 seconds."]
    thread = locked_for(path, 2)
    with pytest.raises(TrackingError, match="kept it locked"):
        store.check(1, 1, said.append)
    thread.join()


def test_files_that_are_no_databases_are_told_and_nothing_is_made(tmp_path):
    page = tmp_path / "page.db"
    page.write_text(PAGE * 100)
    cases = {
        str(page): "is no SQLite database",
        str(tmp_path): "is no file",
        f"{page}/x.db": "Not a directory",
        "/proc/x.db": "cannot be used",
    }
    for path, cause in cases.items():
        with pytest.raises(TrackingError, match=cause):
            Store(f"sqlite:///{path}", None).check(1, 0, print)
    Store(f"sqlite:///{tmp_path}/new/x.db", None).check(1, 0, print)
    assert [path.name for path in tmp_path.iterdir()] == ["page.db"]


@pytest.mark.parametrize("name", ["exp", "it's; DROP"])
def test_a_deleted_experiment_is_told_with_what_restores_it(
    tmp_path, mlflow_tables, monkeypatch, name
):
    path = tmp_path / "mlflow.db"
    path.write_bytes(mlflow_tables.read_bytes())
    uri = f"sqlite:///{path}"
    client = MlflowClient(uri)
    number = client.create_experiment(name)
    Store(uri, name).check(1, 0, print)
    client.delete_experiment(number)
    with pytest.raises(TrackingError) as caught:
        Store(uri, name).check(1, 0, print)
    command = re.search(r"with: (.*), or give", str(caught.value))[1]
    assert command == f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id 1"
    assert "tracking.experiment=NAME" in str(caught.value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    with pytest.raises(TrackingError, match="is deleted"):
        Store(uri, None).check(1, 0, print)
    client.restore_experiment(number)
    Store(uri, None).check(1, 0, print)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "777")
    with pytest.raises(TrackingError, match="no experiment with the id 777"):
        Store(uri, None).check(1, 0, print)


def test_a_deleted_experiment_on_a_server_is_told():
    found = {"experiment": {"experiment_id": "7", "lifecycle_stage": "deleted"}}
    with (
        faulty_server((200, "application/json", json.dumps(found))) as server,
        pytest.raises(TrackingError, match="--experiment-id 7"),
    ):
        Store(server.uri, "exp").check(5, 0, print)


@pytest.mark.parametrize(
    "answer",
    [
        (401, "text/plain", "no"),
        (403, "application/json", '{"error_code": "PERMISSION_DENIED", "message": "no"}'),
        (404, "text/html", PAGE),
        (400, "application/json", '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}'),
        (500, "application/json", FAILED),
        (503, "text/html", PAGE),
    ],
)
def test_only_mlflows_own_answer_means_that_there_is_none(answer, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with faulty_server(answer) as server:
        client = MlflowClient(server.uri, registry_uri=server.uri)
        asked = [
            lambda: client.get_model_version_by_alias("m", "champion"),
            lambda: client.get_model_version("m", "1"),
            lambda: client.get_run("0" * 32),
        ]
        for call in asked:
            with pytest.raises(MlflowException):
                unless_absent(call)
        server.answer = lambda _request: ABSENT
        assert [unless_absent(call) for call in asked] == [None] * 3
        no_alias = (
            '{"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias champion '
            'not found."}'
        )
        server.answer = lambda _request: (400, "application/json", no_alias)
        assert unless_absent(asked[0]) is None


def test_a_missing_alias_model_version_and_run_are_absent_in_a_database(tmp_path, mlflow_tables):
    path = tmp_path / "mlflow.db"
    path.write_bytes(mlflow_tables.read_bytes())
    client = MlflowClient(f"sqlite:///{path}", registry_uri=f"sqlite:///{path}")
    for _ in range(2):
        assert unless_absent(lambda: client.get_model_version_by_alias("m", "champion")) is None
        assert unless_absent(lambda: client.get_model_version("m", "1")) is None
        assert unless_absent(lambda: client.get_run("0" * 32)) is None
        if not client.search_registered_models():
            client.create_registered_model("m")
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE registered_model_aliases")
    with pytest.raises(MlflowException):
        unless_absent(lambda: client.get_model_version_by_alias("m", "champion"))


@pytest.mark.parametrize(
    ("answer", "cause"),
    [((500, "application/json", FAILED), "no space left"), ((401, "text/plain", "no"), "a login")],
)
def test_a_registry_that_cannot_be_read_has_not_no_champion(answer, cause, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    candidate = Candidate(None, "0" * 32, lambda _folder: {}, {})
    with faulty_server(answer) as server:
        registry = Registry(StoreClient(Store(server.uri, None), 0), print)
        with pytest.raises(TrackingError, match=cause):
            registry.load("m", "champion")
        with pytest.raises(TrackingError, match=cause):
            registry.register("m", candidate, lambda _champion: (True, "it is the first"))
        server.answer = lambda _request: ABSENT
        assert registry._by_alias("m", "champion") is None


def test_a_call_that_meets_a_lock_waits_for_its_end_and_answers_stay_mlflows(
    tmp_path, mlflow_tables
):
    path = tmp_path / "mlflow.db"
    path.write_bytes(mlflow_tables.read_bytes())
    client = StoreClient(Store(f"sqlite:///{path}", None), 60)
    assert isinstance(client, MlflowClient)
    run = client.create_run("0").info.run_id
    thread = locked_for(path, 3)
    client.set_tag(run, "a", "b")
    thread.join()
    assert client.get_run(run).data.tags["a"] == "b"
    with pytest.raises(MlflowException, match="not found"):
        client.get_run("0" * 32)


NAMES = ["units[0]", "units[1]", "units_0_", "dropout@1", "a/../b", "/a", "./a", "a//b", "", "ß?"]
NAMES += ["%", "🙂", ".", "..", "a\nb", "x" * 300, "x" * 301]


def test_every_name_has_a_key_of_its_own_that_mlflow_takes(tmp_path, mlflow_tables):
    path = tmp_path / "mlflow.db"
    path.write_bytes(mlflow_tables.read_bytes())
    client = MlflowClient(f"sqlite:///{path}")
    run = client.create_run("0").info.run_id
    for name in NAMES:
        client.log_param(run, as_key(name), name or "empty")
        client.log_metric(run, as_key(name), 1.0)
        client.set_tag(run, as_key(name), "1")
    assert len(client.get_run(run).data.params) == len(NAMES)
    for name in ("learning_rate", "a/b", "a b:c-d.e", "größe", "val/f1"):
        assert as_key(name) == name
    assert as_key("units[0]").startswith("units_0_-")
