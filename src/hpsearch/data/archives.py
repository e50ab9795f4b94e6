"""Read arrays from .npz files, gzipped idx files and CIFAR archives that a user gives.

The files are not trusted: reading one never runs code from it. Any damage raises a DataError.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpsearch.errors import DataError, first_line


@contextmanager
def _whole(where: str | Path, kind: str, found: str) -> Iterator[None]:
    """Raise DataError where the block finds damage in what should be whole."""
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        zipfile.BadZipFile,
        tarfile.TarError,
    ) as error:
        raise DataError(
            f"Expected {where} to be a whole {kind}, received {found} ({first_line(error)})."
        ) from error


# The arrays of an .npz file.
_REQUIRED = ("x_train", "y_train")
_VAL = ("x_val", "y_val")
_TEST = ("x_test", "y_test")


def check_npz(path: Path) -> None:
    """Raise DataError where there is no .npz file, or where it lacks an array."""
    if not path.is_file():
        raise DataError(f"Expected an .npz file at {path}, received {_what_is_at(path)}.")
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"Expected {path} to be an .npz file (numpy.savez writes one), received another kind "
            f"of file."
        )
    with (
        _whole(path, ".npz file", "a damaged one"),
        np.load(path, allow_pickle=False) as file,
    ):
        _check_members(file.files, path)


def read_npz(path: Path) -> dict[str, Any]:
    """Return the arrays of an .npz file: x_train, y_train, and those of the others that it holds.

    The others are x_val with y_val, x_test with y_test, and class_names. Arrays of objects are
    refused, as they hold pickles.

    Raises:
        DataError: The file is missing, damaged or not an .npz, or lacks an array.
    """
    check_npz(path)
    arrays = {}
    with (
        _whole(path, ".npz file", "a damaged one"),
        np.load(path, allow_pickle=False) as file,
    ):
        for key in (*_REQUIRED, *_VAL, *_TEST, "class_names"):
            if key in file.files:
                arrays[key] = _member(file, key, path)
    return arrays


def _check_members(names: Sequence[str], path: Path) -> None:
    """Raise DataError where a required array is missing, or one array of a pair."""
    missing = [key for key in _REQUIRED if key not in names]
    for pair in (_VAL, _TEST):
        lacking = [key for key in pair if key not in names]
        if len(lacking) == 1:
            missing += lacking
    if missing:
        expected = ", ".join(_REQUIRED)
        found = ", ".join(names) or "none"
        added = ", ".join(missing)
        raise DataError(
            f"Expected {path} to hold the arrays {expected}, and others in pairs, received "
            f"{found}: {added} must be added."
        )


def _member(
    file: Mapping[str, object],
    key: str,
    path: Path,
) -> np.ndarray:
    where = f"{key} in {path}"
    with _whole(where, "array of numbers", "one that cannot be read"):
        array = file[key]
    if not isinstance(array, np.ndarray):  # numpy returns the bytes of a member that is no .npy
        raise DataError(f"Expected {where} to be an array, received a file of another kind.")
    return array


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Return the uint8 array in a gzipped idx file, which is the format of MNIST.

    Args:
        path: The file.
        ndim: The number of axes that the array must have.

    Raises:
        DataError: The file is missing or damaged, or its size differs from what its header says.
    """
    if not path.is_file():
        raise DataError(f"Expected a gzipped idx file at {path}, received {_what_is_at(path)}.")
    with _whole(path, "gzip file", "a damaged one"):
        data = gzip.decompress(path.read_bytes())
    # The header is two zero bytes, 8 for uint8, the number of axes, and the length of each axis as
    # a big-endian int32.
    start = 4 + 4 * ndim
    shape: list[int] = []
    if len(data) >= start:
        shape = np.frombuffer(data[4:start], ">u4").tolist()
    is_uint8 = data[:4] == bytes((0, 0, 8, ndim))
    end = start + math.prod(shape)
    if not is_uint8 or len(data) != end:
        raise DataError(
            f"Expected {path} to hold a uint8 idx array of {ndim} axes, received {len(data):,} "
            f"other bytes."
        )
    values = np.frombuffer(data, np.uint8, offset=start)
    return values.reshape(shape)


class _File(NamedTuple):
    """A file of a CIFAR folder or archive: its name, its place for messages, and its content."""

    name: str
    where: str
    data: bytes


