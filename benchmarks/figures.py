"""Pure: figures out of raw results, and how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.plan import FULL, QUICK, Sizes
from benchmarks.records import Results, Run, Save

__all__ = [
    "Summary",
    "digits",
    "durable",
    "every",
    "extra_memory",
    "first",
    "gap",
    "later",
    "ratios",
    "runs_of",
    "saves_of",
    "sizes_of",
    "span",
    "stall",
    "values_of",
]


@dataclass(frozen=True)
class Summary:
    """Median, least and largest of some figures."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary | None:
        """None without any."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1], len(found)) if found else None


def span(values: Iterable[float], scale: float = 1.0) -> str:
    """``median (least - most)`` with three digits that count; a dash without values."""
    found = Summary.of(value * scale for value in values)
    if found is None:
        return "-"
    if found.count == 1:
        return digits(found.median)
    return f"{digits(found.median)} ({digits(found.least)} - {digits(found.most)})"


def digits(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text if places == 0 or "." not in text else text.rstrip("0").rstrip(".")


def sizes_of(results: Results) -> Sizes:
    """Which sizes the run used."""
    return QUICK if results.quick else FULL


def runs_of(
    results: Results, experiment: str, system: str, states: tuple[str, ...] | None = None
) -> list[Run]:
    """Runs of one experiment on one system; of exactly these states, if any are named."""
    return [
        run
        for run in results.runs
        if run.job.experiment == experiment
        and run.job.system == system
        and (states is None or run.job.states == states)
    ]


def saves_of(run: Run, state: str) -> list[Save]:
    """A run's saves of one state, in order."""
    return [save for save in run.saves if save.state == state]


def later(runs: Iterable[Run], state: str, pick: Callable[[Save], float | None]) -> list[float]:
    """A figure of every save but the first of each process; of the first, where there was but one."""
    found = []
    for run in runs:
        saves = saves_of(run, state)
        found += [pick(save) for save in (saves[1:] or saves)]
    return [value for value in found if value is not None]


def first(runs: Iterable[Run], state: str, pick: Callable[[Save], float | None]) -> list[float]:
    """The same figure of the first save of each process."""
    found = [pick(saves[0]) for run in runs if (saves := saves_of(run, state))]
    return [value for value in found if value is not None]


def every(runs: Iterable[Run], state: str, pick: Callable[[Save], float | None]) -> list[float]:
    """The same figure of all of them."""
    found = [pick(save) for run in runs for save in saves_of(run, state)]
    return [value for value in found if value is not None]


def ratios(
    over: list[Run], under: list[Run], state: str, pick: Callable[[Save], float | None]
) -> list[float]:
    """Median of the one over median of the other, for each round in which both were measured."""
    found = []
    for run in over:
        fellows = [fellow for fellow in under if fellow.job.round == run.job.round]
        top, bottom = later([run], state, pick), later(fellows, state, pick)
        if top and bottom:
            found.append(statistics.median(top) / statistics.median(bottom))
    return found


def extra_memory(runs: Iterable[Run]) -> list[float]:
    """Bytes at the worst moment, beyond the state and what was there before the system was opened."""
    return [
        float(run.memory_peak - run.memory_base)
        for run in runs
        if run.memory_peak is not None and run.memory_base is not None
    ]


def durable(save: Save) -> float | None:
    """Seconds until the system said it was done."""
    return save.durable


def stall(save: Save) -> float | None:
    """Seconds the caller was held."""
    return save.stall


def gap(save: Save) -> float | None:
    """Seconds the loop was late at worst."""
    return save.gap


def values_of(results: Results, experiment: str, system: str, name: str) -> list[float]:
    """Figures of that name of all runs of an experiment on a system."""
    return [value for run in runs_of(results, experiment, system) for value in run.values.get(name, [])]
