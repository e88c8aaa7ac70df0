"""Pure: the tables of the page, one function each; empty where nothing was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks import states
from benchmarks.figures import (
    digits,
    durable,
    extra_memory,
    first,
    gap,
    later,
    runs_of,
    sizes_of,
    span,
    stall,
    values_of,
)
from benchmarks.plan import BESIDE_TRAINING, COMPARED, SCALED
from benchmarks.records import Results, Run
from benchmarks.systems import SYSTEMS

__all__ = [
    "comparison",
    "cost",
    "describe",
    "durability",
    "escaped",
    "restore",
    "scaling",
    "sessions",
    "slowdown",
    "table",
    "training",
]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines]) if lines else ""


def describe(state: str) -> str:
    """A state in words: how many tensors, how many bytes."""
    spec = states.spec(state)
    plural = "tensor" if spec.tensors == 1 else "tensors"
    return f"{spec.tensors:,} {plural}, {size(spec.nbytes)}"


def size(nbytes: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= 0.9995 * scale:
            return f"{digits(nbytes / scale)} {unit}"
    return f"{nbytes:.0f} B"


def comparison(results: Results, state: str) -> str:
    """All systems on one state."""
    head = (
        "system",
        "stall, ms",
        "÷ ours",
        "durable, s",
        "÷ ours",
        "GB/s",
        "x raw disk",
        "loop gap, ms",
        "first save: stall, ms",
        "loop gap, ms",
        "extra memory, x state",
    )
    nbytes = states.spec(state).nbytes
    ours = runs_of(results, "save", "ours-copy", (state,))
    our_stall, our_end = median(later(ours, state, stall)), median(later(ours, state, durable))
    direct = median(later(runs_of(results, "save", "direct", (state,)), state, durable))
    rows = []
    for system in (*COMPARED, "torch-save"):
        runs = runs_of(results, "save", system, (state,))
        if not runs:
            continue
        label = SYSTEMS[system].label
        if not any(run.saves for run in runs):
            rows.append((label, f"failed: {_reason(runs)}", *[""] * (len(head) - 2)))
            continue
        end = median(later(runs, state, durable))
        rows.append(
            (
                label + (" †" if any(run.error for run in runs) else ""),
                span(later(runs, state, stall), 1e3),
                over(median(later(runs, state, stall)), our_stall),
                span(later(runs, state, durable)),
                over(end, our_end),
                over(nbytes / 1e9, end),
                over(direct, end),
                span(later(runs, state, gap), 1e3),
                span(first(runs, state, stall), 1e3),
                span(first(runs, state, gap), 1e3),
                span(extra_memory(runs), 1 / nbytes),
            )
        )
    text = table(head, rows)
    return f"{text}\n\n† failed at some point, see below." if "†" in text else text


def durability(results: Results) -> str:
    """What each system's "durable" means, and what it had left to the page cache by then."""
    state = sizes_of(results).reference
    rows = []
    for system, entry in SYSTEMS.items():
        runs = runs_of(results, "save", system, (state,))
        rows.append((entry.label, entry.durable, span(later(runs, state, lambda save: save.unsynced), 1e3)))
    return table(("system", "durable", "an fsync of everything after that, ms"), rows)


def scaling(results: Results, names: tuple[str, ...], what: str) -> str:
    """Seconds until durable for growing states."""
    specs = [states.spec(name) for name in names]
    columns = [size(spec.nbytes) if what == "bytes" else f"{spec.tensors:,}" for spec in specs]
    rows = []
    for system in SCALED:
        runs = runs_of(results, "save", system, names)
        if not runs:
            continue
        cells = [span(later(runs, name, durable)) for name in names]
        if not any(run.saves for run in runs):
            cells = [f"failed: {_reason(runs)}", *[""] * (len(names) - 1)]
        rows.append((SYSTEMS[system].label, *cells))
    title = "state" if what == "bytes" else "tensors of 1 KiB"
    return table((f"durable, s; {title}:", *columns), rows)


def sessions(results: Results) -> str:
    """Sessions that save at the same time."""
    rows = []
    for system, label in (("ours-copy", "each its own engine"), ("ours-engine", "one shared engine")):
        for run in runs_of(results, "sessions", system):
            if run.error and not any(name.startswith("all ") for name in run.values):
                rows.append((label, f"failed: {escaped(run.error)}", "", "", "", "", ""))
            each = (run.values.get("bytes") or [0.0])[0]
            for name in run.values:
                kind, _, count = name.partition(" ")
                if kind != "all":
                    continue
                took = median(run.values[name])
                rows.append(
                    (
                        label,
                        count,
                        size(each * int(count)),
                        span(run.values[name]),
                        digits(each * int(count) / took / 1e9) if took else "-",
                        span(run.values.get(f"each {count}", [])),
                        span(run.values.get(f"gap {count}", []), 1e3),
                    )
                )
    head = (
        "sessions that save at the same time",
        "sessions",
        "bytes together",
        "all durable, s",
        "GB/s together",
        "each durable, s",
        "loop gap, ms",
    )
    return table(head, rows)


