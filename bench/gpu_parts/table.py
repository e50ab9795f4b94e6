"""The page of bench/gpu.py: tables in Markdown, made from the results of the parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

COMMAND = "python bench/gpu.py"
GIB = 2**30
TAIL_LINES = 12  # of the output of a part that did not finish


class Sheet(NamedTuple):
    """What a chip's data sheet promises: dense products in TFLOP/s, memory in TB/s."""

    float32: float
    tf32: float
    bfloat16: float
    memory: float


# By the name that the driver gives. From NVIDIA's data sheets "H100 Tensor Core GPU", "H200 Tensor
# Core GPU" and "A100 Tensor Core GPU" (SXM); where a sheet gives products with sparsity, half of
# that.
SHEETS = {
    "NVIDIA H100 80GB HBM3": Sheet(67, 494.5, 989.5, 3.35),
    "NVIDIA H200": Sheet(67, 494.5, 989.5, 4.8),
    "NVIDIA A100-SXM4-80GB": Sheet(19.5, 156, 312, 2.039),
    "NVIDIA A100-SXM4-40GB": Sheet(19.5, 156, 312, 1.555),
}
EPOCHS_OF_A_TRIAL = 10
NETS = {"elu": "20 x 100 dense net, ELU", "cnn": "`cnn`"}
PRODUCTS = {
    "matrix product, float32": "float32",
    "matrix product, TF32": "tf32",
    "matrix product, float32 as JAX computes by default": "tf32",
    "matrix product, bfloat16": "bfloat16",
}
# What a part lacks whose runner was killed before it could say how the part ended.
UNKNOWN: dict[str, Any] = {
    "rows": [], "status": "unknown, the runner was killed", "seconds": 0, "small": False,
    "date": "unknown", "commit": "unknown", "gpu": None, "install_s": 0,
}  # fmt: skip
Results = Mapping[str, Mapping[str, Any]]


def page(results: Results) -> str:
    """Return the page.

    Args:
        results: What each part has written, by the part's name; a part that is not there was not
            measured.
    """
    parts = [
        "# hpsearch on a GPU: measured",
        f"Made by `{COMMAND}` from the `gpu_*.json` files beside this page, each part as it was "
        f"last measured.",
    ]
    if results:
        known = {name: UNKNOWN | found for name, found in results.items()}
        sections = (_parts, _chip, _search, _trials, _step, _mc_dropout, _memory, _unfinished)
        parts += [text for section in sections for text in section(known)]
    else:
        parts.append("Not measured: no GPU was there yet.")
    return "\n\n".join(parts) + "\n"


def _parts(results: Results) -> Iterable[str]:
    if any(found["small"] for found in results.values()):
        yield "**Measured with tiny models, to see that the parts run: the numbers mean nothing.**"
    rows = []
    for name, found in results.items():
        where, when = found["gpu"] or "no GPU", f"{found['date']}, commit {found['commit']}"
        rows.append((f"`{name}`", where, when, f"{found['seconds']:.0f}", found["status"]))
    yield _table(("part", "on", "when", "s", "how it ended"), rows)
    yield from (f"`{name}`: {found['note']}" for name, found in results.items() if "note" in found)


def _chip(results: Results) -> Iterable[str]:
    yield "## Hardware and software"
    found = results.get("chip")
    if found is None or "device" not in found:
        yield "Not measured."
        return
    driver = found["driver"]
    named = [found["device"]["kind"], driver.get("memory.total"), f"{found['cores']} CPU cores"]
    if "driver_version" in driver:
        named.append(f"driver {driver['driver_version']}")
    named.append(f"Python {found['python']}")
    named += [f"{package} {version}" for package, version in found["versions"].items()]
    yield (
        f"{', '.join(filter(None, named))}. Missing packages were installed in "
        f"{found['install_s']:.0f} s."
    )
    sheet = SHEETS.get(found["gpu"] or "")
    rows = []
    for row in found["rows"]:
        promised, measured, unit = _promised(sheet, row)
        rows.append((
            row["what"], f"{measured:.3g} {unit}", f"{promised:.4g} {unit}" if promised else "",
            f"{100 * measured / promised:.0f} %" if promised else "",
            f"{row['relative_error']:.1e}" if "relative_error" in row else "",
        ))  # fmt: skip
    yield _table(("what", "measured", "data sheet", "share", "error against float64"), rows)


