"""A run's saves as a picture, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from async_ckpt.cli.safe_output import new_file
from async_ckpt.cli.statistics import Save, columns

__all__ = ["draw"]


def draw(saves: Sequence[Save], path: Path, *, title: str) -> None:
    """Draw how long steps were held, how long saves took and how fast they were, by step, as a PNG.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import

    table = columns(saves)
    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    marks = {"marker": ".", "linewidth": 0.8}
    upper.plot(table["step"], table["durable"], label="until durable", **marks)
    upper.plot(table["step"], table["stall"], label="step held", **marks)
    upper.set_ylabel("seconds")
    upper.set_yscale("log")
    upper.legend()
    upper.set_title(title)
    lower.plot(table["step"], [rate / 1e6 for rate in table["rate"]], color="tab:green", **marks)
    lower.set_ylabel("MB/s, request to durable")
    lower.set_xlabel("step")
    lower.set_ylim(bottom=0)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    with new_file(path, replace=True) as file:
        figure.savefig(file, format="png", dpi=120)
