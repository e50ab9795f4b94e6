"""Entries reach their receiver once and in order, whatever is away, full or killed meanwhile."""

import json
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient

from hpsearch.errors import TrackingError
from hpsearch.study.leases import Worker
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.runs import TrialName
from hpsearch.tracking.spool import Spool
from hpsearch.tracking.spool_file import SpoolFile
from hpsearch.tracking.store import Store
from hpsearch.tracking.tracking import Tracking
from ledger import Ledger, metric, opening


def test_a_file_is_sent_once_and_forgotten_at_its_end(tmp_path):
    ledger, file = Ledger(), SpoolFile(tmp_path, "key")
    for entry in (opening(), metric(1)):
        file.append(entry)
    assert file.send(ledger, is_mine=True) == {"run_id": "run-7"}
    file.send(ledger, is_mine=True)
    file.append(metric(2))
    file.append({"entry": "end"})
    file.send(ledger, is_mine=True)
    assert ledger.rows == [("run-7", "metrics", 1), ("run-7", "metrics", 2), ("run-7", "end", None)]
    assert ledger.opened == [(7, True)]
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_waits_until_it_is_whole(tmp_path):
    ledger, file = Ledger(), SpoolFile(tmp_path, "key")
    file.append(opening())
    with open(file.path, "ab") as raw:
        raw.write(json.dumps(metric(1)).encode())
        raw.flush()
        file.send(ledger, is_mine=True)
        assert ledger.rows == []
        raw.write(b"\n")
    file.send(ledger, is_mine=True)
    assert ledger.rows == [("run-7", "metrics", 1)]


def test_what_cannot_be_written_waits_in_memory(tmp_path):
    folder = tmp_path / "spool"
    folder.write_text("a file where the folder should be")
    ledger, file = Ledger(), SpoolFile(folder, "key")
    file.append(opening())
    file.append(metric(1))
    assert file.is_waiting()
    folder.unlink()
    file.append(metric(2))
    file.send(ledger, is_mine=True)
    assert [value for _, _, value in ledger.rows] == [1, 2]


class LateLedger(Ledger):
    """Answers nothing before `may_answer` is set, or half a minute is over."""

    def __init__(self):
        super().__init__()
        self.is_asked, self.may_answer, self.n_answers = threading.Event(), threading.Event(), 0

    def open(self, entry, is_mine):
        self.is_asked.set()
        self.may_answer.wait(30)
        self.n_answers += 1
        return super().open(entry, is_mine)


def test_a_receiver_that_is_away_is_tried_again_and_nobody_waits_for_it(tmp_path):
    ledger = LateLedger()
    ledger.is_away = True
    spool = Spool(tmp_path, ledger, every_s=0.05)
    for number in range(3):
        file = spool.file(f"key-{number}", None)
        for entry in (opening(number), metric(number), {"entry": "end"}):
            file.append(entry)
            assert ledger.is_asked.wait(20)
    assert ledger.n_answers == 0
    ledger.may_answer.set()
    assert not spool.drain(0.2)
    ledger.is_away = False
    assert spool.close(10)
    assert [row for row in ledger.rows if row[1] == "metrics"] == [
        (f"run-{n}", "metrics", n) for n in range(3)
    ]
    assert not any(path.is_file() for path in tmp_path.rglob("*.jsonl"))


def test_a_state_is_waited_for_and_given_up(tmp_path):
    ledger = Ledger()
    ledger.is_away = True
    spool = Spool(tmp_path, ledger, every_s=0.05)
    spool.file("key", None).append(opening())
    assert spool.state("key", 0.2) is None
    threading.Timer(0.2, setattr, (ledger, "is_away", False)).start()
    assert spool.state("key", 10) == {"run_id": "run-7"}
    spool.close(1)


def dead_worker_folder(tmp_path, place=None):
    me = Worker.this()
    return tmp_path / str(Worker(place or me.place, 2**22 + 1, me.started))


