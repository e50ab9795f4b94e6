"""A real disk without room: nothing is lost while something else can hold it, and no trial ends of
it.
"""

import errno
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from conftest import wait_until
from hpsearch.tracking.spool import Spool
from hpsearch.tracking.spool_file import SpoolFile
from hpsearch.training.checkpoints import Checkpoint, CheckpointFile
from ledger import Ledger, metric, opening
from workplace import SMALL


@pytest.fixture
def tiny(tmp_path):
    """A file system with room for 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("root alone can mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place):
    """Leave no byte free; return what to remove so that there is room again."""
    path = place / "filling"
    with pytest.raises(OSError, match="No space") as caught, open(path, "ab", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(1000))
    assert caught.value.errno == errno.ENOSPC
    return path


def values(ledger):
    return [value for _, entry, value in ledger.rows if entry == "metrics"]


def test_what_a_full_disk_cannot_hold_is_sent_from_memory(tiny):
    fill(tiny)
    ledger = Ledger()
    spool = Spool(tiny / "spool", ledger, every_s=0.05)
    file = spool.file("key", None)
    file.append(opening())
    for value in range(20):
        file.append(metric(value))
        if value == 10:
            assert spool.drain(10)
    file.append({"entry": "end"})
    assert spool.close(10)
    assert values(ledger) == list(range(20))


def test_a_disk_that_fills_and_empties_again_holds_whole_lines_and_each_is_sent_once(tiny):
    ledger, file = Ledger(), SpoolFile(tiny, "key")
    file.append(opening())
    file.append(metric(0))
    file.send(ledger, is_mine=True)
    filling = fill(tiny)
    for value in range(1, 200):
        file.append(metric(value))
    assert file.path.read_bytes().endswith(b"\n")
    file.send(ledger, is_mine=True)
    filling.unlink()
    file.append(metric(200))
    assert len(file.path.read_bytes().splitlines()) == 202
    file.send(ledger, is_mine=True)
    assert not file.is_waiting()
    assert values(ledger) == list(range(201))


def test_a_model_that_the_spools_disk_cannot_hold_waits_elsewhere(tiny, tmp_path):
    file = SpoolFile(tiny, "parent-3-1")
    for content in (b"fits", bytes(100_000)):
        model = tmp_path / "model.keras"
        model.write_bytes(content)
        kept = file.keep_file(model)
        assert not model.exists()
        assert kept.read_bytes() == content
    assert kept.is_relative_to(tempfile.gettempdir())
    file.remove()
    assert not kept.parent.exists()
    assert [path for path in Path(tiny).rglob("*") if path.is_file()] == []


def test_a_checkpoint_that_does_not_fit_leaves_the_older_one_and_no_part_of_itself(tiny, caplog):
    file = CheckpointFile(tiny / "3.npz", every_s=0)
    file.save(Checkpoint("x", [{"val/loss": 1.5}], 1, [np.ones(3)], [np.ones(3)]))
    for _ in range(3):
        file.save(Checkpoint("x", [{"val/loss": 1.5}] * 2, 2, [np.ones(10**5)], [np.ones(3)]))
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "No checkpoint of trial 3 could be written (No space left on device); the search goes on "
        "without."
    ]
    assert len(file.load().history) == 1
    assert [path.name for path in tiny.iterdir()] == ["3.npz"]


@pytest.mark.slow
def test_a_search_whose_disk_becomes_full_ends_as_any_other_and_says_so_once(tiny, workplace):
    words = [
        *SMALL,
        "budget.n_trials=4",
        f"tracking.spool={tiny}/spool",
        f"checkpoints.path={tiny}/checkpoints",
    ]
    search = workplace.start(*words, "checkpoints.every_s=0")
    wait_until((tiny / "checkpoints").exists, "the first checkpoint", 240)
    filling = fill(tiny)
    _, err = search.communicate(timeout=240)
    assert search.returncode == 0, err
    lines = sorted(err.splitlines())
    assert len(lines) == 2, err
    assert lines[0].startswith("No checkpoint of trial 0 could be written (No space left")
    assert lines[1].startswith(f"The spool {tiny}/spool cannot be written (No space left")
    filling = fill(tiny)  # the search has removed what it had written
    refused = workplace.here(*words)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: Nothing can be written into the folder {tiny}/")
    filling.unlink()
    statuses = [run.info.status for run in workplace.runs("trial")]
    assert len(statuses) == 4
    assert set(statuses) <= {"FINISHED", "KILLED"}
    doctor = workplace.here(*words, script="doctor")
    assert doctor.stdout == "Study digits-selu and MLflow agree.\n", doctor.stdout + doctor.stderr
