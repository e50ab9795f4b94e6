"""What NVIDIA's driver says of the first GPU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

PATIENCE_S = 20.0


def ask(fields: Sequence[str]) -> dict[str, str]:
    """Return what nvidia-smi answers for `fields`, as text; nothing where there is no GPU, or no
    answer.

    Args:
        fields: Names as `nvidia-smi --help-query-gpu` lists them.
    """
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {}
    lines = done.stdout.strip().splitlines()
    return (
        dict(zip(fields, lines[0].split(", "), strict=False))
        if done.returncode == 0 and lines
        else {}
    )
