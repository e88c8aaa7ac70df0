"""Pure: raw results to the page's Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import tables
from benchmarks.figures import Summary, digits, sizes_of
from benchmarks.records import Results
from benchmarks.targets import targets

__all__ = ["PLOTS", "page"]

PLOTS = {
    "stall": "How long the caller is held, by system",
    "lag": "How late the event loop was during one save, by system",
    "throughput": "Durable throughput against the raw disk",
    "by-bytes": "Time until durable by size of the state",
    "by-tensors": "Time until durable by number of tensors of 1 KiB",
    "sessions": "Sessions that save at the same time in one process",
}
"""File names, without the ending, and captions."""

INTRODUCTION = """\
# Performance

Every figure on this page comes from one run of one command on one machine: ratios carry over to other
machines, absolute figures do not. The page is written by the command itself, from
`performance/results.json`; only the remarks, where there are any, come from `performance/remarks.md`.
"""

METHOD = """\
## How it is measured

Every system runs in a process of its own, one after the other, on the same states and the same disk, in
rounds that start with another system each time. Figures are medians, with the least and the largest in
parentheses. The first save of each process is left out of them and shown apart, for it pays for starting
threads and processes and for memory that was never touched; where there was time for one save only, that
one is shown.

- **stall**: how long whoever changes the state is held, from the call until the state may be changed again.
- **durable**: from the call until the system itself says that it is done. What that means differs: see the
  table below.
- **loop gap**: by how much a ticker of one millisecond on the same event loop was late at worst, between
  the call and *durable*. The peers have no asyncio interface: their blocking calls are made in a thread,
  which is what is kindest to them. Called directly on the loop, as their examples do, the gap is the stall
  or more.
- **extra memory**: the most that the process and its children held of memory that is no file's, beyond the
  state and what was there before the system was set up, as a multiple of the state. Sampled from outside
  every 25 ms.
- The states are float32 noise, which no compressor shrinks. *Bare numpy.copyto* copies the same bytes, in
  one thread, into memory that was used before; *bare loop of O_DIRECT writes* writes the same bytes to one
  preallocated file, 16 MiB at a time, from aligned memory, and calls fsync.
- torch shares memory by its `file_system` strategy: with the other one, which keeps a file open for each
  tensor, DCP's process and stager fail on 20,000 tensors under usual limits.
- What was saved is deleted before the next save, outside of the measured time.
"""


def page(results: Results, plots: Iterable[str] = PLOTS, remarks: str = "") -> str:
    """The whole page; ``plots`` names those that were drawn, ``remarks`` stand below the targets."""
    sizes = sizes_of(results)
    drawn = set(plots)

    def section(title: str, *parts: str) -> str:
        return "\n\n".join([f"## {title}", *(part.strip() for part in parts if part)])

    def plot(name: str) -> str:
        return f"![{PLOTS[name]}](performance/{name}.svg)" if name in drawn else ""

    reference, many, one = (tables.describe(s) for s in (sizes.reference, sizes.many, sizes.one))
    parts = [
        INTRODUCTION.strip(),
        _machine(results),
        section("What was asked for", _targets(results), remarks),
        section(
            f"A training state: {reference}",
            plot("stall"),
            tables.comparison(results, sizes.reference),
            plot("throughput"),
            plot("lag"),
        ),
        section(f"Many small tensors: {many}", tables.comparison(results, sizes.many)),
        section(f"One large tensor: {one}", tables.comparison(results, sizes.one)),
        section(
            "By size and by number",
            tables.scaling(results, sizes.by_bytes, "bytes"),
            plot("by-bytes"),
            tables.scaling(results, sizes.by_tensors, "tensors"),
            plot("by-tensors"),
        ),
        section("Many sessions in one process", tables.sessions(results), plot("sessions")),
        section("While training", tables.training(results), tables.slowdown(results)),
        section("Reading back", tables.restore(results)),
        section("What a step costs", tables.cost(results)),
        METHOD.strip(),
        section("What durable means", tables.durability(results)),
        section("What did not work, and what was left out", _failures(results)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(results: Results) -> str:
    machine = results.machine
    foreign = Summary.of(100 * run.foreign for run in results.runs if run.foreign is not None)
    rows = [
        ("command", f"`{results.command}`"),
        ("when", f"{results.began}, for {results.seconds / 60:.0f} minutes"),
        ("commit", results.revision),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("memory", f"{machine.memory / 2**30:.0f} GiB"),
        ("disk", machine.disk),
        ("system", f"{machine.kernel}, {machine.python}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
    ]
    if foreign is not None:
        used = f"{digits(foreign.median)} % of the processors in the median of all measurements"
        rows.append(("others on the machine", f"{used}, {digits(foreign.most)} % at most"))
    text = tables.table(("", ""), rows)
    if results.quick:
        text = f"**Small states, to try the command: these figures mean nothing.**\n\n{text}"
    return text


def _targets(results: Results) -> str:
    found = targets(results)
    rows = []
    for target in found:
        measured = Summary.of(target.values)
        unit = f" {target.unit}" if target.unit else ""
        text = "-"
        if measured is not None:
            text = f"{digits(measured.median)}{unit}"
            if measured.count > 1:
                text += f" ({digits(measured.least)} - {digits(measured.most)})"
        mark = target.verdict if target.verdict != "not met" else "**not met**"
        rows.append((target.text, target.asked, text, mark))
    met = sum(target.verdict in {"met", "met in the median"} for target in found)
    return f"{met} of {len(found)} are met.\n\n{tables.table(('', 'asked', 'measured', ''), rows)}"


def _failures(results: Results) -> str:
    lines: list[str] = []
    for run in results.runs:
        said = [*([run.error] if run.error else []), *run.notes]
        lines += [f"- {run.job.name}: {tables.escaped(sentence)}" for sentence in said]
    return "\n".join(dict.fromkeys(lines)) or "Nothing."