def _promised(sheet: Sheet | None, row: Mapping[str, Any]) -> tuple[float | None, float, str]:
    if row["what"] == "copy":
        return (sheet.memory if sheet else None), row["tb_per_s"], "TB/s"
    return (getattr(sheet, PRODUCTS[row["what"]]) if sheet else None), row["tflop_per_s"], "TFLOP/s"


def _search(results: Results) -> Iterable[str]:
    yield "## The main job"
    found = results.get("search")
    if found is None or not {"total_s", "trials"} <= found.keys():
        yield "Not measured."
        return
    typed = " ".join(found["command"])
    yield (
        f"`{typed}` with KERAS_BACKEND=jax took {found['total_s']:.1f} s from its start, exit "
        f"status "
        f"{found['exit_status'] or 0}. The MLflow database then held {found['trials']} trials "
        f"({_counts(found['statuses'])}; {_counts(found['reasons'])}), {found['epochs']} epochs, "
        f"{len(found['failures'])} failures, and the registered versions "
        f"{', '.join(found['registered']) or 'none'}."
    )
    if found["median_epoch_s"] is not None:
        yield f"The median epoch took {found['median_epoch_s']:.3g} s."
    total = sum(row["seconds"] for row in found["rows"])
    rows = [
        (row["what"], f"{row['seconds']:.2f}", f"{100 * row['seconds'] / total:.0f} %")
        for row in found["rows"]
    ]
    yield (
        "Where the main thread's time went (compiling is JAX's tracing, lowering and compiling, "
        "wherever it happens):"
    )
    yield _table(("stretch", "s", "share"), rows)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _trials(results: Results) -> Iterable[str]:
    yield "## Trials an hour"
    found = results.get("trials", {})
    rows = found.get("rows", [])
    if not rows:
        yield "Not measured."
        return
    yield (
        "A trial has 10 epochs of 45,000 random images of 32 x 32 x 3 and is validated on 5,000 "
        "after each; "
        "compiling is left out for all arms. The fused arms run below the command line: their "
        "programs are used as "
        "`trainer=fused` uses them. Their trials an hour count, for each trial, building its model "
        "and moving it into "
        "its place, and after each of its epochs reading its weights as if that epoch were its "
        "best; the notes say how "
        "many seconds that takes for all K trials. One after the other, weights are read after the "
        "best epochs alone. "
        "*Device alone* counts steps and validation, nothing that the host does; it is left out "
        "where the timed "
        "steps took less than half as long as an epoch without steps, whose difference is then too "
        "uncertain."
    )
    for arch, name in NETS.items():
        yield f"{name}:"
        yield _table(
            ("batch", "how", "epoch, s", "trials an hour", "against one after the other",
             "against Keras's fit", "device alone", "TFLOP/s", "note"),
            _trial_rows([row for row in rows if row["arch"] == arch]),
        )  # fmt: skip
    yield from _compiling(found)


def _compiling(found: Mapping[str, Any]) -> Iterable[str]:
    if "preparing_s" not in found:
        return
    yield (
        f"A process for each net and batch size compiled beside the others for "
        f"{found['preparing_s']:.0f} s. One that "
        "was not ready by then was paused and went on alone when its turn came; its seconds "
        "include the pause."
    )
    rows = []
    for process in found.get("processes", []):
        spent = ", ".join(f"{k}: {s:.0f}" for k, s in process.get("compiling_s", {}).items())
        first = f"{process['first_fit_s']:.0f}" if "first_fit_s" in process else ""
        first += f", of which the proof {process['proof_s']:.0f}" if "proof_s" in process else ""
        ready = "yes" if process["was_ready"] else "no"
        rows.append(
            (process["arch"], str(process["batch_size"]), ready, spent, first, process["status"])
        )
    yield _table(
        (
            "net",
            "batch",
            "ready in time",
            "compiling the fused epoch, s",
            "first fit, s",
            "how it ended",
        ),
        rows,
    )


