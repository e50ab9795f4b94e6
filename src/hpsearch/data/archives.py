"""Read arrays from files that a person gave: nothing in them is trusted, all damage is a DataError."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import DataError, first_line

PIXELS = 3 * 32 * 32  # bytes of a CIFAR image: 32 x 32 red, then green, then blue
DAMAGE = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


def read_npz(
    path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, NDArray[Any]]:
    """Return the named arrays of an .npz file; object arrays are refused, as they hold pickles.

    Raises:
        DataError: The file is missing, not an .npz, damaged, or lacks a required array.
    """
    if not path.is_file():
        raise DataError(f"Expected an .npz file at {path}, received {what_is_at(path)}.")
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"Expected {path} to be an .npz file (numpy.savez writes one), received another kind "
            f"of file."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in required if key not in file.files]
            if missing:
                found = ", ".join(file.files) or "none"
                raise DataError(
                    f"Expected {path} to hold the arrays {', '.join(required)}, received {found}: "
                    f"{', '.join(missing)} must be added."
                )
            return {
                key: _member(file, key, path) for key in required + optional if key in file.files
            }
    except DAMAGE as error:
        raise DataError(
            f"Expected {path} to be a whole .npz file, received a damaged one "
            f"({first_line(error)})."
        ) from error


def _member(file: Mapping[str, Any], key: str, path: Path) -> NDArray[Any]:
    try:
        array = file[key]
    except DAMAGE as error:
        raise DataError(
            f"Expected {key} in {path} to be a whole array of numbers, received one that cannot be "
            f"read "
            f"({first_line(error)})."
        ) from error
    if not isinstance(array, np.ndarray):  # numpy hands out the bytes of a member that is no .npy
        raise DataError(
            f"Expected {key} in {path} to be an array, received a file of another kind."
        )
    return array


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Return the uint8 array of `ndim` axes in a gzipped idx file (the format of MNIST).

    Raises:
        DataError: The file is missing, damaged, or does not hold as many bytes as its header says.
    """
    if not path.is_file():
        raise DataError(f"Expected a gzipped idx file at {path}, received {what_is_at(path)}.")
    start = (
        4 + 4 * ndim
    )  # two zero bytes, 8 for uint8, the number of axes, then each axis as a big-endian int32
    try:
        data = gzip.decompress(path.read_bytes())
    except DAMAGE as error:
        raise DataError(
            f"Expected {path} to be a whole gzip file, received a damaged one "
            f"({first_line(error)})."
        ) from error
    shape = tuple(int(n) for n in np.frombuffer(data[4:start], ">u4")) if len(data) >= start else ()
    if data[:4] != bytes((0, 0, 8, ndim)) or len(data) - start != int(np.prod(shape, dtype=object)):
        raise DataError(
            f"Expected {path} to hold a uint8 idx array of {ndim} axes, received {len(data):,} "
            f"other bytes."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_cifar(
    path: Path, sizes: Mapping[str, int], label_key: str
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return images (N, 32, 32, 3) uint8 and labels (N,) of each batch of a CIFAR folder or tar.gz.

    Args:
        path: The folder that holds the batches, or the archive; an archive is read in memory, never
            unpacked.
        sizes: How many images each batch must hold, by the batch's file name.
        label_key: The name of the labels in a batch: `labels`, or `fine_labels` for CIFAR-100.

    Raises:
        DataError: A batch is missing, damaged, of another size, or a pickle of anything but a
            batch.
    """
    limits = {name: 2 * PIXELS * n + 2**20 for name, n in sizes.items()}
    batches = {}
    for name, where, data in (
        _in_folder(path, limits) if path.is_dir() else _in_archive(path, limits)
    ):
        batches[name] = _batch(data, where, sizes[name], label_key)
    missing = [name for name in sizes if name not in batches]
    if missing:
        raise DataError(
            f"Expected {path} to hold {', '.join(sizes)}, received it without {', '.join(missing)}."
        )
    return batches


def _in_folder(path: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    for name, limit in limits.items():
        file = path / name
        if file.is_file():
            _refuse_large(str(file), file.stat().st_size, limit)
            yield name, str(file), file.read_bytes()


def _in_archive(path: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    try:
        with gzip.open(path) as whole:
            with tarfile.open(fileobj=whole, mode="r|") as tar:
                for member in tar:
                    name = Path(member.name).name
                    file = tar.extractfile(member) if member.isfile() and name in limits else None
                    if file is not None:
                        where = f"{member.name} in {path}"
                        _refuse_large(where, member.size, limits[name])
                        yield name, where, file.read()
            while whole.read(
                2**20
            ):  # gzip compares its checksum at the very end, after what tar needs
                pass
    except DAMAGE as error:
        raise DataError(
            f"Expected {path} to be a whole tar.gz archive, received a truncated or altered one "
            f"({first_line(error)})."
        ) from error


def _refuse_large(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"Expected {where} to be a CIFAR batch of at most {limit:,} bytes, received {size:,} "
            f"bytes."
        )


def _batch(
    data: bytes, where: str, n: int, label_key: str
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    expected = (
        f"Expected {where} to be a CIFAR batch of {n:,} images of {PIXELS} bytes with {label_key}"
    )
    try:
        batch = {
            _text(key): value
            for key, value in _BatchUnpickler(io.BytesIO(data), encoding="bytes").load().items()
        }
        pixels, labels = batch["data"].numpy(), np.asarray(batch[label_key])
    except Exception as error:  # a damaged pickle fails in ways without number
        raise DataError(
            f"{expected}, received a file that cannot be read ({first_line(error)})."
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape != (n, PIXELS):
        raise DataError(f"{expected}, received {pixels.dtype} data of shape {pixels.shape}.")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(f"{expected}, received {labels.dtype} labels of shape {labels.shape}.")
    return np.ascontiguousarray(pixels.reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


class _PickledArray:
    """Stands for numpy.ndarray in a pickle, so that numpy's own unpickling never sees a stranger's
    state.
    """

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def numpy(self) -> NDArray[Any]:
        _, shape, dtype, column_major, raw = self.state
        return np.frombuffer(raw, dtype.code).reshape(shape, order="F" if column_major else "C")


class _PickledDtype:
    """Stands for numpy.dtype in a pickle; only its code counts."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = _text(code)

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and fields: a batch holds single bytes."""


def _from_buffer(
    raw: bytes, dtype: _PickledDtype, shape: tuple[int, ...], order: str
) -> _PickledArray:
    array = _PickledArray()
    array.state = (1, shape, dtype, order == "F", raw)
    return array


def _latin1(text: str, _: object) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes in a pickle that Python 2 can read


_ALLOWED = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): _latin1,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _PickledArray),
        ("numeric", "_frombuffer", _from_buffer),
    )
}


class _BatchUnpickler(pickle.Unpickler):
    """Builds what a CIFAR batch is made of and imports nothing: a pickle could otherwise run any
    program.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs")
        return _ALLOWED[module, name]


def what_is_at(path: Path) -> str:
    """Return in words what stands at a path where a file was expected."""
    if path.is_dir():
        return "a folder"
    return "a file" if path.exists() else "nothing there"
