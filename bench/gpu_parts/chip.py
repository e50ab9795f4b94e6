"""The chip, its driver and memory, versions of packages; and how fast matrix products and copies
are.
"""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpu_parts.driver import ask
from gpu_parts.result import Result, command_line, device, peak_bytes, seconds
from rows import versions

SMI = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
N, N_SMALL = 8192, 256
COPY_BYTES, COPY_BYTES_SMALL = 2**32, 2**20
N_CHAINED, N_ROUNDS = 10, 5
PRECISIONS = {
    "float32": "float32",
    "TF32": "tensorfloat32",
    "float32 as JAX computes by default": None,
}


def product_row(name: str, n: int, dtype: Any, precision: str | None) -> dict[str, Any]:
    """Return the speed of n x n matrix products, and how far one is from float64.

    Args:
        name: What the row is called.
        n: Rows and columns.
        dtype: Of the operands.
        precision: How JAX shall compute float32 products; None leaves it to JAX.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    with jax.default_matmul_precision(precision):

        @jax.jit
        def chained(x: Any, y: Any) -> Any:
            for _ in range(N_CHAINED):
                x = (x @ y) * jnp.asarray(n**-0.5, x.dtype)
            return x

        once = jax.jit(lambda x, y: x @ y)
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        chained(x, y).block_until_ready()
        times = [seconds(lambda: chained(x, y).block_until_ready()) for _ in range(N_ROUNDS)]
        few = np.asarray(once(x[:8], y), np.float64)
    exact = a[:8].astype(np.float64) @ b.astype(np.float64)
    flops = 2.0 * n**3 * N_CHAINED
    return {
        "what": f"matrix product, {name}",
        "tflop_per_s": flops / statistics.median(times) / 1e12,
        "relative_error": float(np.linalg.norm(few - exact) / np.linalg.norm(exact)),
        "n": n,
    }


def copy_row(n_bytes: int) -> dict[str, Any]:
    """Return how fast the device copies its own memory, counting bytes read and bytes written."""
    x = jnp.zeros(n_bytes // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()
    times = [seconds(lambda: copy(x).block_until_ready()) for _ in range(N_ROUNDS)]
    return {
        "what": "copy",
        "tb_per_s": 2 * n_bytes / statistics.median(times) / 1e12,
        "n_bytes": n_bytes,
    }


def main() -> None:
    """Write what the machine is, then measure."""
    given = command_line(__doc__).parse_args()
    result = Result(given.json)
    result.set(
        driver=ask(SMI),
        device=device(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions=versions(),
    )
    n = N_SMALL if given.small else N
    for name, precision in PRECISIONS.items():
        result.add(**product_row(name, n, jnp.float32, precision))
    result.add(**product_row("bfloat16", n, jnp.bfloat16, None))
    result.add(**copy_row(COPY_BYTES_SMALL if given.small else COPY_BYTES))
    result.set(peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
