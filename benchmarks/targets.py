"""Pure: what was asked for, what was measured, and whether the one meets the other."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from benchmarks.figures import (
    Summary,
    durable,
    every,
    extra_memory,
    gap,
    later,
    ratios,
    runs_of,
    sizes_of,
    stall,
    values_of,
)
from benchmarks.records import Results, Run

__all__ = ["Target", "targets"]

MIB = 2**20


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Attributes:
        text: What is measured.
        limit: In ``unit``; ``least`` says on which side of it the median has to lie.
        values: In ``unit``; empty where nothing could be measured.
    """

    text: str
    limit: float
    unit: str
    values: list[float]
    least: bool = False

    @property
    def asked(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}{self.unit and ' ' + self.unit}"

    @property
    def verdict(self) -> Literal["met", "met in the median", "not met", "not measured"]:
        found = Summary.of(self.values)
        if found is None:
            return "not measured"
        if not self._holds(found.median):
            return "not met"
        return "met" if self._holds(found.least if self.least else found.most) else "met in the median"

    def _holds(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


def targets(results: Results) -> list[Target]:
    """All of them, in the order of the page."""
    return [*_saving(results), *_training(results), *_many(results), *_memory(results), *_reading(results)]


def _saving(results: Results) -> list[Target]:
    state = sizes_of(results).reference

    def runs(system: str) -> list[Run]:
        return runs_of(results, "save", system, (state,))

    def against(*systems: str) -> list[float]:
        """How many times faster ours is than the fastest of these, round by round."""
        best = min(
            (system for system in systems if later(runs(system), state, durable)),
            key=lambda system: statistics.median(later(runs(system), state, durable)),
            default=None,
        )
        return ratios(runs(best), runs("ours-copy"), state, durable) if best else []

    copyto = ratios(runs("ours-copy"), runs("copyto"), state, stall)
    dcp, orbax = ("dcp-thread", "dcp-process", "dcp-stager"), ("orbax-numpy", "orbax-jax")
    return [
        Target("durable throughput ÷ bare O_DIRECT loop's", 0.9, "", against("direct"), least=True),
        Target("durable throughput ÷ torch DCP's, the fastest of three", 3, "", against(*dcp), least=True),
        Target("durable throughput ÷ Orbax's, the faster of two", 3, "", against(*orbax), least=True),
        Target("`copy`: stall ÷ bare numpy.copyto", 1.3, "", copyto),
        Target("`copy`: largest gap of a 1 ms ticker", 15, "ms", _ms(every(runs("ours-copy"), state, gap))),
        Target(
            "`overlap`: largest gap of a 1 ms ticker", 15, "ms", _ms(every(runs("ours-overlap"), state, gap))
        ),
        Target(
            "`overlap`: the save call",
            2,
            "ms",
            _ms(later(runs("ours-overlap"), state, lambda save: save.parts.get("call"))),
        ),
    ]


def _training(results: Results) -> list[Target]:
    state = sizes_of(results).reference

    def values(experiment: str, system: str, name: str) -> list[float]:
        return values_of(results, experiment, system, name)

    def first_over_later(what: str) -> list[float]:
        found = []
        for run in runs_of(results, "warmup", "ours-copy", (state,)):
            firsts, laters = run.values.get(f"first_{what}", []), run.values.get(f"later_{what}", [])
            if firsts and laters:
                found.append(firsts[0] / statistics.median(laters))
        return found

    def percent(values: list[float]) -> list[float]:
        return [100 * value for value in values]

    def micros(values: list[float]) -> list[float]:
        return [1e6 * value for value in values]

    wait = sizes_of(results).warm_up_secs
    return [
        Target(
            "`overlap`: time a loop of steps loses to a save every ten",
            2,
            "%",
            percent(values("overlap", "ours-overlap", "lost")),
        ),
        Target(
            f"stall of the first save, after {wait:g} s, ÷ later ones'", 1.3, "", first_over_later("stall")
        ),
        Target("the same, until durable", 1.3, "", first_over_later("durable")),
        Target(
            "pure-Python loop slowed by a save in the background",
            5,
            "%",
            percent(values("slowdown", "ours-copy", "lost")),
        ),
        Target("`advance()`, nothing due", 5, "µs", micros(values("cost", "ours-copy", "advance"))),
        Target("call of a coroutine listener", 30, "µs", micros(values("cost", "ours-copy", "listener"))),
    ]


def _many(results: Results) -> list[Target]:
    sizes = sizes_of(results)
    many, most = sizes.many, sizes.by_tensors[-1]
    runs = runs_of(results, "save", "ours-copy", (many,))
    scaled = runs_of(results, "save", "ours-copy", sizes.by_tensors)
    name, name_of_most = (f"{int(state.partition('-')[2]):,} tensors of 1 KiB" for state in (many, most))
    return [
        Target(f"{name}: stall", 80, "ms", _ms(later(runs, many, stall))),
        Target(f"{name}: durable", 0.4, "s", later(runs, many, durable)),
        Target(f"{name}: largest gap of a 1 ms ticker", 25, "ms", _ms(every(runs, many, gap))),
        Target(f"{name_of_most}: durable", 2, "s", later(scaled, most, durable)),
    ]


def _memory(results: Results) -> list[Target]:
    state = sizes_of(results).reference
    size = _size(results, state)
    copy = extra_memory(runs_of(results, "save", "ours-copy", (state,)))
    window = extra_memory(runs_of(results, "save", "ours-window", (state,)))
    flat = []
    for run in runs_of(results, "flat", "ours-copy", (state,)):
        resident = run.values.get("resident", [])
        if len(resident) >= 10 and size:
            fifth = len(resident) // 5
            early, late = resident[fifth : 2 * fifth], resident[-fifth:]
            flat.append(100 * (statistics.median(late) - statistics.median(early)) / size)
    reuse = [
        100 * written / run.values["bytes"][0]
        for run in runs_of(results, "reuse", "ours-copy")
        for written in run.values.get("reused_written", [])
    ]
    return [
        Target(
            "extra memory less 64 MiB, x state",
            1.05,
            "",
            [(extra - 64 * MIB) / size for extra in copy] if size else [],
        ),
        Target(
            "`staging_bytes` ¼ of the state: extra memory less 64 MiB, x cap",
            1,
            "",
            [(extra - 64 * MIB) / (size / 4) for extra in window] if size else [],
        ),
        Target("growth over the saves in a row, of the state", 1, "%", flat),
        Target("`reuse_unchanged`, nine tenths frozen: bytes written, of the state", 11, "%", reuse),
    ]


def _reading(results: Results) -> list[Target]:
    def speed(of: str, against: str) -> list[float]:
        found = []
        for run in runs_of(results, "restore", "ours-copy"):
            pairs = zip(run.values.get(against, []), run.values.get(of, []), strict=False)
            found += [bare / ours for bare, ours in pairs]
        return found

    return [
        Target(f"restore in place, {text}", limit, "", speed(of, against), least=True)
        for text, limit, of, against in (
            ("cold ÷ bare parallel read of the same files", 0.9, "cold_restore", "cold_read"),
            ("cold ÷ the same read with O_DIRECT", 0.9, "cold_restore", "cold_read_direct"),
            ("warm, digests included ÷ memory copy", 0.8, "warm_restore", "copy"),
            ("warm, digests apart ÷ memory copy", 0.8, "warm_undigested", "copy"),
        )
    ]


def _size(results: Results, state: str) -> int:
    return next((save.bytes for run in results.runs for save in run.saves if save.state == state), 0)


def _ms(values: list[float]) -> list[float]:
    return [1e3 * value for value in values]
