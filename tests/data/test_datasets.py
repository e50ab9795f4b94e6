"""Test the sources of data sets: the file that each path leads to, and errors without a file."""

import gzip
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpsearch.data import datasets
from hpsearch.errors import DataError

ROOT = Path(__file__).parents[2]
CIFAR10 = ROOT.parent / "shared" / "cifar10"


@pytest.mark.parametrize("given", ["given", "given/cifar-10-batches-py"])
def test_path_may_be_the_folder_or_what_holds_it(tmp_path, given):
    batches = tmp_path / "given" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    (batches / "data_batch_1").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"batches-py/data_batch_1 to be a CIFAR batch of 10,000 images of 3072 bytes",
    ):
        datasets.cifar10(str(tmp_path / given))


@pytest.mark.parametrize("given", ["", "cifar-100-python.tar.gz"])
def test_path_may_be_the_archive_or_what_holds_it(tmp_path, given):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz to be a whole tar\.gz archive"):
        datasets.cifar100(str(tmp_path / given))


@pytest.mark.parametrize(
    ("name", "received"), [("empty", "a folder without them"), ("absent", "nothing there")]
)
def test_path_without_cifar_is_named(tmp_path, name, received):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=f"{name} to be a folder that holds cifar-10-batches-py or .*{received}"
    ):
        datasets.cifar10(str(tmp_path / name))


@pytest.mark.slow
def test_without_a_network_the_sentence_names_the_ways_out(tmp_path):
    code = (
        "from hpsearch.data.datasets import cifar10; from hpsearch.errors import DataError\n"
        "try: cifar10(None)\nexcept DataError as error: print(error)"
    )
    closed = {key: "http://127.0.0.1:9" for key in ("http_proxy", "https_proxy", "HTTPS_PROXY")}
    env = os.environ | closed | {"KERAS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Expected to download CIFAR-10, received ")
    assert "data.path=DIR, or choose data=digits" in done.stdout
    assert done.stdout.count("\n") == 1, "Keras's progress must not reach stdout"


def test_importing_the_rooms_is_fast_as_it_leaves_out_the_large_libraries():
    code = "import sys, hpsearch.data; print({'keras', 'tensorflow', 'sklearn'} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


class Evil:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_digits_hold_all_images_once_with_a_stratified_fifth_as_test():
    arrays = datasets.digits()
    assert arrays.x_train.shape[1:] == (8, 8)
    assert len(arrays.y_train) + len(arrays.y_test) == 1797
    whole = np.bincount(arrays.y_train) + np.bincount(arrays.y_test)
    assert np.array_equal(np.bincount(arrays.y_test), whole // 5)
    assert (arrays.x_train.min(), arrays.x_train.max()) == (0, 255)
    assert len(np.unique(arrays.x_train)) == 17


def test_mnist_is_read_from_a_file_or_the_folder_that_holds_it(tmp_path):
    content = {
        "x_train": np.zeros((20, 28, 28), np.uint8), "y_train": np.arange(20) % 10,
        "x_test": np.ones((10, 28, 28), np.uint8), "y_test": np.arange(10),
    }  # fmt: skip
    np.savez(tmp_path / "mnist.npz", **content)
    for path in (tmp_path, tmp_path / "mnist.npz"):
        arrays = datasets.mnist(str(path))
        assert np.array_equal(arrays.x_test, content["x_test"])
        assert arrays.class_names == tuple("0123456789")


def write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 10, 28, 28), np.uint8)
    digits = np.arange(10, dtype=np.uint8)
    for part, some, labels in (("train", images[0], digits), ("t10k", images[1], digits[::-1])):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", some)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    return images


def test_fashion_mnist_is_read_from_its_four_files(tmp_path, fashion):
    arrays = datasets.fashion_mnist(str(tmp_path))
    np.testing.assert_array_equal(arrays.x_train, fashion[0])
    np.testing.assert_array_equal(arrays.x_test, fashion[1])
    assert arrays.y_train.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert arrays.y_test.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_damaged_idx_files_are_refused(tmp_path, fashion):
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for data in (
        whole[:-50],
        b"",
        b"no gzip",
        gzip.compress(gzip.decompress(whole)[:-1]),
        gzip.compress(b"\0\0"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match="t10k-images-idx3"):
            datasets.fashion_mnist(str(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match="received nothing there"):
        datasets.fashion_mnist(str(tmp_path))


def save_npz(path, **changes):
    content = {
        "x_train": np.zeros((6, 4, 4, 1), np.uint8), "y_train": np.arange(6) % 3,
        "x_test": np.zeros((3, 4, 4, 1), np.uint8), "y_test": np.arange(3),
    } | changes  # fmt: skip
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return str(path)


def test_npz_may_name_its_classes(tmp_path):
    assert datasets.npz(save_npz(tmp_path / "a.npz")).class_names is None
    names = np.array(["cat", "dog", "owl"])
    assert datasets.npz(save_npz(tmp_path / "b.npz", class_names=names)).class_names == (
        "cat",
        "dog",
        "owl",
    )
    with pytest.raises(DataError, match=r"class_names .* one row of texts, received int64"):
        datasets.npz(save_npz(tmp_path / "c.npz", class_names=np.arange(3)))


def test_npz_without_a_key_says_which(tmp_path):
    with pytest.raises(
        DataError, match=r"received x_train, y_train, x_test: y_test must be added\.$"
    ):
        datasets.npz(save_npz(tmp_path / "a.npz", y_test=None))


def test_npz_with_objects_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"y_train in .* array of numbers.*[Oo]bject arrays"):
        datasets.npz(
            save_npz(tmp_path / "a.npz", y_train=np.array([Evil(), 1, 2, 0, 1, 2], object))
        )


def test_what_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match="received nothing there"):
        datasets.npz(str(path))
    with pytest.raises(DataError, match="received a folder"):
        datasets.npz(str(tmp_path))
    npy = io.BytesIO()
    np.save(npy, np.zeros(3))
    for data in (b"", b"text", pickle.dumps(Evil()), npy.getvalue()):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.npz to be an \.npz file"):
            datasets.npz(str(path))


def test_damaged_npz_is_refused(tmp_path):
    save_npz(
        tmp_path / "a.npz",
        x_train=np.random.default_rng(0).integers(0, 256, (600, 4, 4, 1), np.uint8),
    )
    data = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(data[:-400])
    data[3000] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    for name in ("a.npz", "cut.npz"):
        with pytest.raises(DataError, match=name):
            datasets.npz(str(tmp_path / name))


def test_cifar_classes_have_their_names(monkeypatch):
    monkeypatch.setattr(datasets, "_download", lambda title, module, names: names)
    assert len(set(datasets.cifar10(None))) == 10
    names = datasets.cifar100(None)
    assert len(set(names)) == len(names) == 100
    assert list(names) == sorted(names)


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"CIFAR-10 is not at {CIFAR10}")
def test_the_whole_of_cifar10_is_read(tmp_path):
    subprocess.run(
        [sys.executable, str(CIFAR10 / "unpack"), str(tmp_path)], check=True, capture_output=True
    )
    arrays = datasets.cifar10(str(tmp_path))
    assert arrays.x_train.shape == (50_000, 32, 32, 3)
    assert np.bincount(arrays.y_train).tolist() == [5000] * 10
    assert np.bincount(arrays.y_test).tolist() == [1000] * 10
