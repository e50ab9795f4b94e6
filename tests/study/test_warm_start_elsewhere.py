"""A study begins with the best trials of a study in another storage, which is only read."""

import hashlib
import logging
import shutil
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from hpsearch.errors import ConfigError, StorageError
from hpsearch.space.space import Space
from hpsearch.study.other_storage import other_storage
from hpsearch.study.replay import replay
from hpsearch.study.warm_start import WARM_START, Asked, WarmStart
from small_study import study_in, suggested

RATE, MOMENTUM = FloatDistribution(1e-4, 1e-1, log=True), FloatDistribution(0.8, 0.99)
ASKED = Asked(
    frozenset({"learning_rate", "momentum"}), {"learning_rate": RATE, "momentum": MOMENTUM}
)
TRIED = {
    "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
    "momentum": MOMENTUM,
    "act": CategoricalDistribution(["relu", None]),
}
NO_BOUNDS = Space({})
ACCURACIES = (0.5, 0.9, 0.3)
# An SQLite file that Optuna 2.10 has made: two trials of the study `old`, which maximizes.
OLD = Path(__file__).with_name("optuna_2_10.sql")


def foreign(storage, direction="maximize", attrs=None):
    """Make the study `theirs` as a person's own program does."""
    study = optuna.create_study(study_name="theirs", storage=storage, direction=direction)
    for number, accuracy in enumerate(ACCURACIES):
        params = {"learning_rate": 2e-3 * (number + 1), "momentum": 0.9, "act": None}
        study.add_trial(
            optuna.create_trial(
                params=params, distributions=TRIED, value=accuracy, user_attrs=attrs or {}
            )
        )
    return study


@pytest.fixture
def sqlite_file(tmp_path):
    """A SQLite file with the study `theirs`."""
    path = tmp_path / "theirs.db"
    storage = RDBStorage(f"sqlite:///{path}")
    foreign(storage)
    storage.engine.dispose()
    return path


@pytest.fixture
def study(tmp_path):
    """The study `short`, which has no trials."""
    return study_in(tmp_path, n_trials=4)


def settings(place, name="theirs", n_trials=2):
    return {"warm_start": name, "warm_storage": str(place), "n_warm_trials": n_trials}


def begun(study, place, space=NO_BOUNDS, asked=ASKED, **changes):
    """Begin the study as a search does, and return what is said of it."""
    warm = WarmStart.asked_for(settings(place, **changes), "short", study.storage)
    return warm and warm.begin(study, space, asked)


def enqueued(study):
    return [trial.system_attrs["fixed_params"] for trial in study.trials()]


def test_a_sqlite_file_begins_a_study_that_can_be_replayed_and_goes_on_without_it(
    study, sqlite_file
):
    said = begun(study, sqlite_file)
    assert said == (
        f"Study short tries first the values of theirs in {sqlite_file} #1, #0, the best of a "
        "study that should maximize its value; the architecture does not ask for act."
    )
    sqlite_file.unlink()
    while (trial := study.claim()) is not None:
        study.complete(trial, suggested(trial)["learning_rate"])
    trials = study.trials()
    assert [t.params["learning_rate"] for t in trials[:2]] == [4e-3, 2e-3]
    assert trials[0].user_attrs[WARM_START] == "theirs #1"
    assert begun(study, sqlite_file) is None
    result = replay(study.optuna, study.sampler)
    assert (result.n_same, result.differing) == (4, [])


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
def test_a_read_only_sqlite_file_stays_as_it_is_and_has_no_new_neighbours(study, sqlite_file, form):
    before = hashlib.sha256(sqlite_file.read_bytes()).digest()
    sqlite_file.chmod(0o444)
    files = set(sqlite_file.parent.glob("theirs*"))
    begun(study, form.format(sqlite_file))
    assert len(study.trials()) == 2
    assert hashlib.sha256(sqlite_file.read_bytes()).digest() == before
    assert set(sqlite_file.parent.glob("theirs*")) == files


def test_a_sqlite_file_is_read_while_another_program_has_it_open(study, sqlite_file):
    writer = sqlite3.connect(sqlite_file)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("UPDATE trial_values SET value = 0.95 WHERE value = 0.3")
    writer.commit()
    begun(study, sqlite_file, n_trials=1)
    writer.close()
    assert enqueued(study) == [{"learning_rate": pytest.approx(6e-3), "momentum": 0.9}]


