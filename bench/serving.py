"""Ask a served model what it must refuse, and time what it answers beside loops of Keras calls.

    python bench/serving.py                          some two minutes on two cores

A search of the digits registers a small net, which `mlflow models serve` serves on 127.0.0.1. Each
malformed request is printed with the status and the message of its answer; an answer with status
200 is a wrong one. Rows that say "in process" time `mlflow.pyfunc.load_model(...).predict`, rows
that say "HTTP" a POST on the same machine. The loops are as people write them: S calls of
`predict` of a model whose dropout is always on, and S calls of `model(x, training=True)`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in every command of hpsearch
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
import keras
import mlflow
import numpy as np
import psutil
import requests
from keras import layers, ops
from sklearn.datasets import load_digits

from rows import ENVIRONMENT, Row, run

N_PASSES = 30
SEARCH = (
    "search", "arch=selu", "data=digits", "arch.n_hidden=3", "arch.n_units=20",
    "training.epochs=10", "budget.n_trials=3",
)  # fmt: skip
MODEL = "models:/digits-selu/1"
JSON = "application/json"


def digits(n: int) -> np.ndarray:
    """Return n digits as the search has them: pixels from 0 to 255."""
    pixels = np.round(load_digits().images * 255 / 16).astype(np.uint8)[..., None]
    return np.resize(pixels, (n, 8, 8, 1))


def malformed() -> list[tuple[str, str, bytes]]:
    """Return requests that must be refused: a name, the content type and the body of each."""
    image = digits(1).tolist()
    wrong: dict[str, object] = {
        "no known key": {"images": image},
        "a mistyped key": {"instance": image},
        "two keys": {"instances": image, "inputs": image},
        "a list": image,
        "a number": 7,
        "null as body": None,
        "inputs by name": {"inputs": {"image": image}},
        "instances by name": {"instances": [{"image": image[0]}]},
        "messages": {"messages": [{"role": "user", "content": "7"}]},
        "null": {"instances": None},
        "a text": {"instances": "seven"},
        "one number": {"instances": 7},
        "a dictionary": {"instances": {}},
        "an empty list": {"instances": []},
        "an empty image": {"instances": [[]]},
        "no axes but lists": {"instances": [[[[[]]]]]},
        "one image without a batch": {"instances": image[0]},
        "one list too many": {"instances": [image]},
        "a flat image": {"instances": [digits(1).ravel().tolist()]},
        "no channel": {"instances": digits(1)[..., 0].tolist()},
        "three channels": {"instances": np.repeat(digits(1), 3, axis=-1).tolist()},
        "channels first": {"instances": np.moveaxis(digits(1), -1, 1).tolist()},
        "9 x 9 pixels": {"instances": np.zeros((1, 9, 9, 1), int).tolist()},
        "a ragged row": {"instances": [[image[0][0][:-1], *image[0][1:]]]},
        "two images, one smaller": {"inputs": [image[0], image[0][:-1]]},
        "a data frame's rows": {"dataframe_records": [{"pixel": 0}]},
        "a data frame": {"dataframe_split": {"columns": ["a"], "data": [[0]]}},
        "a data frame of flat images": {"dataframe_split": {"data": [[[0] * 64]]}},
        "too many images": {"instances": np.zeros((40_000, 8, 8, 1), int).tolist()},
    }
    pixels = (0.5, 12.7, -1, 256, 1e30, "7", "white", "", True, False, None, [], {}, "NaN")
    for pixel in pixels:
        wrong[f"one pixel {pixel!r}"] = {
            "instances": [[[[pixel], *image[0][0][1:]], *image[0][1:]]]
        }
    wrong["all pixels from 0 to 1"] = {"instances": (digits(2) / 255).tolist()}
    wrong["all pixels from -1 to 1"] = {"inputs": (digits(2) / 127.5 - 1).tolist()}
    wrong["all pixels true"] = {"instances": np.ones((1, 8, 8, 1), bool).tolist()}
    wrong["all pixels texts"] = {"inputs": digits(1).astype(str).tolist()}
    params: list[object] = [
        {"n_samples": value} for value in ("30", 1.5, True, None, -1, 0, 10**9, [30])
    ]
    params += [{"seed": -1}, {"seed": 2**40}, {"seed": None}, {"seed": "1"}, {"seed": 0.5}]
    params += [{"method": value} for value in ("MC", "bayes", "", 3, None)]
    params += [{"return_samples": value} for value in ("yes", 1, None)]
    params += [{"n_sample": 50}, {"temperature": 1.0, "n_samples": 5}, [], "mc", {"": 1}]
    params += [{"method": "plain", "return_samples": True}]
    for param in params:
        wrong[f"params {json.dumps(param)}"] = {"instances": image, "params": param}
    asked = [(name, JSON, json.dumps(body).encode()) for name, body in wrong.items()]
    all_samples = {"n_samples": 10_000, "return_samples": True}
    body = {"instances": digits(50).tolist(), "params": all_samples}
    asked.append(("too many samples to return", JSON, json.dumps(body).encode()))
    body = {"instances": digits(1000).tolist(), "params": {"n_samples": 10_000}}
    asked.append(("too many passes", JSON, json.dumps(body).encode()))
    good = json.dumps({"instances": image})
    for literal in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = good.replace("[0]", f"[{literal}]", 1)
        asked.append((f"one pixel {literal}", JSON, text.encode()))
    asked += [
        ("broken JSON", JSON, good[:-5].encode()),
        ("no body", JSON, b""),
        ("bytes that are no text", JSON, b"\x00\xff"),
        ("JSON as text/plain", "text/plain", good.encode()),
        ("JSON as CSV", "text/csv", good.encode()),
        ("CSV", "text/csv", b"a,b\n1,2\n"),
        ("another charset", f"{JSON}; charset=latin-1", good.encode()),
    ]
    return asked


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Serve the model; yield the URL, the seconds of the start, and the server's memory in MB."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ("models", "serve", "-m", MODEL, "--env-manager", "local", "--host", "127.0.0.1")
    start = time.perf_counter()
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "mlflow", *words, "--port", str(port)),
            cwd=folder,
            env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(f"{url}/ping"):
            if process.poll() is not None:
                raise RuntimeError((folder / "serve.log").read_text())
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        whole = psutil.Process(process.pid)
        memory = max(part.memory_info().rss for part in whole.children(recursive=True)) / 2**20
        yield f"{url}/invocations", seconds, memory
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def _post(url: str, body: str) -> None:
    answer = requests.post(url, body, headers={"Content-Type": JSON}, timeout=60)
    answer.raise_for_status()


def refused(url: str) -> Iterator[Row]:
    """Print what each malformed request is answered, and yield rows on all of them."""
    asked = malformed()
    n_wrong, n_long = 0, 0
    for name, kind, body in asked:
        answer = requests.post(url, body, headers={"Content-Type": kind}, timeout=120)
        text = answer.text
        if answer.status_code != 200 and answer.text.startswith("{"):
            text = answer.json().get("message", text)
        wrong = answer.status_code == 200 or answer.status_code >= 500
        n_wrong += wrong
        n_long += len(text) > 200
        mark = "WRONG" if wrong else ""
        print(f"{answer.status_code} {mark} {name}: {' '.join(text.split())[:230]}", flush=True)
    yield Row(f"{len(asked)} malformed requests, answered 200 or 500", n_wrong, must=0)
    yield Row("messages of more than 200 characters", n_long, note="written by MLflow's server")


def median_ms(call: Callable[[], object], n_times: int) -> float:
    """Return the median milliseconds of a call, after a first one."""
    call()
    taken = []
    for _ in range(n_times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def always_on(model: keras.Model) -> keras.Model:
    """Return the model as published code makes it: dropout layers that ignore `training`."""
    kinds = (layers.Dropout, layers.AlphaDropout)

    class On(layers.AlphaDropout):  # type: ignore[misc]
        def call(self, inputs: object, training: bool = False) -> object:
            return super().call(inputs, training=True)

    def swap(layer: keras.layers.Layer) -> keras.layers.Layer:
        return On(layer.rate) if isinstance(layer, kinds) else layer

    copy = keras.models.clone_model(model, clone_function=swap)
    copy.set_weights(model.get_weights())
    return copy


def latencies(url: str, folder: Path, n_times: int) -> Iterator[Row]:
    """Yield the latencies of the served model and of loops of Keras calls."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    start = time.perf_counter()
    model = mlflow.pyfunc.load_model(MODEL)
    yield Row("load_model in process", time.perf_counter() - start, "s")
    yield from new_sizes(model)
    network = model.unwrap_python_model().model
    on = always_on(network)
    params = {"n_samples": N_PASSES}
    for n in (1, 100):
        images = digits(n)
        body = json.dumps({"instances": images.tolist(), "params": params})
        plain = json.dumps({"instances": images.tolist(), "params": {"method": "plain"}})
        tensor = ops.convert_to_tensor(images)
        what = f"{n} image{'s' * (n > 1)}"
        ours = median_ms(lambda images=images: model.predict(images, params), n_times)
        yield Row(f"{what}, {N_PASSES} passes, in process", ours, "ms")
        yield Row(
            f"{what}, plain, in process",
            median_ms(lambda images=images: model.predict(images, {"method": "plain"}), n_times),
            "ms",
            must=ours,
        )
        http = median_ms(lambda body=body: _post(url, body), n_times)
        yield Row(f"{what}, {N_PASSES} passes, HTTP", http, "ms")
        http = median_ms(lambda plain=plain: _post(url, plain), n_times)
        yield Row(f"{what}, plain, HTTP", http, "ms")
        loops: dict[str, tuple[Callable[[], object], float]] = {
            "predict(images)": (lambda images=images: on.predict(images, verbose=0), 270.0),
            "model(images, training=True)": (
                lambda tensor=tensor: ops.convert_to_numpy(network(tensor, training=True)),
                30.0,
            ),
        }
        for name, (call, known) in loops.items():
            looped = N_PASSES * median_ms(call, n_times)
            must = 0.9 * known if n == 1 else 1.0
            yield Row(f"{what}: loop of {name} / ours in process", looped / ours, "", must, True)


