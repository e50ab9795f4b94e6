"""Test the checks, splits and fingerprints of a data set."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hpsearch.data import datasets
from hpsearch.data.datasets import Arrays
from hpsearch.data.split import Data, Examples, SearchData, checked, fingerprint, split
from hpsearch.errors import DataError

CONF = Path(__file__).parents[2] / "conf" / "data"


def arrays(**changes):
    """60 + 20 small images of 4 classes, of which class 3 is rare."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [20, 20, 15, 5])
    images = rng.integers(0, 256, (80, 4, 5, 3), np.uint8)
    return replace(
        Arrays(images[:60], labels, images[60:], np.arange(20) % 4, tuple("abcd")), **changes
    )


def data(given=None, **settings):
    given = given or arrays()
    return Data(
        **{
            "name": "tiny",
            "load": lambda: given,
            "path": None,
            "n_train": None,
            "n_val": 12,
            "split_seed": 0,
        }
        | settings
    )


def found(part, images):
    """Return the indices in `images` of the images of a part."""
    return [int(np.flatnonzero((images == image).all((1, 2, 3)))[0]) for image in part.inputs]


def test_a_search_gets_train_and_val_and_an_evaluation_gets_test():
    given = arrays()
    both = data(given)
    search, test = both.for_search(), both.test()
    assert (search.name, search.image_shape, search.n_classes) == ("tiny", (4, 5, 3), 4)
    assert search.class_names == ("a", "b", "c", "d")
    in_train, in_val = found(search.train, given.x_train), found(search.val, given.x_train)
    assert (len(search.train), len(search.val), len(test)) == (48, 12, 20)
    assert sorted(in_train + in_val) == list(range(60))
    assert np.array_equal(search.train.targets, given.y_train[in_train])
    assert np.array_equal(search.val.targets, given.y_train[in_val])
    assert np.array_equal(test.inputs, given.x_test)


def test_no_test_image_can_be_reached_from_what_a_search_gets():
    given = arrays()
    search = data(given, n_calibration=8).for_search()
    assert {field.name for field in fields(SearchData)} == {
        "name",
        "train",
        "val",
        "class_names",
        "fingerprint",
        "has_rows",
        "calibration",
        "pixel_range",
    }
    held = [array for part in search.parts for array in (part.inputs, part.targets)]
    for array in held:
        assert not np.shares_memory(array, given.x_test)
        assert array.base is None, "a view would lead to the array that it was cut from"
    seen = {image.tobytes() for part in search.parts for image in part.inputs}
    assert not seen & {image.tobytes() for image in given.x_test}


def test_data_are_loaded_once_and_not_before_they_are_asked_for():
    calls = []

    def load():
        calls.append(1)
        return arrays()

    lazy = data(load=load)
    assert not calls
    assert lazy.for_search() is lazy.for_search()
    assert lazy.test() is lazy.test()
    assert len(calls) == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n_train", "n_val", "n_calibration"),
    [(None, 100, 0), (50, 100, 40), (20, 33, 947), (317, 600, 83), (None, 13, 500)],
)
def test_each_class_has_its_share_to_within_one_image(seed, n_train, n_val, n_calibration):
    labels = (
        np.random.default_rng(seed).choice(5, 1000, p=[0.4, 0.3, 0.1, 0.1, 0.1]).astype(np.int32)
    )
    in_train, in_val, in_calibration = split(labels, n_train, n_val, seed, n_calibration)
    assert len(in_val) == n_val
    assert len(in_train) == (n_train or 1000 - n_val - n_calibration)
    assert len(in_calibration) == n_calibration
    together = [*in_train, *in_val, *in_calibration]
    assert len(set(together)) == len(together)
    shares = np.bincount(labels) / 1000
    assert np.abs(np.bincount(labels[in_val], minlength=5) - n_val * shares).max() < 1
    assert np.abs(np.bincount(labels[in_train], minlength=5) - len(in_train) * shares).max() < 2