def test_a_journal_file_begins_a_study_and_is_only_read(study, tmp_path):
    path = tmp_path / "theirs.log"
    foreign(JournalStorage(JournalFileBackend(str(path))))
    path.chmod(0o444)
    before = path.read_bytes()
    begun(study, path)
    assert [params["learning_rate"] for params in enqueued(study)] == [4e-3, 2e-3]
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob("theirs*")] == ["theirs.log"]


def test_a_postgresql_database_begins_a_study_and_is_only_read(study, postgres_server):
    url = postgres_server.new_database("theirs")
    storage = RDBStorage(url)
    foreign(storage)
    storage.engine.dispose()
    before = postgres_server.dump("theirs")
    begun(study, url)
    assert [params["learning_rate"] for params in enqueued(study)] == [4e-3, 2e-3]

    def rows(dump):  # a dump has a random key in its first and last lines
        return [line for line in dump.splitlines() if "restrict" not in line]

    assert rows(postgres_server.dump("theirs")) == rows(before)
    with other_storage(url) as opened, pytest.raises(StorageInternalError) as refused:
        opened.create_new_study([optuna.study.StudyDirection.MINIMIZE], "new")
    assert "read-only transaction" in str(refused.value.__cause__)


def test_a_database_of_an_earlier_optuna_is_refused_with_the_command_that_helps(
    study, postgres_server
):
    url = postgres_server.new_database("earlier")
    storage = RDBStorage(url)
    foreign(storage)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    storage.engine.dispose()
    with pytest.raises(ConfigError, match=r"change them with: optuna storage upgrade --storage"):
        begun(study, url)


def test_a_database_without_tables_of_optuna_gets_none(study, postgres_server):
    url = postgres_server.new_database("bare")
    with pytest.raises(StorageError, match=r"\(study.warm_storage\) cannot be read"):
        begun(study, url)
    assert "CREATE TABLE" not in postgres_server.dump("bare")


def test_a_file_of_optuna_2_is_read_and_not_changed(study, tmp_path):
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as database:
        database.executescript(OLD.read_text())
    database.close()
    before = path.read_bytes()
    handlers = list(logging.getLogger().handlers)
    level = logging.getLogger().level
    said = begun(study, path, name="old")
    assert "should maximize" in said
    assert "the architecture does not ask for act, dropout_rate, width" in said
    assert "old does not have momentum" in said
    assert [params.keys() for params in enqueued(study)] == [{"learning_rate"}] * 2
    assert path.read_bytes() == before
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
    assert not logging.getLogger("hpsearch").disabled


def test_tables_of_a_later_version_are_refused(study, sqlite_file):
    with sqlite3.connect(sqlite_file) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    database.close()
    with pytest.raises(ConfigError, match=r"has tables of version v9.0.0.a, which Optuna .* does"):
        begun(study, sqlite_file)


def test_attributes_of_another_program_mean_nothing_here(study, tmp_path):
    path = tmp_path / "theirs.log"
    attrs = {"ticket": "seven", "worker": 3, "reason": "mine", "history": [1]}
    foreign(JournalStorage(JournalFileBackend(str(path))), attrs=attrs)
    begun(study, path)
    assert [t.user_attrs for t in study.trials()] == [
        {WARM_START: "theirs #1"},
        {WARM_START: "theirs #0"},
    ]


def test_the_number_and_names_of_a_study_of_hpsearch_are_those_that_people_know(study, tmp_path):
    other = study_in(tmp_path / "other", n_trials=1)
    trial = other.claim()
    trial.suggest_float("one_minus_momentum", 0.01, 0.2)
    other.complete(trial, 0.5)
    path = tmp_path / "other" / "study.log"
    complement = {"momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"}}
    stored = FloatDistribution(1 - 0.99, 1 - 0.8, log=True)
    asked = Asked(frozenset({"momentum"}), {"one_minus_momentum": stored})
    said = begun(study, path, Space(complement), asked, name="short")
    assert said.endswith("the best of a study that should minimize its value.")
    (params,) = enqueued(study)
    assert params["one_minus_momentum"] == pytest.approx(trial.params["one_minus_momentum"])


def test_what_the_bounds_do_not_hold_is_told(study, sqlite_file):
    narrow = Space({"learning_rate": {"low": 1e-4, "high": 3e-3, "scale": "log"}})
    asked = Asked(ASKED.names, {**ASKED.distributions, "learning_rate": RATE})
    said = begun(study, sqlite_file, narrow, asked)
    assert "what its own bounds fix or do not hold is not taken: learning_rate of #1" in said
    assert enqueued(study) == [{"momentum": 0.9}, {"learning_rate": 2e-3, "momentum": 0.9}]


