"""Test that CIFAR files of the original form are read, and that each damage has its message."""

import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest

from hpsearch.data import archives
from hpsearch.errors import DataError

N = 20  # images a batch; the real ones hold 10,000
SIZES = {f"data_batch_{i}": N for i in range(1, 6)} | {"test_batch": N}


def batch(index: int, n: int = N) -> dict[bytes, object]:
    pixels = np.random.default_rng(index).integers(0, 256, (n, 3072), np.uint8)
    names = [f"{index}_{i}.png".encode() for i in range(n)]
    return {
        b"batch_label": b"a batch",
        b"labels": [i % 10 for i in range(n)],
        b"data": pixels,
        b"filenames": names,
    }


@pytest.fixture
def folder(tmp_path):
    """A CIFAR-10 folder of the original form, protocol 2, with fewer images."""
    inside = tmp_path / "given" / "cifar-10-batches-py"
    inside.mkdir(parents=True)
    for index, name in enumerate(SIZES):
        (inside / name).write_bytes(pickle.dumps(batch(index), protocol=2))
    (inside / "readme.html").write_text("<p>")
    return inside


@pytest.fixture
def archive(folder):
    """The same folder as a tar.gz, with its members in another order than the batches."""
    path = folder.parent / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in (
            "data_batch_4",
            "readme.html",
            "test_batch",
            *(f"data_batch_{i}" for i in (1, 3, 5, 2)),
        ):
            tar.add(folder / name, arcname=f"cifar-10-batches-py/{name}")
    return path


def load(path):
    return archives.read_cifar(path, SIZES, "labels")


def test_batches_become_images_with_the_colour_last(folder):
    images, labels = load(folder)["data_batch_3"]
    pixels = batch(2)[b"data"]
    assert images.shape == (N, 32, 32, 3)
    assert images.dtype == np.uint8
    for row, column, colour in ((0, 0, 0), (5, 7, 1), (31, 30, 2)):
        assert images[4, row, column, colour] == pixels[4, 1024 * colour + 32 * row + column]
    assert labels.tolist() == batch(2)[b"labels"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_pickle_protocol_that_numpy_writes_is_read(folder, protocol):
    (folder / "test_batch").write_bytes(pickle.dumps(batch(5), protocol=protocol))
    assert load(folder)["test_batch"][0].shape == (N, 32, 32, 3)


def python_2_pickle(content):
    """Write a batch opcode by opcode, as Python 2 did, with byte strings for all texts."""

    def text(data):
        return b"T" + len(data).to_bytes(4, "little") + data

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    )
    array = (
        empty
        + b"(K\x01"
        + bytes((ord("K"), N))
        + b"M\x00\x0c\x86"
        + dtype
        + b"\x89"
        + text(content[b"data"])
        + b"tb"
    )
    labels = b"](" + b"".join(bytes((ord("K"), label)) for label in content[b"labels"]) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."


def test_python_2_pickle_of_an_old_numpy_is_read(folder):
    original = batch(5)
    expected, labels = load(folder)["test_batch"]
    (folder / "test_batch").write_bytes(
        python_2_pickle(original | {b"data": original[b"data"].tobytes()})
    )
    images, same_labels = load(folder)["test_batch"]
    assert np.array_equal(images, expected)
    assert np.array_equal(same_labels, labels)


def test_archive_gives_what_the_folder_gives_and_unpacks_nothing(folder, archive):
    before = sorted(archive.parent.rglob("*"))
    from_archive, from_folder = load(archive), load(folder)
    assert from_archive.keys() == from_folder.keys()
    for name, (images, labels) in from_folder.items():
        assert np.array_equal(images, from_archive[name][0])
        assert np.array_equal(labels, from_archive[name][1])
    assert sorted(archive.parent.rglob("*")) == before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_archive_is_refused(archive, share):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
        load(archive)


def test_one_altered_byte_in_an_archive_is_noticed(archive):
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"Expected .*cifar-10-python\.tar\.gz.*"):
        load(archive)


def test_archive_that_is_no_tar_is_refused(archive):
    archive.write_bytes(gzip.compress(b"no tar" * 1000))
    with pytest.raises(DataError, match=r"whole tar\.gz archive"):
        load(archive)


def test_batch_left_out_is_named(folder):
    (folder / "data_batch_2").unlink()
    with pytest.raises(DataError, match=r"without data_batch_2\.$"):
        load(folder)


def shorter(b):
    return {**b, b"data": b[b"data"][:-1]}


def half_images(b):
    return {**b, b"data": b[b"data"][:, :1536]}


def lost_label(b):
    return {**b, b"labels": b[b"labels"][:-1]}


def texts(b):
    return {**b, b"labels": ["cat"] * N}


def no_data(b):
    return {k: v for k, v in b.items() if k != b"data"}


@pytest.mark.parametrize("alter", [shorter, half_images, lost_label, texts, no_data, list, str])
def test_altered_batch_is_refused_with_its_name_and_what_it_should_hold(folder, alter):
    (folder / "data_batch_1").write_bytes(pickle.dumps(alter(batch(0)), protocol=2))
    with pytest.raises(
        DataError, match=r"data_batch_1 to be a CIFAR batch of 20 images of 3072 bytes"
    ):
        load(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_truncated_batch_is_refused(folder, share):
    data = (folder / "test_batch").read_bytes()
    (folder / "test_batch").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="test_batch to be a CIFAR batch"):
        load(folder)


def test_huge_batch_is_refused_before_it_is_read(folder):
    with (folder / "test_batch").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(DataError, match="at most"):
        load(folder)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_would_run_a_program_is_refused_and_runs_nothing(folder, tmp_path):
    victim = tmp_path / "made by a pickle"
    (folder / "test_batch").write_bytes(
        pickle.dumps(batch(5) | {b"data": Evil(victim)}, protocol=2)
    )
    with pytest.raises(DataError, match=r"asks for posix\.mkdir, which no CIFAR batch needs"):
        load(folder)
    assert not victim.exists()


def test_the_key_of_the_labels_is_chosen(tmp_path):
    content = batch(0) | {b"fine_labels": [i % 7 for i in range(N)]}
    (tmp_path / "train").write_bytes(pickle.dumps(content, protocol=2))
    assert archives.read_cifar(tmp_path, {"train": N}, "fine_labels")["train"][1].max() == 6
    assert archives.read_cifar(tmp_path, {"train": N}, "labels")["train"][1].max() == 9