def test_a_split_is_the_same_for_ever():
    """Compare with fixed numbers: other numbers would change the val set of existing studies."""
    in_train, in_val, left = split(np.array([0, 1] * 8, np.int32), 6, 4, 0)
    assert (in_train.tolist(), in_val.tolist()) == ([0, 1, 6, 13, 14, 15], [2, 3, 8, 11])
    assert len(left) == 0
    with_calibration = split(np.array([0, 1] * 8, np.int32), 6, 4, 0, 4)
    assert [part.tolist() for part in with_calibration] == [
        [0, 1, 6, 13, 14, 15],
        [2, 3, 8, 11],
        [4, 5, 7, 10],
    ]


def test_val_is_the_same_for_every_n_train_and_another_for_another_seed():
    labels = np.random.default_rng(0).integers(0, 4, 500).astype(np.int32)
    small, large, whole = (split(labels, n, 60, 3) for n in (50, 200, None))
    assert np.array_equal(small[1], large[1])
    assert np.array_equal(small[1], whole[1])
    assert set(small[0]) < set(whole[0])
    assert not np.array_equal(small[1], split(labels, 50, 60, 4)[1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_val": 0}, r"data\.n_val to be an integer from 4 .* to 56 .*received 0\.$"),
        ({"n_val": 57}, r"data\.n_val .*received 57\.$"),
        ({"n_val": 0.2}, r"data\.n_val .*received 0\.2\.$"),
        (
            {"n_train": 49},
            r"data\.n_train .* from 4 .* to 48 \(what data\.n_val=12 leaves of 60 examples\), "
            r"received 49",
        ),
        ({"n_train": 3}, r"data\.n_train .*received 3\.$"),
        ({"n_train": "all"}, r"data\.n_train .*received 'all'\.$"),
        (
            {"n_train": 4},
            r"data\.n_train=4, data\.n_val=12 and data\.n_calibration=0 .* received none of class "
            r"3, which has 5 of 60",
        ),
        ({"n_calibration": -1}, r"data\.n_calibration .* from 0 to 44 .*received -1\.$"),
        ({"n_calibration": 45}, r"data\.n_calibration .*received 45\.$"),
        ({"n_calibration": 0.1}, r"data\.n_calibration .*received 0\.1\.$"),
        ({"n_train": 40, "n_calibration": 9}, r"data\.n_calibration .* from 0 to 8 .*received 9\."),
        ({"split_seed": -1}, r"data\.split_seed .*received -1\.$"),
    ],
)
def test_parts_that_cannot_be_cut_are_refused(settings, sentence):
    with pytest.raises(DataError, match=sentence):
        data(**settings).for_search()


X, Y = arrays().x_train, arrays().y_train
NAN = X.astype(np.float32)
NAN[3, 2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"x_train": X[:, 0, 0, 0]}, r"x_train of tiny .* received shape \(60,\)\.$"),
        ({"x_train": X[:0]}, r"received shape \(0, 4, 5, 3\)"),
        ({"x_train": X.astype(np.int64) * 2**20},
         r"float32 holds exactly, received values from 0 to 267386880; scale them"),
        ({"x_train": X.astype(complex)}, "received complex128"),
        ({"x_train": X.astype(np.float32)},
         r"one shape and dtype .* float32 and \(4, 5, 3\) uint8"),
        ({"x_test": arrays().x_test[:, :3]}, r"\(4, 5, 3\) uint8 and \(3, 5, 3\) uint8"),
        ({"x_train": NAN}, "finite values in x_train of tiny, received 1 that are NaN or infinite"),
        ({"x_train": X * 1e300}, r"finite values in x_train"),
        ({"y_train": Y[:-1]}, "received 59 labels for 60 examples"),
        ({"y_test": np.zeros(21, int)},
         "labels in y_test as examples in x_test of tiny, received 21"),
        ({"y_train": Y + 0.5}, r"integer labels .* received float64 values that are not whole"),
        ({"y_train": Y.astype(str)},
         r"integer labels .* received .* convert them with astype\('int32'\)"),
        ({"y_train": Y > 1}, "received bool"),
        ({"y_train": np.eye(4)[Y] * 0.9},
         r"float64 of shape \(60, 4\) with rows that are not one 1"),
        ({"y_train": np.eye(5)[Y], "class_names": None}, "received none of class 4"),
        ({"y_train": Y - 1}, "received values from -1 to 2"),
        ({"y_train": Y + 2**40}, r"received values from 1099511627776"),
        ({"y_train": Y + 1},
         "labels from 0 to 3 for the 4 classes of tiny, received label 4 in y_train"),
        ({"y_test": np.full(20, 4)}, "received label 4 in y_test"),
        ({"y_train": np.minimum(Y, 2)}, "each of the 4 classes of tiny, received none of class 3"),
        ({"y_train": Y * 2**28, "class_names": None},
         "received none of class 1; number the classes without gaps"),
        ({"y_test": np.full(20, 4), "class_names": None}, "received label 4 in y_test"),
        ({"y_test": np.eye(5)[np.arange(20) % 4]},
         "one-hot rows of 4 columns, one for each class of tiny, received 5 columns in y_test"),
        ({"y_train": np.eye(4)[Y], "x_val": X, "y_val": np.eye(7)[Y], "class_names": None},
         "rows of 4 columns, .* received 7 columns in y_val"),
        ({"y_train": np.eye(5)[Y]}, "rows of 4 columns, .* received 5 columns in y_train"),
        ({"y_train": Y * 0, "class_names": None}, "at least 2 classes in tiny, received 1"),
    ],
)  # fmt: skip
def test_arrays_that_no_classifier_could_use_are_refused(changes, sentence):
    with pytest.raises(DataError, match=sentence):
        checked(arrays(**changes), "tiny")