def test_a_number_takes_the_type_that_the_study_draws(study, tmp_path):
    path = tmp_path / "theirs.log"
    theirs = optuna.create_study(
        study_name="theirs", storage=JournalStorage(JournalFileBackend(str(path)))
    )
    for width in (32.0, 33.5):
        theirs.add_trial(
            optuna.create_trial(
                params={"width": width, "learning_rate": 1},
                distributions={
                    "width": FloatDistribution(1, 99),
                    "learning_rate": IntDistribution(0, 1),
                },
                value=width,
            )
        )
    asked = Asked(
        frozenset({"width", "learning_rate"}),
        {"width": IntDistribution(16, 64), "learning_rate": FloatDistribution(0.1, 1)},
    )
    begun(study, path, asked=asked)
    assert [list(map(repr, params.values())) for params in enqueued(study)] == [
        ["32", "1.0"],
        ["1.0"],
    ]


def test_a_trial_that_breaks_a_constraint_of_its_study_is_left_out(study, tmp_path):
    path = tmp_path / "theirs.log"
    theirs = foreign(JournalStorage(JournalFileBackend(str(path))))
    trial = theirs.ask(TRIED)
    trial.set_constraint("size", 1.0)
    theirs.tell(trial, 0.99)
    begun(study, path, n_trials=9)
    assert [t.user_attrs[WARM_START] for t in study.trials()] == [
        "theirs #1",
        "theirs #0",
        "theirs #2",
    ]


def test_a_study_whose_trials_all_break_a_constraint_is_refused(study, tmp_path):
    path = tmp_path / "theirs.log"
    theirs = optuna.create_study(
        study_name="theirs", storage=JournalStorage(JournalFileBackend(str(path)))
    )
    trial = theirs.ask({"learning_rate": RATE})
    trial.set_constraint("size", 1.0)
    theirs.tell(trial, 0.99)
    with pytest.raises(ConfigError, match="All finished trials of study theirs break a constraint"):
        begun(study, path)


def test_a_study_of_two_objectives_is_ranked_by_the_first(study, tmp_path):
    path = tmp_path / "theirs.log"
    theirs = optuna.create_study(
        study_name="theirs",
        storage=JournalStorage(JournalFileBackend(str(path))),
        directions=["maximize", "minimize"],
    )
    for rate, values in ((1e-3, (0.5, 1)), (2e-3, (0.9, 2))):
        theirs.enqueue_trial({"learning_rate": rate})
        trial = theirs.ask({"learning_rate": RATE})
        theirs.tell(trial, values)
    begun(study, path, n_trials=1)
    assert enqueued(study) == [{"learning_rate": 2e-3}]


def test_a_study_that_has_begun_elsewhere_is_not_started_again(study, sqlite_file, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copy(sqlite_file, copy)
    begun(study, sqlite_file)
    with pytest.raises(
        ConfigError,
        match=r"begun from study theirs in .*theirs.db; give study.name=NAME to start another from "
        r"theirs in .*copy.db\.",
    ):
        begun(study, copy)


def test_a_missing_file_is_not_made(study, tmp_path):
    for place in (tmp_path / "none.db", f"sqlite:///{tmp_path}/none.db"):
        with pytest.raises(ConfigError, match=r"There is no file .*none.db \(study.warm_storage\)"):
            begun(study, place)
    assert not list(tmp_path.glob("none*"))


def test_what_is_no_storage_is_refused(study, tmp_path):
    for name, text in (("empty", ""), ("text", "hello\n"), ("list", "[1]\n"), ("number", "1\n")):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ConfigError, match="is no storage of Optuna; give a SQLite file"):
            begun(study, path)
        assert path.read_text() == text
    with pytest.raises(ConfigError, match="warm_storage=mysql://me@host/db is no URL of Postgre"):
        begun(study, "mysql://me@host/db")


def test_a_damaged_file_is_refused(study, sqlite_file, tmp_path):
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(sqlite_file.read_bytes()[:5000])
    with pytest.raises(StorageError, match=r"damaged.db \(study.warm_storage\) cannot be read"):
        begun(study, damaged)
    journal = tmp_path / "damaged.log"
    journal.write_text('{"op_code": 0}\n')
    with pytest.raises(StorageError, match=r"damaged.log \(study.warm_storage\) cannot be read"):
        begun(study, journal)
    for number, line in enumerate(('{"op_code": 99, "worker_id": ""}', '{"op_code": 0}\n[]')):
        later = tmp_path / f"later{number}.log"
        later.write_text(f"{line}\n")
        with pytest.raises(StorageError, match=r"later..log \(study.warm_storage\) cannot be read"):
            begun(study, later)


