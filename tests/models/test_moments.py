"""The moments of three snapshots, worked out by hand, and with which model they may be used."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from hpsearch.errors import ModelError
from hpsearch.models.moments import Moments


def model(scale: float = 1.0) -> keras.Model:
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dense(1)])
    made.set_weights([scale * (1 + np.arange(w.size)).reshape(w.shape) for w in made.get_weights()])
    return made


def moments(of: keras.Model) -> Moments:
    """Return the moments of weights 1, 2 and 6 in place of each weight."""
    snapshots = [[np.full(w.shape, value) for w in of.get_weights()] for value in (1.0, 2.0, 6.0)]
    return Moments.of(snapshots, of)


def test_three_snapshots() -> None:
    found = moments(model())
    assert found.n_snapshots == 3
    for mean, variance, deviations, weight in zip(
        found.mean, found.variance, found.deviations, model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mean, np.full(weight.shape, 3.0))
        np.testing.assert_allclose(variance, np.full(weight.shape, 14 / 3))
        assert [d.ravel()[0] for d in deviations] == [-2.0, -1.0, 3.0]
        assert deviations.shape == (3, *weight.shape)


def test_two_snapshots_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"at least 3 snapshots. Received: 2"):
        Moments.of([[np.ones(2)]] * 2, model())


def test_moments_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = moments(model())
    written.write(tmp_path / "swag.npz")
    read = Moments.read(tmp_path / "swag.npz")
    read.check_fits(model())
    assert read.n_snapshots == 3
    for kind in ("mean", "variance", "deviations"):
        for mine, theirs in zip(getattr(read, kind), getattr(written, kind), strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("damage", ["cut", "empty", "of another kind"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "swag.npz"
    moments(model()).write(path)
    whole = path.read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "empty": b"", "of another kind": b"nothing of ours"}
    path.write_bytes(bad[damage])
    with pytest.raises(ModelError, match=r"moments of SWAG in swag.npz, received a file that"):
        Moments.read(path)


def test_moments_are_used_with_no_other_model() -> None:
    found = moments(model())
    found.check_fits(model())
    wider = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ModelError, match="they belong to another model"):
        found.check_fits(wider)
    with pytest.raises(ModelError, match="with other weights, or with its weights in another"):
        found.check_fits(model(scale=2.0))