def test_11_labels_for_10_classes_are_refused(tmp_path):
    images, labels = np.zeros((22, 4, 4), np.uint8), np.arange(22) % 11
    names = np.array([str(i) for i in range(10)])
    np.savez(
        tmp_path / "a.npz",
        x_train=images,
        y_train=labels,
        x_test=images,
        y_test=labels % 10,
        class_names=names,
    )
    own = data(load=partial(datasets.npz, str(tmp_path / "a.npz")), name="npz", n_val=11)
    with pytest.raises(
        DataError,
        match="labels from 0 to 9 for the 10 classes of npz, received label 10 in y_train",
    ):
        own.for_search()


def test_npz_with_nan_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=NAN, y_train=Y, x_test=NAN, y_test=Y)
    with pytest.raises(DataError, match="finite values"):
        data(load=partial(datasets.npz, str(tmp_path / "a.npz"))).test()


def test_forms_that_are_fit_become_one_form():
    grey = arrays(
        x_train=X[..., 0] / 255,
        x_test=arrays().x_test[..., 0] / 255,
        y_train=Y[:, None].astype(np.uint8),
    )
    train, test, names, *_ = checked(replace(grey, class_names=None), "tiny")
    assert (train.inputs.shape, train.inputs.dtype) == ((60, 4, 5, 1), np.float32)
    assert (train.targets.shape, train.targets.dtype, test.targets.dtype) == (
        (60,),
        np.int32,
        np.int32,
    )
    assert names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("n", "settings", "n_calibration"),
    [
        (60, {}, 0),
        (620, {"n_val": 120}, 50),
        (619, {"n_val": 120}, 0),  # a tenth would be 49
        (620, {"n_val": 120, "n_train": 450}, 50),
        (620, {"n_val": 120, "n_train": 451}, 0),
        (620, {"n_val": 120, "n_train": 100}, 50),
        (20_000, {"n_val": 2000}, 1000),
    ],
)
def test_the_calibration_part_has_a_size_that_suits_the_data(n, settings, n_calibration):
    inputs, labels = np.arange(4 * n, dtype=np.float32).reshape(n, 4), np.arange(n) % 4
    given = arrays(x_train=inputs, y_train=labels, x_test=None, y_test=None)
    whole = data(given, n_calibration=None, **settings)
    found = whole.for_search()
    before = data(given, n_calibration=0, **settings).for_search()
    assert np.array_equal(found.val.inputs, before.val.inputs)
    assert f", {n_calibration:,} to calibrate, 0 to test." in whole.sizes()
    if n_calibration == 0:
        assert found.calibration is None
        assert found.fingerprint == before.fingerprint
        return
    assert len(found.calibration) == n_calibration
    assert np.bincount(found.calibration.targets).min() >= n_calibration // 4
    n_train = settings.get("n_train", n - settings["n_val"] - n_calibration)
    assert len(found.train) == n_train
    if "n_train" in settings:
        assert np.array_equal(found.train.inputs, before.train.inputs)
    used = np.concatenate([part.inputs[:, 0] for part in found.parts])
    assert len(np.unique(used)) == len(used)
    assert found.fingerprint != before.fingerprint


