"""A database that cannot be used is told as what it is, and nothing is made there."""

import re
import sqlite3
import threading
import time

import pytest
from sqlalchemy.exc import OperationalError

from conftest import free_port
from faulty_server import silent_port
from hpsearch.cli.servers import check_servers
from hpsearch.errors import ConfigError, StorageError
from hpsearch.study.waiting import Outage, patient


def said_by(url):
    part = {"_target_": "hpsearch.study.storage.postgres", "url": url, "patience_s": 300}
    with pytest.raises(StorageError) as caught:
        check_servers({"storage": part, "budget": {}}, print)
    said = str(caught.value)
    assert re.fullmatch(r"The study storage \S+ cannot be used: .+\.", said), said
    assert "storage.path" not in said, "a server has no path"
    return said


def test_each_fault_of_postgresql_is_told_as_what_it_is(postgres_server, monkeypatch):
    url = postgres_server.new_database("faults")
    assert "it has no database nope; make it with: createdb -h 127.0.0.1 -p" in said_by(
        url.replace("/faults", "/nope")
    )
    assert "no TLS, which sslmode demands" in said_by(f"{url}?sslmode=require")
    monkeypatch.setenv("PGPASSWORD", "wrong")
    said = said_by(url)
    assert "does not accept the password of hpsearch" in said
    assert "wrong" not in said
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    assert "wants a password of hpsearch; put it into PGPASSWORD or ~/.pgpass" in said_by(url)


def test_a_user_who_may_not_make_tables_and_a_server_that_only_reads_are_told(postgres_server):
    import psycopg  # noqa: PLC0415 (as in conftest)

    url = postgres_server.new_database("rights")
    plain = url.replace("postgresql+psycopg", "postgresql")
    word = postgres_server.password
    with psycopg.connect(plain, password=word, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE guest LOGIN PASSWORD '{word}'")
    guest = url.replace("hpsearch@", "guest@")
    said = said_by(guest)
    with psycopg.connect(plain, password=word, autocommit=True) as connection:
        assert not connection.execute(
            "SELECT * FROM pg_tables WHERE schemaname = 'public'"
        ).rowcount
        connection.execute("ALTER DATABASE rights SET default_transaction_read_only = on")
    assert "it only reads, as a standby server does" in said_by(url)
    with psycopg.connect(
        plain, password=word, autocommit=True, options="-c default_transaction_read_only=off"
    ) as connection:
        connection.execute("ALTER DATABASE rights SET default_transaction_read_only = off")
        connection.execute(re.search("GRANT .*[^.]", said)[0])
    part = {"_target_": "hpsearch.study.storage.postgres", "url": guest}
    check_servers({"storage": part, "budget": {}}, print)


def test_what_is_no_postgresql_server_is_told_in_time():
    address = "postgresql+psycopg://me@127.0.0.1:{}/db"
    assert "nothing answers at 127.0.0.1:" in said_by(address.format(free_port()))
    assert "there is no host nowhere.invalid" in said_by(
        "postgresql+psycopg://me@nowhere.invalid/d"
    )
    with silent_port(sends=b"HTTP/1.1 400 Bad Request") as port:
        assert "is no PostgreSQL" in said_by(address.format(port))
    begin = time.monotonic()
    with silent_port() as port:
        assert "nothing has answered" in said_by(address.format(port))
    assert time.monotonic() - begin < 6


@pytest.mark.parametrize("url", ["postgresql+psycopg://a@h:port/d", "postgresql+psycopg:/h/d"])
def test_what_is_no_address_is_refused(url):
    part = {"_target_": "hpsearch.study.storage.postgres", "url": url}
    with pytest.raises(ConfigError, match="is no URL of PostgreSQL"):
        check_servers({"storage": part}, print)


def test_a_sqlite_study_that_is_locked_is_waited_for_and_no_advice_names_postgresql(tmp_path):
    path = tmp_path / "optuna.db"
    part = {"_target_": "hpsearch.study.storage.sqlite", "path": str(path), "timeout_s": 30}
    is_locked = threading.Event()

    def hold():
        with sqlite3.connect(path, isolation_level=None) as database:
            database.execute("BEGIN EXCLUSIVE")
            is_locked.set()
            time.sleep(2.5)
        database.close()

    thread = threading.Thread(target=hold)
    thread.start()
    is_locked.wait()
    said = []
    with pytest.raises(StorageError) as caught:
        check_servers({"storage": part | {"patience_s": 0}, "budget": {}}, said.append)
    assert "another process has kept it locked" in str(caught.value)
    assert "PostgreSQL" not in str(caught.value)
    check_servers({"storage": part | {"patience_s": 300}, "budget": {}}, said.append)
    thread.join()
    assert said == [f"{path} is locked by another process; waiting up to 300 seconds."]


class Flaky:
    """A storage that is away for a while."""

    patience_s = 30

    def __init__(self, away_s):
        self.said = []
        self.outage = Outage(lambda error: f"It is away: {error.orig}.")
        self.outage.say = self.said.append
        self.until = time.monotonic() + away_s

    @patient
    def call(self):
        if time.monotonic() < self.until:
            raise OperationalError("", {}, OSError("refused"))
        return 1


def test_an_outage_of_the_storage_is_said_once_and_its_end_too():
    storage = Flaky(2.5)
    assert [storage.call(), storage.call()] == [1, 1]
    begin, end = storage.said
    assert begin.startswith("It is away: refused.")
    assert end == "The study storage answers again."
    short = Flaky(0.1)
    assert short.call() == 1
    assert short.said == [], "a connection that is made anew is no outage"