def test_a_mistake_of_the_reader_is_not_taken_for_a_damaged_storage(sqlite_file):
    with pytest.raises(KeyError, match="mine"), other_storage(str(sqlite_file)):
        raise KeyError("mine")


def test_a_locked_file_is_refused(study, sqlite_file, monkeypatch):
    monkeypatch.setattr("hpsearch.study.other_storage._LOCK_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(sqlite_file)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"cannot be read \(database is locked\)"):
            begun(study, sqlite_file)


def test_a_database_of_mlflow_is_refused(study, mlflow_tables):
    with pytest.raises(ConfigError, match="is no storage of Optuna; give a SQLite file"):
        begun(study, mlflow_tables)


def test_psycopg_that_is_not_installed_is_refused_with_its_cure(study, monkeypatch):
    monkeypatch.setattr("hpsearch.study.storage.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs psycopg, .*pip install .*\[postgres\]'"):
        begun(study, "postgresql+psycopg://me@host/db")


@pytest.mark.parametrize("n_trials", [-1, 0, None, True, 1.5])
def test_a_number_of_trials_below_one_is_refused(study, sqlite_file, n_trials):
    with pytest.raises(ConfigError, match="n_warm_trials must be a whole number of at least 1"):
        begun(study, sqlite_file, n_trials=n_trials)


@pytest.mark.parametrize("with_log", [False, True])
def test_a_file_with_a_write_ahead_log_gets_no_new_neighbours(
    study, sqlite_file, tmp_path, with_log
):
    writer = sqlite3.connect(sqlite_file)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("UPDATE trial_values SET value = 0.95 WHERE value = 0.3")
    writer.commit()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    if with_log:
        shutil.copy(f"{sqlite_file}-wal", folder)
    else:
        writer.close()
    shutil.copy(sqlite_file, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    begun(study, folder / "theirs.db", n_trials=1)
    writer.close()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert enqueued(study) == [{"learning_rate": pytest.approx(6e-3), "momentum": 0.9}]


def test_all_spellings_of_a_file_are_one_storage(study, sqlite_file, monkeypatch):
    monkeypatch.chdir(sqlite_file.parent)
    begun(study, "theirs.db")
    for place in ("./theirs.db", "sqlite:///theirs.db", sqlite_file, f"sqlite:///{sqlite_file}"):
        assert begun(study, place) is None
    recorded = study.optuna.user_attrs[WARM_START]
    study.optuna.set_user_attr(WARM_START, recorded | {"storage": "sqlite:///theirs.db"})
    assert begun(study, sqlite_file) is None


def test_a_server_that_does_not_answer_is_a_sentence(study):
    with pytest.raises(StorageError, match=r"cannot be read \(.*[Cc]onnection"):
        begun(study, "postgresql+psycopg://me@127.0.0.1:1/db")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:geheim@host/db",
        "postgresql+psycopg://host/db?password=geheim",
        "postgresql+psycopg://host/db?sslpassword=geheim",
        "postgresql://me@host/db?password=geheim",
    ],
)
def test_a_password_is_refused_and_not_repeated(study, url):
    with pytest.raises(ConfigError, match="must not hold the password") as caught:
        begun(study, url)
    assert "geheim" not in str(caught.value)


def test_a_storage_without_the_name_of_a_study_is_refused(study):
    given = {"warm_start": None, "warm_storage": "theirs.db", "n_warm_trials": 3}
    with pytest.raises(ConfigError, match=r"study.warm_storage needs the name of a study in it"):
        WarmStart.asked_for(given, "short", study.storage)


def test_another_name_is_refused_with_the_names_that_there_are(study, sqlite_file):
    with pytest.raises(ConfigError, match=r"There is no study thiers .* Did you mean 'theirs'\?"):
        begun(study, sqlite_file, name="thiers")


def test_a_study_with_other_names_is_refused_with_the_names_of_both(study, sqlite_file):
    with pytest.raises(
        ConfigError,
        match="they have act, learning_rate, momentum, and the architecture asks for width",
    ):
        begun(study, sqlite_file, asked=Asked(frozenset({"width"}), {}))
    assert study.trials() == []


def test_no_warning_is_raised(study, sqlite_file):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begun(study, sqlite_file)
    assert caught == []