def training(results: Results) -> str:
    """What a training loop notices of saving."""
    rows: list[tuple[str, str]] = []

    def add(text: str, experiment: str, system: str, name: str, scale: float, unit: str) -> None:
        values = values_of(results, experiment, system, name)
        if values:
            rows.append((text, f"{span(values, scale)} {unit}"))

    overlap = ("overlap", "ours-overlap")
    add("`overlap`: a step that computes and marks its change with `mutating()`", *overlap, "step", 1e3, "ms")
    add("share of time lost to a save every ten steps", *overlap, "lost", 100, "%")
    add("of it: the same arithmetic took longer on a processor", *overlap, "ran", 100, "%")
    add("of it: it was ready and no processor was free", *overlap, "queued", 100, "%")
    add("of it: it stood still for the interpreter or the disk", *overlap, "stood", 100, "%")
    add("of it: waits at `mutating()`", *overlap, "waited", 100, "%")
    add("lost to no more than a bare copy and a bare loop of writes", *overlap, "bare_lost", 100, "%")
    add("of it: the same arithmetic took longer on a processor", *overlap, "bare_ran", 100, "%")
    add("of it: it was ready and no processor was free", *overlap, "bare_queued", 100, "%")
    add("of it: it stood still for the interpreter or the disk", *overlap, "bare_stood", 100, "%")
    add("blocks without saves, each against the one before it", *overlap, "same", 100, "%")
    add("boundary that starts a save", *overlap, "call", 1e3, "ms")
    add("boundary that does not", *overlap, "plain_call", 1e3, "ms")
    add("longest wait at `mutating()`", *overlap, "wait", 1e3, "ms")
    warmup = ("warmup", "ours-copy")
    wait = sizes_of(results).warm_up_secs
    add(f"`copy`: stall of the first save of a session, after {wait:g} s", *warmup, "first_stall", 1e3, "ms")
    add("stall of its later saves", *warmup, "later_stall", 1e3, "ms")
    add("its first save until durable", *warmup, "first_durable", 1, "s")
    add("its later saves until durable", *warmup, "later_durable", 1, "s")
    flat = values_of(results, "flat", "ours-copy", "resident")
    if flat:
        text = f"memory beyond the state after save 1, {len(flat) // 2} and {len(flat)} in a row"
        rows.append((text, ", ".join(size(flat[at]) for at in (0, len(flat) // 2 - 1, -1))))
    reuse = ("reuse", "ours-copy")
    whole = values_of(results, *reuse, "bytes")
    if whole:
        shrink = 100 / whole[0]
        add(
            "`reuse_unchanged`, nine tenths frozen: bytes of the first save",
            *reuse,
            "whole_written",
            shrink,
            "%",
        )
        add("bytes of the later ones", *reuse, "reused_written", shrink, "%")
        add("the first until durable", *reuse, "whole_durable", 1, "s")
        add("the later ones until durable", *reuse, "reused_durable", 1, "s")
    return table(("", ""), rows)


def slowdown(results: Results) -> str:
    """A loop of pure Python beside a save in the background."""
    rows = []
    for system in BESIDE_TRAINING:
        runs = runs_of(results, "slowdown", system)
        if not runs:
            continue
        lost = [value for run in runs for value in run.values.get("lost", [])]
        whole = [value for run in runs for value in run.values.get("whole", [])]
        same = [value for run in runs for value in run.values.get("same", [])]
        label = SYSTEMS[system].label
        rows.append(
            (label, span(lost, 100), span(whole, 100), span(same, 100))
            if lost
            else (label, f"failed: {_reason(runs)}", "", "")
        )
    head = (
        "a loop of pure Python in a thread slows down by, %",
        "after the stall",
        "stall included",
        "as long without a save",
    )
    return table(head, rows)


def restore(results: Results) -> str:
    """Seconds and speed of reading back."""
    names = (
        ("cold_read", "bare parallel read, cold page cache"),
        ("cold_read_direct", "bare parallel read with O_DIRECT"),
        ("cold_restore", "`restore(into=state)`, cold page cache"),
        ("warm_read", "bare parallel read, warm page cache"),
        ("copy", "bare numpy.copyto, memory to memory"),
        ("digest", "the digest of the same bytes alone, one thread"),
        ("warm_restore", "`restore(into=state)`, warm page cache, digests checked"),
        ("warm_undigested", "the same, digests of large tensors left out"),
    )
    rows = []
    for run in runs_of(results, "restore", "ours-copy"):
        nbytes = (run.values.get("bytes") or [0.0])[0]
        for name, text in names:
            took = run.values.get(name, [])
            if took:
                rows.append((text, span(took), span([nbytes / secs / 1e9 for secs in took])))
        for name, text in (("only", "`restore(only=…)` of one tensor"), ("mmap", "`restore(mmap=True)`")):
            if run.values.get(name):
                rows.append((text, span(run.values[name]), ""))
    return table(("", "s", "GB/s"), rows)


def cost(results: Results) -> str:
    """Microseconds of what happens at every step."""
    names = (
        ("yield", "a bare `asyncio.sleep(0)`, which `advance()` contains"),
        ("advance", "`advance()` with one saver hook, nothing due"),
        ("run coroutine", "`run(coroutine function)`, nothing due"),
        ("run function", "`run(plain function)`: a trip to the trainer's thread"),
        ("listener", "the call of a coroutine listener"),
    )
    rows = [
        (text, span(values, 1e6))
        for name, text in names
        if (values := values_of(results, "cost", "ours-copy", name))
    ]
    return table(("", "µs"), rows)


def median(values: list[float]) -> float | None:
    """None without any."""
    return statistics.median(values) if values else None


def over(top: float | None, bottom: float | None) -> str:
    """One figure over another, or a dash."""
    return digits(top / bottom) if top is not None and bottom else "-"


def _reason(runs: list[Run]) -> str:
    return escaped(next((run.error for run in runs if run.error), "no save was measured"))


def escaped(text: str) -> str:
    """One line that Markdown leaves alone."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
