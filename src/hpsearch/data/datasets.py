"""Load the images and labels of a data set, as yet unchecked.

The sources are Keras's loaders, which download, files of the same form, the digits of scikit-learn
and an .npz file of the user's own. Each function returns `Arrays`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hpsearch.data.archives import check_npz, read_cifar, read_idx, read_npz
from hpsearch.errors import DataError, first_line
from hpsearch.standard_error import standard_error

# Folder and archive of each.
_OF_CIFAR10 = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
_OF_CIFAR100 = ("cifar-100-python", "cifar-100-python.tar.gz")
# The path in the configuration of a search whose arrays were given to `hpsearch.search`.
GIVEN_IN_PYTHON = "arrays given in Python"


@dataclass(frozen=True, eq=False)
class Arrays:
    """A data set as it was loaded, unchecked.

    Attributes:
        x_train: The training images, (N, H, W, C) or grey (N, H, W). Inputs that are no images may
            have any number of axes from 2 on.
        y_train: Their labels, (N,) or (N, 1), or one-hot rows (N, C).
        x_test: The test images, of the same form; None if there is no test part.
        y_test: Their labels.
        class_names: A name for each label from 0 on; None if the labels themselves are the names.
        x_val: The validation images, of the same form; None if they are split off the training
            images.
        y_val: Their labels.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    class_names: tuple[str, ...] | None
    x_val: np.ndarray | None = None
    y_val: np.ndarray | None = None


def cifar10(path: str | None) -> Arrays:
    """Load CIFAR-10, 50,000 + 10,000 images (32, 32, 3) of 10 classes (Krizhevsky, 2009).

    Args:
        path: `cifar-10-batches-py`, `cifar-10-python.tar.gz`, or a folder that holds one of them;
            None downloads.

    Raises:
        DataError: There is no network, or a file is missing, truncated, altered or not CIFAR.
    """
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    if path is None:
        return _download("CIFAR-10", "cifar10", names)
    where = _find(path, *_OF_CIFAR10)
    sizes = {f"data_batch_{i}": 10_000 for i in range(1, 6)}
    sizes["test_batch"] = 10_000
    return _cifar(where, sizes, "labels", names)


def cifar100(path: str | None) -> Arrays:
    """Load CIFAR-100 with its fine labels (Krizhevsky, 2009).

    It has 50,000 + 10,000 images (32, 32, 3) of 100 classes.

    Args:
        path: `cifar-100-python`, `cifar-100-python.tar.gz`, or a folder that holds one of them;
            None downloads.

    Raises:
        DataError: As for `cifar10`.
    """
    names = tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
        keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
        mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
        plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()  # noqa: SIM905 (a hundred quoted names are harder to read)
    )
    if path is None:
        return _download("CIFAR-100", "cifar100", names)
    where = _find(path, *_OF_CIFAR100)
    sizes = {"train": 50_000, "test": 10_000}
    return _cifar(where, sizes, "fine_labels", names)


def mnist(path: str | None) -> Arrays:
    """Load MNIST, 60,000 + 10,000 grey images (28, 28) of the ten digits (LeCun et al., 1998).

    Args:
        path: Keras's `mnist.npz`, or a folder that holds it; None downloads.

    Raises:
        DataError: There is no network, or a file is missing or damaged.
    """
    names = tuple("0123456789")
    if path is None:
        return _download("MNIST", "mnist", names)
    return replace(npz(str(_mnist_file(path))), class_names=names)


def fashion_mnist(path: str | None) -> Arrays:
    """Load Fashion-MNIST (Xiao et al., 2017).

    It has 60,000 + 10,000 grey images (28, 28) of 10 kinds of clothing.

    Args:
        path: A folder that holds its four files, such as `train-images-idx3-ubyte.gz`; None
            downloads.

    Raises:
        DataError: There is no network, or a file is missing or damaged.
    """
    names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    if path is None:
        return _download("Fashion-MNIST", "fashion_mnist", names)
    folder = _expanded(path)
    return Arrays(
        x_train=read_idx(folder / "train-images-idx3-ubyte.gz", 3),
        y_train=read_idx(folder / "train-labels-idx1-ubyte.gz", 1),
        x_test=read_idx(folder / "t10k-images-idx3-ubyte.gz", 3),
        y_test=read_idx(folder / "t10k-labels-idx1-ubyte.gz", 1),
        class_names=names,
    )


