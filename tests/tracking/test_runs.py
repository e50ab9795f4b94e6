"""What is written to the runs of MLflow, and how a run ends."""

import json

import numpy as np
import pytest

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import Preempted
from hpsearch.tracking.runs import ParentRun


@pytest.fixture
def parent(workplace, monkeypatch):
    monkeypatch.chdir(workplace.folder)
    run = workplace.client.create_run("0")
    return ParentRun(workplace.client, run.info.run_id)


@pytest.mark.parametrize("source", ["images.npz", 'my "best" images', r"C:\images"])
def test_a_data_set_is_logged_with_the_path_that_it_comes_from(parent, source):
    part = Examples(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int32))
    parent.data(SearchData("digits", part, part, ("0", "1"), "0123456789abcdef"), source)
    (given,) = parent.client.get_run(parent.run_id).inputs.dataset_inputs
    assert json.loads(given.dataset.source) == {"uri": source}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (KeyboardInterrupt(), "KILLED"),
        (Preempted(15), "RUNNING"),  # another worker goes on
        (ValueError(), "FAILED"),
    ],
)
def test_a_run_ends_as_its_block_ends(parent, error, status):
    def block(end=None):
        with parent.ending(end):
            if error is not None:
                raise error

    ends = []
    for end in (None, ends.append):
        if error is None:
            block(end)
        else:
            with pytest.raises(type(error)):
                block(end)
    assert ends == [status]
    assert parent.client.get_run(parent.run_id).info.status == status