def _trial_rows(rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    for row in rows:
        size, how = str(row["batch_size"]), _how(row)
        if row["what"] == "step":
            continue
        if "error" in row:
            yield (size, how, "", "", "", "", "", "", f"failed: {row['error'][:120]}")
        elif "whole_s" in row:
            note = (
                f"all done after {row['whole_s']:.1f} s, "
                f"of which building {row['all_built_s']:.1f} s"
            )
            yield (size, how, f"{row['epoch_s']:.3g}", "", "", "", "", "", note)
        else:
            yield (
                size, how, f"{row['epoch_s'] + row['k'] * row.get('keep_s', 0):.3g}",
                f"{row['trials_per_hour']:.0f}",
                _ratio(row, rows, "one after the other"), _ratio(row, rows, "Keras's fit"),
                *_device_alone(row, rows), _note(row),
            )  # fmt: skip


def _device_alone(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return trials an hour of the device alone and its rate in TFLOP/s, each empty where it is not
    known well.
    """
    if row["what"] == "one after the other":
        same = [
            r
            for r in rows
            if r["what"] == "step" and r["batch_size"] == row["batch_size"] and "error" not in r
        ]
        if not same:
            return "", ""
        hourly = 3600 / (EPOCHS_OF_A_TRIAL * (same[0]["loop_s"] + same[0]["validation_s"]))
        return f"{hourly:.0f}", f"{same[0]['product_flops'] / same[0]['step_s'] / 1e12:.3g}"
    if row["what"] != "fused" or row["steps_timed"] * row["step_s"] < 0.5 * (
        row["host_s"] + row["validation_s"]
    ):
        return "", ""
    return f"{row['trials_per_hour_device']:.0f}", f"{row['product_tflop_per_s']:.3g}"


def _how(row: Mapping[str, Any]) -> str:
    return row["what"] if row.get("k", 1) == 1 else f"K = {row['k']} {row['what']}"


def _ratio(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], what: str) -> str:
    same = [
        r
        for r in rows
        if r["batch_size"] == row["batch_size"] and r["what"] == what and "error" not in r
    ]
    return f"{row['trials_per_hour'] / same[0]['trials_per_hour']:.3g}" if same else ""


def _note(row: Mapping[str, Any]) -> str:
    if "steps_timed" not in row:
        return ""
    k = row["k"]
    timed = (
        ""
        if row["steps_timed"] == row["steps"]
        else f"{row['steps_timed']} of {row['steps']} steps timed; "
    )
    epoch = f"an epoch: host {row['host_s']:.2g} s, reading weights {k * row['keep_s']:.2g} s"
    once = f"building {k * row['build_s']:.2g} s, moving in {k * row['start_s']:.2g} s"
    return f"{timed}{epoch}; once: {once}"


def _step(results: Results) -> Iterable[str]:
    yield "## A step against the chip's limits"
    steps = [row for row in results.get("trials", {}).get("rows", []) if row["what"] == "step"]
    if not steps:
        yield "Not measured."
        return
    sheet = SHEETS.get(results["trials"]["gpu"] or "")
    rows = []
    for row in steps:
        if "error" in row:
            rows.append(
                (row["arch"], str(row["batch_size"]), f"failed: {row['error'][:120]}", *[""] * 10)
            )
            continue
        step_s, flops, moved = row["step_s"], row["compiled_flops"], row["compiled_bytes"]
        limit_s = (
            max(row["product_flops"] / sheet.tf32 / 1e12, moved / sheet.memory / 1e12)
            if sheet
            else None
        )
        rows.append((
            row["arch"], str(row["batch_size"]), f"{1e6 * step_s:.0f}", f"{flops / 1e6:.4g}",
            f"{row['product_flops'] / 1e6:.4g}", f"{moved / 1e6:.4g}",
            f"{row['product_flops'] / step_s / 1e12:.3g}",
            f"{100 * row['product_flops'] / step_s / 1e12 / sheet.tf32:.2g} %" if sheet else "",
            f"{100 * moved / step_s / 1e12 / sheet.memory:.2g} %" if sheet else "",
            f"{step_s / limit_s:.3g}" if limit_s else "",
            f"{row['epoch_s']:.3g}", f"{row['validation_s']:.2g}",
            f"{row['waited_s']:.2g} ({100 * row['waited_s'] / row['epoch_s']:.0f} %)",
        ))  # fmt: skip
    yield (
        "One trial alone. Operations and bytes are the compiler's count of one step compiled "
        "alone, which leaves out "
        "what a library computes, such as convolutions; *products* are the operations of matrix "
        "products and "
        "convolutions by their shapes. The limit is the larger of two times: products at the "
        "sheet's TF32 rate, bytes "
        "at its memory rate. The device waited for the time of an epoch less that of the same "
        "steps back to back in "
        "one compiled loop; the validation, which is work of the device, is part of what is left."
    )
    yield _table(
        ("arch", "batch", "step, us", "compiled, MFLOP", "products, MFLOP", "bytes, MB", "TFLOP/s",
         "share of TF32", "share of memory", "step / limit", "epoch, s", "validation, s",
         "waited, s"),
        rows,
    )  # fmt: skip


def _mc_dropout(results: Results) -> Iterable[str]:
    yield "## MC Dropout"
    found = results.get("mc_dropout")
    if found is None or not found["rows"]:
        yield "Not measured."
        return
    accuracy = found["accuracy"]
    yield (
        f"{found['n_images']:,} images. The dense net has dropout after each of 20 layers. A "
        f"probability of its plain "
        f"pass differs from float64 by {accuracy['plain_error']:.1e} at most; the mean of its "
        f"passes differs by "
        f"{accuracy['standard_errors_off']:.2f} standard errors (about 1 is right). Each pass of a "
        f"loop takes the "
        "images from the host; ours takes them once."
    )
    rows = []
    for row in found["rows"]:
        same = {r["what"]: r["passes_per_s"] for r in found["rows"] if r["net"] == row["net"]}
        slow = same.get("predict loop")
        ratio = f"{row['passes_per_s'] / slow:.3g}" if slow else ""
        rows.append(
            (row["net"], row["what"], f"{row['passes_per_s']:.4g}", ratio, f"{row['first_s']:.2f}")
        )
    yield _table(("net", "how", "passes a second", "against a predict loop", "first call, s"), rows)


def _memory(results: Results) -> Iterable[str]:
    yield "## Memory"
    peaks = [
        (name, found["peak_bytes"]) for name, found in results.items() if "peak_bytes" in found
    ]
    processes = results.get("trials", {}).get("processes", [])
    peaks += [
        (f"trials of {p['arch']}, batch {p['batch_size']}", p["peak_bytes"])
        for p in processes
        if "peak_bytes" in p
    ]
    rows = [
        (name, "not counted" if peak is None else f"{peak / GIB:.2f} GiB") for name, peak in peaks
    ]
    if rows:
        yield "Most memory that the part's process held on the device:"
        yield _table(("part", "peak"), rows)
    found = results.get("memory")
    if found is None or not found["rows"]:
        yield "Whether two processes can share the device: not measured."
        return
    yield "Two processes at the same time on one device:"
    sharing = [
        (
            row["what"], ", ".join(map(str, row["exit_statuses"])), f"{row['seconds']:.1f}",
            f"{row['used_mib'] / 1024:.1f} GiB" if row["used_mib"] is not None else "not counted",
            _counts(row.get("trials", {})) or " ".join(row.get("output", []))[-120:],
        )
        for row in found["rows"]
    ]  # fmt: skip
    yield _table(
        ("what", "exit statuses", "s", "most memory in use", "trials, or an error"), sharing
    )


def _unfinished(results: Results) -> Iterable[str]:
    for name, found in results.items():
        said = [line for line in found.get("output", "").splitlines() if line.strip()]
        if said:
            yield f"## What `{name}` said before it ended"
            yield "```\n" + "\n".join(said[-TAIL_LINES:]) + "\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(head)
    return "\n".join([_line(head), rule, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