def test_a_class_keeps_a_training_example_beside_the_calibration_part():
    rare = np.repeat([0, 1, 2, 3, 4, 5, 6], [994, 1, 1, 1, 1, 1, 1])
    inputs = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    given = arrays(
        x_train=inputs, y_train=rare, x_test=None, y_test=None, class_names=tuple("abcdefg")
    )
    found = data(given, n_val=7, n_calibration=None).for_search()
    assert found.calibration is None or len(np.unique(found.train.targets)) == 7
    with pytest.raises(DataError, match=r"data\.n_calibration=900 to leave a training example"):
        data(given, n_val=7, n_calibration=900).for_search()


def test_beside_a_validation_part_of_its_own_a_calibration_part_is_cut_where_it_is_asked_for():
    given = arrays(x_val=X[:8], y_val=Y[:8])
    assert data(given, n_calibration=None).for_search().calibration is None
    before = data(given, n_train=20).for_search()
    found = data(given, n_train=20, n_calibration=12).for_search()
    assert np.array_equal(found.train.inputs, before.train.inputs)
    assert len(found.calibration) == 12
    rest = data(given, n_calibration=12).for_search()
    assert (len(rest.train), len(rest.val), len(rest.calibration)) == (48, 8, 12)
    with pytest.raises(DataError, match=r"data\.n_calibration .* from 0 to 40 .*received 41"):
        data(given, n_train=20, n_calibration=41).for_search()


def test_a_validation_part_of_its_own_is_kept_whole_and_a_test_part_may_be_missing():
    given = arrays(x_val=X[:8], y_val=Y[:8], x_test=None, y_test=None)
    both = data(given, n_val=10**6)
    found = both.for_search()
    assert np.array_equal(found.train.inputs, X)
    assert np.array_equal(found.val.inputs, X[:8])
    assert not both.has_test()
    with pytest.raises(DataError, match="tiny has no test part"):
        both.test()
    few = data(given, n_train=20).for_search()
    assert (len(few.train), len(few.val)) == (20, 8)
    whole = data(given, n_train=60).for_search()
    assert np.array_equal(whole.train.inputs, X)
    assert len(data(given, n_train=58).for_search().train) == 58


@pytest.mark.parametrize("n_train", ["a", 0, 1, 3, 61, 10.0])
def test_a_part_of_train_beside_an_own_val_is_refused_by_its_own_sentence(n_train):
    given = arrays(x_val=X[:8], y_val=Y[:8])
    sentence = (
        rf"data\.n_train .* from 4 .* to 60 \(all training examples\), received {n_train!r}\."
    )
    with pytest.raises(DataError, match=sentence):
        data(given, n_train=n_train).for_search()


def test_a_part_of_train_beside_an_own_val_holds_each_class():
    given = arrays(x_val=X[:8], y_val=Y[:8])
    with pytest.raises(DataError, match=r"n_train=5 and .* to leave .* none of class 3"):
        data(given, n_train=5).for_search()


def test_one_hot_rows_and_whole_floats_are_the_labels_that_they_stand_for():
    for targets in (np.eye(4)[Y], np.eye(4, dtype=bool)[Y], Y.astype(float)):
        found = checked(arrays(y_train=targets), "tiny")
        assert np.array_equal(found.train.targets, Y)
        assert found.has_rows == (targets.ndim == 2)


def test_integers_become_float32_and_grey_images_keep_their_shape_where_told():
    given = arrays(x_train=X.astype(np.int64), x_test=arrays().x_test.astype(np.uint16))
    found = checked(given, "tiny")
    assert found.train.inputs.dtype == found.test.inputs.dtype == np.float32
    assert np.array_equal(found.train.inputs, X)
    flat = arrays(x_train=X[..., 0], x_test=arrays().x_test[..., 0])
    assert checked(flat, "tiny").train.inputs.shape == (60, 4, 5, 1)
    assert checked(flat, "tiny", channel_axis=False).train.inputs.shape == (60, 4, 5)


