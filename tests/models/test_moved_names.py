"""Test that import paths which an earlier version recorded become the current paths."""

import importlib

import pytest

from hpsearch.models.moved_names import MOVED, with_current_names


def name_of(path: str) -> str:
    """Import the module or the class that an import path names; return its own name."""
    try:
        return importlib.import_module(path).__name__
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        found = getattr(importlib.import_module(module), name)
        return f"{found.__module__}.{found.__qualname__}"


@pytest.mark.parametrize("path", sorted(set(MOVED.values())))
def test_every_current_name_can_be_imported_and_is_not_moved_again(path):
    assert name_of(path) == path
    assert with_current_names(path) == path
    assert with_current_names(f"{path}.Name") == f"{path}.Name"


def test_recorded_settings_are_renamed_wherever_a_path_stands():
    recorded = {
        "_target_": "hpsearch.jobs.Search",
        "arch": {
            "_target_": "hpsearch.architectures.dense.DenseNet",
            "n_hidden": 3,
            "name": "hpsearch.jobs",
        },
        "modules": ["hpsearch.architectures.sparse", "mymodels"],
        "arch.class": "mymodels.Net",
    }
    assert with_current_names(recorded) == {
        "_target_": "hpsearch.jobs.search.Search",
        "arch": {
            "_target_": "hpsearch.models.dense.DenseNet",
            "n_hidden": 3,
            "name": "hpsearch.jobs",
        },
        "modules": ["hpsearch.models.sparse", "mymodels"],
        "arch.class": "mymodels.Net",
    }