def digits(path: str | None = None) -> Arrays:
    """Load scikit-learn's 1,797 handwritten digits, grey images (8, 8), without a download.

    Every fifth image of a class is a test image. The 17 grey levels are spread over 0 to 255, so
    that a pixel means the same as in the other data sets.

    Args:
        path: None, since no files are read.

    Raises:
        DataError: A path was given.
    """
    if path is not None:
        _refuse_path(path)
    from sklearn.datasets import load_digits  # noqa: PLC0415 (takes a second, only needed here)

    bunch = load_digits()
    images = (bunch.images * 255 // 16).astype(np.uint8)
    labels = bunch.target
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        of_class = np.flatnonzero(labels == label)
        is_test[of_class[4::5]] = True
    return Arrays(
        x_train=images[~is_test],
        y_train=labels[~is_test],
        x_test=images[is_test],
        y_test=labels[is_test],
        class_names=tuple("0123456789"),
    )


def npz(path: str) -> Arrays:
    """Load an .npz file of the user's own.

    It holds x_train and y_train. It may hold x_val and y_val, which guide a search, x_test and
    y_test, and class_names (C,) if the classes have names.

    Raises:
        DataError: The file is missing, damaged or not an .npz, it lacks an array, or its
            class_names are not text.
    """
    file = _expanded(path)
    arrays = read_npz(file)
    names = arrays.pop("class_names", None)
    for key in ("x_test", "y_test"):
        arrays.setdefault(key, None)
    if names is None:
        return Arrays(**arrays, class_names=None)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"Expected class_names in {file} to be one row of texts, received {names.dtype} of "
            f"shape {names.shape}."
        )
    class_names = tuple(str(name) for name in names)
    return Arrays(**arrays, class_names=class_names)


def check_files(load: Callable[[], Arrays]) -> None:
    """Raise DataError where the files of a data set are not there, without reading its images.

    Args:
        load: One of the functions above with its path.
    """
    if not isinstance(load, partial):
        return
    path = load.keywords.get("path")
    check = _CHECKS.get(load.func)
    if path not in (None, GIVEN_IN_PYTHON) and check is not None:
        check(path)


def _mnist_file(path: str) -> Path:
    file = _expanded(path)
    if file.is_dir():
        file = file / "mnist.npz"
    return file


def _refuse_path(path: str) -> NoReturn:
    raise DataError(
        "The digits come with scikit-learn and are read from no file, but data.path="
        f"{path} was given; data=npz reads files of your own."
    )


def _expanded(path: str) -> Path:
    """Return a path in which `~` is the home folder, and `~NAME` one that exists."""
    return Path(os.path.expanduser(path))


def _find(path: str, folder: str, archive: str) -> Path:
    """Return the folder or the archive that `path` is or holds."""
    here = _expanded(path).resolve()
    if here.is_file():
        return here
    if here.is_dir() and here.name == folder:
        return here
    for inside in (here / folder, here / archive):
        if inside.exists():
            return inside
    received = "nothing there"
    if here.is_dir():
        received = "a folder without them"
    raise DataError(
        f"Expected data.path={path} to be a folder that holds {folder} or {archive}, received "
        f"{received}."
    )


def _cifar(
    path: Path,
    sizes: Mapping[str, int],
    label_key: str,
    names: tuple[str, ...],
) -> Arrays:
    """Join the batches of a folder or an archive; the last of `sizes` is the test batch."""
    batches = read_cifar(path, sizes, label_key)
    *train, test = sizes
    x_train = [batches[name][0] for name in train]
    y_train = [batches[name][1] for name in train]
    x_test, y_test = batches[test]
    return Arrays(
        np.concatenate(x_train),
        np.concatenate(y_train),
        x_test,
        y_test,
        names,
    )


def _download(title: str, module: str, names: tuple[str, ...]) -> Arrays:
    """Call a loader of `keras.datasets`, which keeps what it downloads.

    Its progress bar goes to stderr.
    """
    import keras  # noqa: PLC0415 (takes seconds, only needed for a download)

    load: Callable[[], Any] = getattr(keras.datasets, module).load_data
    try:
        with contextlib.redirect_stdout(standard_error.terminal):
            (x_train, y_train), (x_test, y_test) = load()
    except Exception as error:  # Keras raises a bare Exception where a download fails
        reason = first_line(error)
        raise DataError(
            f"Expected to download {title}, received {reason!r}; name a folder that holds it with "
            f"data.path=DIR, or choose data=digits, which needs no download."
        ) from error
    if x_train.ndim == 4 and keras.config.image_data_format() == "channels_first":
        x_train = x_train.transpose(0, 2, 3, 1)
        x_test = x_test.transpose(0, 2, 3, 1)
    return Arrays(x_train, y_train, x_test, y_test, names)


_CHECKS: dict[object, Callable[[str], object]] = {
    cifar10: lambda path: _find(path, *_OF_CIFAR10),
    cifar100: lambda path: _find(path, *_OF_CIFAR100),
    digits: _refuse_path,
    mnist: lambda path: check_npz(_mnist_file(path)),
    npz: lambda path: check_npz(_expanded(path)),
}