@pytest.mark.parametrize("shape", [(60, 3, 32, 32), (60, 1, 28, 28), (60, 4, 16, 9)])
def test_channels_that_come_first_are_refused_where_inputs_are_images(shape):
    given = arrays(x_train=np.zeros(shape, "uint8"), x_test=np.zeros((20, *shape[1:]), "uint8"))
    with pytest.raises(DataError, match=r"channels last in x_train of tiny.*numpy\.moveaxis"):
        checked(given, "tiny")
    assert checked(given, "tiny", channel_axis=False).train.inputs.shape == shape


def test_measurements_are_not_taken_for_images_with_channels_first():
    given = arrays(x_train=np.zeros((60, 1, 100, 8)), x_test=np.zeros((20, 1, 100, 8)))
    assert checked(given, "tiny").train.inputs.shape == (60, 1, 100, 8)


def test_uint8_images_are_not_copied_by_the_check():
    given = arrays()
    assert np.shares_memory(checked(given, "tiny")[0].inputs, given.x_train)


def test_fingerprint_tells_every_change():
    def of(given=None, **settings):
        return data(given, **settings).for_search().fingerprint

    one_pixel, one_label, one_test_pixel = X.copy(), Y.copy(), arrays().x_test.copy()
    one_pixel[17, 2, 2, 1] ^= 1
    one_label[0] = 1
    one_test_pixel[0, 0, 0, 0] ^= 1
    prints = [
        of(),
        of(arrays(x_train=one_pixel)),
        of(arrays(y_train=one_label)),
        of(arrays(x_test=one_test_pixel)),
        of(split_seed=1),
        of(n_val=13),
        of(n_train=20),
        of(n_calibration=8),
        of(n_train=20, n_calibration=8),
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == of()
    assert len(prints[0]) == 16


def test_fingerprint_is_told_from_shape_and_dtype_too():
    flat = np.arange(24, dtype=np.uint8)
    labels = np.zeros(2, np.int32)
    prints = {
        fingerprint(Examples(flat.reshape(shape), labels))
        for shape in ((2, 3, 4, 1), (2, 4, 3, 1), (2, 2, 6, 1))
    }
    assert len(prints) == 3


def test_fingerprint_is_the_same_in_another_process(tmp_path):
    given, path = arrays(), tmp_path / "a.npz"
    np.savez(
        path, x_train=given.x_train, y_train=given.y_train, x_test=given.x_test, y_test=given.y_test
    )
    code = (
        "import sys\nfrom functools import partial\n"
        "from hpsearch.data.split import Data\nfrom hpsearch.data.datasets import npz\n"
        "d = Data(name='a', load=partial(npz, sys.argv[1]), path=None, n_train=None, n_val=12, "
        "split_seed=0)\n"
        "print(d.for_search().fingerprint)"
    )
    env = os.environ | {"PYTHONPATH": str(CONF.parents[1] / "src"), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == data().for_search().fingerprint


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "digits", "npz"])
def test_each_conf_file_builds_its_data_set_and_hands_the_path_on(name, tmp_path):
    conf = OmegaConf.load(CONF / f"{name}.yaml")
    keys = {"_target_", "name", "path", "n_train", "n_val", "n_calibration", "split_seed", "load"}
    if name == "npz":
        keys |= {"channel_axis", "range"}
    assert set(conf) == keys
    assert OmegaConf.is_missing(conf, "path") == (name == "npz")
    conf.path = str(tmp_path / "absent")
    built = instantiate(OmegaConf.create({"data": conf}).data)
    assert built.name == conf.name == name
    assert built.load.func is getattr(datasets, name)
    if name == "digits":
        with pytest.raises(
            DataError, match=r"read from no file, but data\.path=.*absent was given"
        ):
            built.test()
        conf.path = None
        built = instantiate(OmegaConf.create({"data": conf}).data)
        assert built.for_search().image_shape == (8, 8, 1)
    else:
        with pytest.raises(DataError, match=r"absent.*received nothing there\.$"):
            built.test()
