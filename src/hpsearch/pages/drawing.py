"""From a Matplotlib figure to a picture that a page holds and a run keeps."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Plot

from hpsearch.pages.section import Figure

plt.switch_backend("Agg")
DPI = 90


def drawn(name: str, plot: Plot, caption: str) -> Figure:
    """Return a figure as a picture, and close it."""
    buffer = io.BytesIO()
    plot.savefig(buffer, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    plt.close(plot)
    return Figure(name, buffer.getvalue(), caption)
