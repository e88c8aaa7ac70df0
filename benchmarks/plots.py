"""The page's plots, drawn from the raw results."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import states
from benchmarks.figures import later, runs_of, sizes_of
from benchmarks.measure import BIN
from benchmarks.page import PLOTS
from benchmarks.plan import COMPARED, COUNTS, SCALED
from benchmarks.records import Results, Save
from benchmarks.systems import SYSTEMS

__all__ = ["draw"]

OURS, RAW, PEER = "#c2410c", "#6b7280", "#3b6ea5"
COLOURS = {
    "ours-copy": OURS,
    "direct": RAW,
    "safetensors": "#4d9078",
    "dcp-thread": "#3b6ea5",
    "orbax-jax": "#8a5a9e",
}
WIDTH = 8.0


def draw(results: Results, folder: Path) -> list[str]:
    """Draw what there are figures for; returns the names of what was drawn.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    # Without these every run would change every byte of every picture.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "async_ckpt", "svg.fonttype": "path", "font.size": 9, "axes.axisbelow": True}
    )
    plt: Any = importlib.import_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, painter in PAINTERS.items():
        figure = painter(plt, results)
        if figure is None:
            continue
        figure.suptitle(PLOTS[name], fontsize=11)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
        drawn.append(name)
    return drawn


def _bars(plt: Any, results: Results, pick: Callable[[Save], float | None], scale: float, unit: str) -> Any:
    state = sizes_of(results).reference
    rows = []
    for system in COMPARED:
        values = later(runs_of(results, "save", system, (state,)), state, pick)
        if values:
            rows.append((system, [scale * value for value in values]))
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + 0.34 * len(rows)))
    for at, (system, values) in enumerate(reversed(rows)):
        median = statistics.median(values)
        axes.barh(at, median, color=_colour(system), height=0.62)
        axes.plot([min(values), max(values)], [at, at], color="black", linewidth=1)
        axes.annotate(
            f" {median:.3g}", (max(values), at), va="center", xytext=(3, 0), textcoords="offset points"
        )
    axes.set_yticks(range(len(rows)), [_label(system) for system, _ in reversed(rows)])
    axes.set_xlabel(f"{unit}; the line spans the least and the largest")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _stall(plt: Any, results: Results) -> Any:
    return _bars(plt, results, lambda save: save.stall, 1e3, "milliseconds")


def _throughput(plt: Any, results: Results) -> Any:
    return _bars(
        plt,
        results,
        lambda save: save.bytes / save.durable if save.durable else None,
        1e-9,
        "GB/s until durable",
    )


def _lag(plt: Any, results: Results) -> Any:
    state = sizes_of(results).reference
    rows = []
    for system in COMPARED:
        for run in runs_of(results, "save", system, (state,)):
            found = [save for save in run.saves if save.timeline]
            if found and system not in {"copyto", "direct"}:
                rows.append((system, found[-1]))
    if not rows:
        return None
    figure, all_axes = plt.subplots(
        len(rows), 1, figsize=(WIDTH, 0.8 + 0.75 * len(rows)), sharex=True, sharey=True, squeeze=False
    )
    for axes, (system, save) in zip(all_axes[:, 0], rows, strict=True):
        times, late = zip(*save.timeline, strict=True)
        # Each bar lies where the loop was held, and is as wide as that took, at least one bin.
        begins = [max(0.0, when + BIN - max(BIN, secs)) for when, secs in zip(times, late, strict=True)]
        widths, heights = [max(BIN, secs) for secs in late], [1e3 * secs for secs in late]
        axes.bar(begins, heights, widths, align="edge", color=_colour(system))
        axes.set_yscale("log")
        axes.set_ylim(0.05, 5000)
        axes.set_yticks([0.1, 10, 1000], ["0.1 ms", "10 ms", "1 s"])
        axes.set_title(_label(system), loc="left", fontsize=8, pad=2)
        axes.grid(axis="y", alpha=0.3)
        axes.axvline(save.durable or 0, color="black", linewidth=0.8, linestyle=":")
    all_axes[-1, 0].set_xlabel("seconds since the call; dotted: durable")
    all_axes[-1, 0].set_xlim(left=0)
    return figure


def _scaling(
    plt: Any, results: Results, names: tuple[str, ...], by: Callable[[states.Spec], float], unit: str
) -> Any:
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    any_at_all = False
    for system in SCALED:
        points = []
        for name in names:
            values = later(runs_of(results, "save", system, names), name, lambda save: save.durable)
            if values:
                points.append((by(states.spec(name)), statistics.median(values)))
        if points:
            any_at_all = True
            style = "--" if system == "direct" else "-"
            axes.plot(
                *zip(*points, strict=True), style, marker="o", color=_colour(system), label=_label(system)
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(unit)
    axes.set_ylabel("seconds until durable")
    axes.grid(alpha=0.3)
    if not any_at_all:
        return plt.close(figure)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def _by_bytes(plt: Any, results: Results) -> Any:
    names = sizes_of(results).by_bytes
    return _scaling(plt, results, names, lambda spec: spec.nbytes / 1e6, "MB of state")


def _by_tensors(plt: Any, results: Results) -> Any:
    names = sizes_of(results).by_tensors
    return _scaling(plt, results, names, lambda spec: spec.tensors, "tensors of 1 KiB")


def _sessions(plt: Any, results: Results) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    any_at_all = False
    rows = (("ours-copy", "each its own engine", OURS), ("ours-engine", "one shared engine", PEER))
    for system, label, colour in rows:
        for run in runs_of(results, "sessions", system):
            counts = [int(name.removeprefix("all ")) for name in run.values if name.startswith("all ")]
            if not counts:
                continue
            any_at_all = True
            each = run.values["bytes"][0]
            speeds = [count * each / statistics.median(run.values[f"all {count}"]) / 1e9 for count in counts]
            gaps = [1e3 * statistics.median(run.values[f"gap {count}"]) for count in counts]
            left.plot(counts, speeds, marker="o", color=colour, label=label)
            right.plot(counts, gaps, marker="o", color=colour, label=label)
    for axes, unit in ((left, "GB/s together, until durable"), (right, "largest loop gap, ms")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, list(map(str, COUNTS)))
        axes.set_xlabel("sessions")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    if not any_at_all:
        return plt.close(figure)
    left.legend(fontsize=8)
    return figure


def _label(system: str) -> str:
    return SYSTEMS[system].label.replace("`", "")


def _colour(system: str) -> str:
    if system.startswith("ours"):
        return OURS
    return COLOURS.get(system, RAW if system == "copyto" else PEER)


PAINTERS: dict[str, Callable[[Any, Results], Any]] = {
    "stall": _stall,
    "lag": _lag,
    "throughput": _throughput,
    "by-bytes": _by_bytes,
    "by-tensors": _by_tensors,
    "sessions": _sessions,
}