def new_sizes(model: mlflow.pyfunc.PyFuncModel) -> Iterator[Row]:
    """Yield how much longer the first request of each number of images takes than the next ones.

    Python collects no garbage meanwhile, which would stop a request for up to a second.
    """
    for more in ({}, {"method": "plain"}, {"return_samples": True}):
        params = {"n_samples": N_PASSES, **more}
        slowest = 0.0
        gc.disable()
        for n in (2, 3, 7, 9, 20, 33, 65, 130, 300):
            taken = []
            for _ in range(4):
                start = time.perf_counter()
                model.predict(digits(n), params)
                taken.append(time.perf_counter() - start)
            slowest = max(slowest, taken[0] - statistics.median(taken[1:]))
        gc.enable()
        name = json.dumps(more)
        what = f"slowest first request of a new size, params {name}, in process"
        yield Row(what, slowest, "s", 0.2)


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Search, serve, ask and time."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        subprocess.run(
            (sys.executable, "-m", "hpsearch", *SEARCH),
            cwd=folder,
            env=ENVIRONMENT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with served(folder) as (url, seconds, memory):
            yield Row("start of the server", seconds, "s")
            yield Row("memory of the server before its first request", memory, "MB")
            start = time.perf_counter()
            _post(url, json.dumps({"instances": digits(1).tolist()}))
            yield Row("first request of all", time.perf_counter() - start, "s")
            yield from latencies(url, folder, given.times)
            yield from refused(url)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50, help="timed calls of each kind")
    run("serving", parser, measure)


if __name__ == "__main__":
    main()
