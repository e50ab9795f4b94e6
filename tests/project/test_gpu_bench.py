"""bench/gpu.py: all parts run, one that is stopped costs the others nothing, and its page is that
of its results.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
STEP = {
    "what": "step", "k": 1, "arch": "elu", "batch_size": 32, "epoch_s": 0.2, "steps": 100,
    "step_s": 1e-3, "loop_s": 0.1, "validation_s": 0.01, "waited_s": 0.1,
    "product_flops": 0.4945e12, "compiled_flops": 0.5e12, "compiled_bytes": 2.4e9,
}  # fmt: skip
PARTS = {"chip", "search", "mc_dropout", "memory", "trials"}
# A part that writes one row, as all parts do, and then hangs.
HANGS = """
import json, os, sys, time
path = sys.argv[sys.argv.index("--json") + 1]
with open(path + ".part", "w") as file:
    json.dump({"rows": [{"pid": os.getpid()}]}, file)
os.replace(path + ".part", path)
print("hanging", flush=True)
time.sleep(600)
"""


def run_bench(*words, script=ROOT / "bench" / "gpu.py", python=(sys.executable,), timeout_s=60):
    variables = {
        key: value for key, value in os.environ.items() if key not in ("OUT", "PYTHONPATH")
    }
    command = [*python, str(script), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, env=variables, timeout=timeout_s, check=False
    )


def results(folder):
    return {
        path.stem.removeprefix("gpu_"): json.loads(path.read_text())
        for path in folder.glob("gpu_*.json")
    }


@pytest.fixture(scope="module")
def result_module():
    """The module with which a part writes its result, loaded from its file."""
    path = ROOT / "bench" / "gpu_parts" / "result.py"
    spec = importlib.util.spec_from_file_location("result_of_a_part", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_is_on_disk_as_soon_as_it_is_added(result_module, tmp_path):
    path = tmp_path / "gpu_chip.json"
    result = result_module.Result(path)
    result.add(what="copy", tb_per_s=1.23456789)
    assert json.loads(path.read_text()) == {"rows": [{"what": "copy", "tb_per_s": 1.23457}]}
    result.set(seconds=7)
    result.add(what="product")
    assert json.loads(path.read_text()) == {
        "rows": [{"what": "copy", "tb_per_s": 1.23457}, {"what": "product"}],
        "seconds": 7,
    }
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_is_made_of_the_results_beside_it(tmp_path):
    for path in RESULTS.glob("gpu_*.json"):
        shutil.copy(path, tmp_path)
    assert run_bench("--table", "--output", tmp_path).returncode == 0
    expected = (tmp_path / "gpu.md").read_text()
    assert (RESULTS / "gpu.md").read_text() == expected, "run: python bench/gpu.py --table"


def test_without_results_the_page_says_that_nothing_was_measured(tmp_path):
    assert run_bench("--table", "--output", tmp_path).returncode == 0
    assert "Not measured: no GPU was there yet." in (tmp_path / "gpu.md").read_text()


def copy_with(tmp_path, part, code):
    """Copy bench/, a part of which has other code; return the copy of the script."""
    shutil.copytree(
        ROOT / "bench", tmp_path / "bench", ignore=shutil.ignore_patterns("output", "__pycache__")
    )
    (tmp_path / "bench" / "gpu_parts" / f"{part}.py").write_text(code)
    return tmp_path / "bench" / "gpu.py"


def test_a_part_that_hangs_is_stopped_and_what_it_measured_is_kept(tmp_path):
    script = copy_with(tmp_path, "memory", HANGS)
    done = run_bench(
        "--small", "--parts", "memory", "--limit-s", "4", "--output", tmp_path, script=script
    )
    assert done.returncode == 1
    found = results(tmp_path)["memory"]
    assert found["status"].startswith("stopped after its limit of")
    assert [row.keys() for row in found["rows"]] == [{"pid"}]
    assert found["output"] == "hanging\n"


def test_a_part_that_fails_says_why_and_the_next_one_runs(tmp_path):
    script = copy_with(tmp_path, "search", "raise RuntimeError('no such luck')")
    done = run_bench("--small", "--parts", "search", "chip", "--output", tmp_path, script=script)
    assert done.returncode == 1
    found = results(tmp_path)
    assert found["search"]["status"] == "failed with exit status 1"
    assert "no such luck" in found["search"]["output"]
    assert found["chip"]["status"] == "finished"
    assert "no such luck" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize("size", [["--small"], []])
def test_a_terminated_run_ends_its_part_too(tmp_path, size):
    script = copy_with(tmp_path, "memory", HANGS)
    command = [
        sys.executable,
        str(script),
        *size,
        "--parts",
        "memory",
        "trials",
        "--output",
        str(tmp_path),
    ]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "gpu_memory.json"
    while not path.exists() or not json.loads(path.read_text())["rows"]:
        assert runner.poll() is None
        time.sleep(0.05)
    part = json.loads(path.read_text())["rows"][0]["pid"]
    runner.terminate()
    assert runner.wait(30) == 1
    assert "Stopped" in runner.communicate()[1]
    assert not psutil.pid_exists(part)


def test_the_page_is_made_of_whatever_a_killed_run_has_left(tmp_path):
    left = {
        "search": {"rows": []},
        "trials": {"rows": [STEP], "processes": []},
        "memory": {"rows": []},
    }
    for name, content in left.items():
        (tmp_path / f"gpu_{name}.json").write_text(json.dumps(content))
    assert run_bench("--table", "--output", tmp_path).returncode == 0
    written = (tmp_path / "gpu.md").read_text()
    assert "unknown, the runner was killed" in written
    assert "| elu | 32 | 1000 |" in written


def test_a_search_without_an_epoch_has_its_place_on_the_page(tmp_path):
    ended = {
        "trials": 1,
        "statuses": {"FAILED": 1},
        "reasons": {"error": 1},
        "failures": ["no"],
        "registered": [],
    }
    content = {
        "rows": [{"what": "training", "seconds": 1.0}],
        "command": ["python"],
        "exit_status": 1,
        "total_s": 1.0,
    }
    content |= {"epochs": 0, "median_epoch_s": None, **ended}
    (tmp_path / "gpu_search.json").write_text(json.dumps(content))
    assert run_bench("--table", "--output", tmp_path).returncode == 0
    assert "1 trials (1 FAILED; 1 error), 0 epochs, 1 failures" in (tmp_path / "gpu.md").read_text()


def test_shares_of_the_data_sheet_are_by_hand(tmp_path):
    """A step of 1 ms with 0.4945 TFLOP is all of an H200's TF32 rate; 2.4 GB are half of its memory
    rate.
    """
    trials = {"rows": [STEP], "processes": [], "gpu": "NVIDIA H200"}
    (tmp_path / "gpu_trials.json").write_text(json.dumps(trials))
    assert run_bench("--table", "--output", tmp_path).returncode == 0
    row = next(
        line
        for line in (tmp_path / "gpu.md").read_text().splitlines()
        if line.startswith("| elu | 32 | 1000")
    )
    assert "| 494 | 1e+02 % | 50 % | 1 | 0.2 | 0.01 | 0.1 (50 %) |" in row


def test_missing_packages_are_one_sentence(tmp_path):
    script = copy_with(tmp_path, "chip", "")
    done = run_bench("--small", "--output", tmp_path, script=script, python=(sys.executable, "-S"))
    assert done.returncode == 1
    assert done.stderr.startswith("The machine's own Python must have jax, numpy,")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_every_part_runs_small_on_any_machine(tmp_path):
    done = run_bench("--small", "--limit-s", 900, "--output", tmp_path, timeout_s=960)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    found = results(tmp_path)
    assert found.keys() == PARTS
    assert {name: part["status"] for name, part in found.items()} == dict.fromkeys(
        PARTS, "finished"
    )
    assert found["search"]["statuses"] == {"FINISHED": 1}
    assert found["search"]["registered"] == ["digits-selu 1"]
    assert found["memory"]["rows"][0]["trials"] == {"FINISHED": 2}
    assert not [row for row in found["trials"]["rows"] if "error" in row]
    whats = {(row["arch"], row["what"]) for row in found["trials"]["rows"]}
    for arch in ("elu", "cnn"):
        assert {
            (arch, what) for what in ("one after the other", "Keras's fit", "fused", "step")
        } <= whats
    assert found["chip"]["peak_bytes"] is None or found["chip"]["peak_bytes"] > 0
    assert "numbers mean nothing" in (tmp_path / "gpu.md").read_text()