def read_cifar(
    path: Path,
    sizes: Mapping[str, int],
    label_key: str,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images (N, 32, 32, 3) uint8 and labels (N,) of each batch of a CIFAR folder or tar.gz.

    Args:
        path: The folder that holds the batches, or the archive. An archive is read in memory and
            never unpacked.
        sizes: The number of images that each batch must hold, by the name of the batch's file.
        label_key: The name of the labels in a batch: `labels`, or `fine_labels` for CIFAR-100.

    Raises:
        DataError: A batch is missing or damaged, has another size, or is a pickle of something
            else.
    """
    limits = {}
    for name, n in sizes.items():
        limits[name] = 2 * 3072 * n + 2**20  # an image has 3,072 bytes
    if path.is_dir():
        files = _in_folder(path, limits)
    else:
        files = _in_archive(path, limits)
    batches = {}
    for file in files:
        n = sizes[file.name]
        batches[file.name] = _batch(file, n, label_key)
    missing = [name for name in sizes if name not in batches]
    if missing:
        expected = ", ".join(sizes)
        lacking = ", ".join(missing)
        raise DataError(f"Expected {path} to hold {expected}, received it without {lacking}.")
    return batches


def _in_folder(path: Path, limits: Mapping[str, int]) -> Iterator[_File]:
    for name, limit in limits.items():
        file = path / name
        if file.is_file():
            where = str(file)
            _refuse_large(where, file.stat().st_size, limit)
            yield _File(name, where, file.read_bytes())


def _in_archive(path: Path, limits: Mapping[str, int]) -> Iterator[_File]:
    damage = _whole(path, "tar.gz archive", "a truncated or altered one")
    with damage, gzip.open(path) as whole:
        with tarfile.open(fileobj=whole, mode="r|") as tar:
            for member in tar:
                name = Path(member.name).name
                if not member.isfile() or name not in limits:
                    continue
                file = tar.extractfile(member)
                if file is not None:
                    where = f"{member.name} in {path}"
                    _refuse_large(where, member.size, limits[name])
                    yield _File(name, where, file.read())
        # gzip compares its checksum at the very end, which tar does not read.
        while whole.read(2**20):
            pass


def _refuse_large(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"Expected {where} to be a CIFAR batch of at most {limit:,} bytes, received {size:,} "
            f"bytes."
        )


def _batch(
    file: _File,
    n: int,
    label_key: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and the labels in a batch of `n` images."""
    n_bytes = 3 * 32 * 32  # of an image: 32 x 32 red, then green, then blue
    expected = (
        f"Expected {file.where} to be a CIFAR batch of {n:,} images of {n_bytes} bytes with "
        f"{label_key}"
    )
    try:
        stream = io.BytesIO(file.data)
        unpickler = _BatchUnpickler(stream, encoding="bytes")
        batch = {}
        for key, value in unpickler.load().items():
            batch[_text(key)] = value
        pixels = batch["data"].numpy()
        labels = np.asarray(batch[label_key])
    except Exception as error:  # a damaged pickle may raise any exception
        raise DataError(
            f"{expected}, received a file that cannot be read ({first_line(error)})."
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape != (n, n_bytes):
        raise DataError(f"{expected}, received {pixels.dtype} data of shape {pixels.shape}.")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(f"{expected}, received {labels.dtype} labels of shape {labels.shape}.")
    planes = pixels.reshape(n, 3, 32, 32)
    images = planes.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _text(key: str | bytes) -> str:
    if isinstance(key, bytes):
        return key.decode()
    return key


class _PickledArray:
    """Replaces numpy.ndarray in a pickle, so that numpy's own unpickling reads no unknown state."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def numpy(self) -> np.ndarray:
        _, shape, dtype, is_column_major, raw = self.state
        array = np.frombuffer(raw, dtype.code)
        if is_column_major:
            return array.reshape(shape, order="F")
        return array.reshape(shape)


class _PickledDtype:
    """Replaces numpy.dtype in a pickle; only its code is kept."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = _text(code)

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and fields, as a batch holds single bytes."""


def _from_buffer(
    raw: bytes,
    dtype: _PickledDtype,
    shape: tuple[int, ...],
    order: str,
) -> _PickledArray:
    array = _PickledArray()
    array.state = (1, shape, dtype, order == "F", raw)
    return array


def _latin1(text: str, _: object) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes in a pickle that Python 2 can read


class _BatchUnpickler(pickle.Unpickler):
    """Reads the few kinds of objects that a CIFAR batch holds, and imports nothing.

    An ordinary unpickler would let a pickle run any program.
    """

    def find_class(self, module: str, name: str) -> object:
        allowed = {
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledDtype,
            ("_codecs", "encode"): _latin1,
            ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
            ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs")
        return allowed[module, name]


def _what_is_at(path: Path) -> str:
    """Return in words what is at a path where a file was expected."""
    if path.is_dir():
        return "a folder"
    if path.exists():
        return "a file"
    return "nothing there"