def test_what_a_dead_worker_left_is_sent_before_a_retry_and_what_a_live_one_has_is_left_alone(
    tmp_path,
):
    left = SpoolFile(dead_worker_folder(tmp_path), "parent-7-1")
    elsewhere = SpoolFile(dead_worker_folder(tmp_path, "another@1"), "parent-71-1")
    for file in (left, elsewhere):
        file.append(opening())
        file.append(metric(1))
    ledger = Ledger()
    spool = Spool(tmp_path, ledger, every_s=0.05)
    file = spool.file("parent-7-2", "parent-7")
    file.append(opening())
    file.append(metric(2))
    assert spool.drain(10)
    assert ledger.opened == [(7, False), (7, True)]
    assert [value for _, _, value in ledger.rows] == [1, 2]
    assert spool.send_abandoned() == 0  # another machine's worker wrote just now: it may be alive
    assert elsewhere.path.exists()
    assert not left.path.exists()
    spool.close(1)


def tracking_in(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return Tracking(uri, "spooled", str(tmp_path / "spool"), flush_every_s=0.1, patience_s=60)


@pytest.fixture
def tracking(tmp_path, monkeypatch, mlflow_tables):
    shutil.copy(mlflow_tables, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    made = tracking_in(tmp_path)
    yield made
    made.close(60)


def history(tracking, run_id, key="val/loss"):
    return [(m.step, m.value) for m in tracking.client.get_metric_history(run_id, key)]


def epoch(run, number):
    run.metrics({"val/loss": 1 / number, "time/epoch_s": 0.1}, number)


def test_a_run_arrives_whole(tracking, tmp_path):
    parent = tracking.open_parent("study", None, {})
    run = tracking.open_child(parent, 3, is_retry=False)
    run.tag({"mlflow.runName": TrialName(3, {"learning_rate": 0.00123, "momentum": 0.9})})
    run.params({f"p{n}": n for n in range(150)})
    for number in range(1, 1200):
        epoch(run, number)
    (tmp_path / "model").write_text("weights")
    run.move(tmp_path / "model", "checkpoint")
    run.end("FINISHED")
    assert tracking.spool.drain(60)
    found = tracking.find_child(parent, 3)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "#3 lr=0.00123 m=0.9")
    assert len(found.data.params) == 150
    assert history(tracking, found.info.run_id) == [(n, 1 / n) for n in range(1, 1200)]
    assert [f.path for f in tracking.client.list_artifacts(found.info.run_id, "checkpoint")] == [
        "checkpoint/model"
    ]
    assert not (tmp_path / "model").exists()


def test_a_retry_writes_into_the_same_run_only_what_is_missing(tracking):
    parent = tracking.open_parent("study", None, {})
    first = tracking.open_child(parent, 3, is_retry=False)
    for number in (1, 2, 3):
        epoch(first, number)
    first.metrics({"best/val/loss": 0.5})
    first.end("KILLED")
    assert tracking.spool.drain(60)
    retry = tracking.open_child(parent, 3, is_retry=True)
    for number in (1, 2, 3, 4):
        epoch(retry, number)
    retry.metrics({"best/val/loss": 0.5})
    assert retry.run_id == tracking.find_child(parent, 3).info.run_id
    assert tracking.find_child(parent, 3).info.status == "RUNNING"
    retry.end("FINISHED")
    assert tracking.spool.drain(60)
    assert len(tracking.children(parent)) == 1
    assert [step for step, _ in history(tracking, retry.run_id)] == [1, 2, 3, 4]
    assert len(history(tracking, retry.run_id, "best/val/loss")) == 1


def test_rows_that_are_sent_again_because_an_answer_was_lost_are_there_once(tracking):
    parent = tracking.open_parent("study", None, {})
    delivery = Delivery(tracking.client, tracking.store, tracking.spool.folder / "refused.jsonl")
    entry = {"experiment_id": tracking.experiment_id, "parent_run_id": parent.run_id, "number": 1}
    state = delivery.open(entry | {"time": 0, "name": "#1", "tags": {}}, is_mine=True)
    rows = {
        "entry": "metrics",
        "rows": [["val/loss", 0.5, 1000, 1], ["time/epoch_s", 0.5, 1000, 1]],
    }
    delivery.take(state, [rows])
    delivery.take(state, [rows])
    assert history(tracking, state["run_id"]) == [(1, 0.5)]


def test_what_mlflow_refuses_for_good_holds_nothing_up(tracking, caplog):
    parent = tracking.open_parent("study", None, {})
    run = tracking.open_child(parent, 1, is_retry=False)
    run.params({"a": 1})
    assert tracking.spool.drain(60)
    run.params({"a": 2})
    epoch(run, 1)
    run.end("FINISHED")
    assert tracking.spool.drain(60)
    assert "MLflow refused" in caplog.text
    (line,) = (tracking.spool.folder / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["value"] == "2", "what was refused is lost"
    assert "has refused 1 entries" in tracking.refusals
    assert tracking.find_child(parent, 1).info.status == "FINISHED"


def test_a_deleted_run_of_a_study_is_told_with_what_restores_it(tracking):
    run_id = tracking.open_parent("study", None, {}).run_id
    tracking.client.delete_run(run_id)
    with pytest.raises(TrackingError) as caught:
        tracking.open_parent("study", run_id, {})
    assert f"mlflow runs restore --run-id {run_id}, or" in str(caught.value)
    tracking.client.restore_run(run_id)
    assert tracking.open_parent("study", run_id, {}).run_id == run_id
    with pytest.raises(TrackingError, match="Study study has its runs in another MLflow store"):
        tracking.open_parent("study", "0" * 32, {})


@pytest.mark.parametrize("name", ["my runs.db", "x=1, [a] 'b'.db", "100%20.db"])
def test_a_database_is_found_as_it_is_named_and_as_mlflow_run_writes_it(tmp_path, name):
    for written in (name, quote(name)):
        with pytest.raises(TrackingError, match="There is no MLflow database"):
            Store(f"sqlite:///{tmp_path}/{written}", None).check_exists()
    (tmp_path / name).touch()
    for written in (name, quote(name)):
        Store(f"sqlite:///{tmp_path}/{written}", None).check_exists()


def test_an_artifact_in_a_local_folder_is_found_by_its_path(tracking):
    run = tracking.open_run("a page", "evaluation", {})
    run.client.log_text(run.run_id, "text", "page.html")
    assert Path(tracking.place(run.run_id, "page.html")).read_text() == "text"


@pytest.mark.slow
def test_a_server_that_is_stopped_for_a_while_costs_nothing(mlflow_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    tracking = Tracking(
        mlflow_server.uri, "away", str(tmp_path / "spool"), flush_every_s=0.2, patience_s=120
    )
    parent = tracking.open_parent("study", None, {})
    slowest = 0.0
    for trial in range(3):
        if trial == 1:
            mlflow_server.stop()
        run = tracking.open_child(parent, trial, is_retry=False)
        for number in range(1, 21):
            begin = time.monotonic()
            epoch(run, number)
            slowest = max(slowest, time.monotonic() - begin)
            time.sleep(0.02)
        run.end("FINISHED")
    mlflow_server.start()
    assert tracking.close(120)
    client = MlflowClient(mlflow_server.uri)
    page = f"#/experiments/{tracking.experiment_id}/runs/{parent.run_id}/artifacts/report.html"
    link = f"{mlflow_server.uri}/{page}?workflowType=machine_learning"
    assert tracking.place(parent.run_id, "report.html") == link
    runs = tracking.children(parent)
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    for run in runs:
        assert [m.step for m in client.get_metric_history(run.info.run_id, "val/loss")] == list(
            range(1, 21)
        )
    assert slowest < 1.0
