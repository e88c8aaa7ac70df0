"""Pure: what was counted, and a template, to the Markdown of ``docs/reliability.md``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables import escaped, table
from tests.reliability.report.records import Entry, Results, Run

__all__ = ["MUTANTS", "TIERS", "Line", "in_short", "lines_of", "newest_mutants", "page", "verdict"]

MUTANTS = "mutants"
SAMPLED = {"kill-random", "power cut", "schedules", "signals", "writers", "model"}
"""Tiers that draw their cases at random; the others go through all there are, or through a grid."""

TIERS = (
    *(
        "order",
        "errno",
        "kill",
        "kill-random",
        "power cut",
        "block replay",
        "fsync fails",
        "schedules",
        "cancel",
    ),
    *("allocation", "model", "signals", "writers", "resources", "hostile bytes"),
)
"""All there are, in the order of the page."""

SIZES = ("quick", "ci", "long")


@dataclass(frozen=True)
class Line:
    """What a tier counted in one run."""

    tier: str
    run: Run
    entries: tuple[Entry, ...]

    @property
    def cases(self) -> int:
        """All of them together."""
        return sum(entry.cases for entry in self.entries)

    @property
    def distinct(self) -> int | None:
        """How many were different from each other; None if that was not counted throughout."""
        counted = [entry.distinct for entry in self.entries if not entry.skipped]
        return sum(filter(None, counted)) if counted and None not in counted else None

    @property
    def failures(self) -> int:
        """Tests that failed."""
        return sum(entry.failure is not None for entry in self.entries)

    @property
    def skipped(self) -> int:
        """Tests that the machine could not do."""
        return sum(entry.skipped is not None for entry in self.entries)


def lines_of(results: Results) -> list[Line]:
    """Each tier of each run, by the names that the entries have."""
    lines = [
        Line(tier, run, tuple(entry for entry in run.entries if entry.tier == tier))
        for run in results.runs
        for tier in dict.fromkeys(entry.tier for entry in run.entries)
    ]
    return sorted(lines, key=lambda line: (line.tier, SIZES.index(line.run.size)))


def page(results: Results, template: str, more: Mapping[str, Callable[[], str]]) -> str:
    """Fill a template: every ``{{name}}`` in it is one of the tables here, or one of ``more``.

    Raises:
        KeyError: The template names something that is not there.
    """
    lines = lines_of(results)
    parts: dict[str, Callable[[], str]] = {
        "verdict": lambda: verdict(results),
        "counts": lambda: counts(lines),
        "what": lambda: what(lines),
        "not tried": lambda: not_tried(lines),
        "mutants": lambda: mutants(lines),
        "bound": lambda: bound(lines),
        "runs": lambda: runs(results),
        **more,
    }
    text = re.sub(r"\{\{(.+?)\}\}", lambda found: parts[found[1].strip()]().strip(), template)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def verdict(results: Results) -> str:
    """One sentence."""
    lines = [line for line in lines_of(results) if line.tier != MUTANTS]
    failed = sum(line.failures for line in lines) + sum(not run.passed for run in results.runs)
    cases = sum(line.cases for line in lines)
    if not lines:
        return "Nothing has been run yet."
    verdict = "none failed" if not failed else "**not all of them passed**: see the table"
    return f"{cases:,} cases were judged; {verdict}."


def counts(lines: Iterable[Line]) -> str:
    """A row for each tier and size."""
    rows = []
    for line in lines:
        if line.tier == MUTANTS:
            continue
        distinct = line.distinct
        rows.append(
            (
                line.tier,
                line.run.size,
                f"{line.cases:,}",
                "-" if distinct is None else f"{distinct:,}",
                f"**{line.failures}**" if line.failures or not line.run.passed else "0",
                str(line.skipped),
                limit_of(line),
                f"{sum(entry.seconds for entry in line.entries):,.0f}",
                ", ".join(dict.fromkeys(str(entry.seed) for entry in line.entries)),
            )
        )
    head = ("tier", "size", "cases", "distinct", "failed", "not tried", "bound", "seconds", "seed")
    return table(head, rows) or "Nothing was counted."


def limit_of(line: Line) -> str:
    """What no failure in so many draws says about the next one."""
    if line.tier not in SAMPLED or not line.cases or line.failures:
        return "-"
    independent = line.distinct if line.distinct is not None else line.cases
    return f"< {percent(3 / independent)}" if independent else "-"


def percent(share: float) -> str:
    """A share with two digits that count."""
    return f"{100 * share:.2g} %"


def bound(lines: Iterable[Line]) -> str:
    """Which tiers the bound is given for."""
    there = sorted({line.tier for line in lines if line.tier in SAMPLED})
    return ", ".join(there) or "none in these runs"


def what(lines: Iterable[Line]) -> str:
    """What was counted, test by test."""
    rows = []
    for line in lines:
        if line.tier == MUTANTS:
            continue
        for entry in line.entries:
            facts = ", ".join(f"{name}: {_told(value)}" for name, value in entry.facts.items())
            rows.append((line.tier, line.run.size, f"{entry.cases:,} {escaped(entry.what)}", escaped(facts)))
    return table(("tier", "size", "counted", "and"), rows)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_told(inner)}" for name, inner in value.items()) + ")"
    if isinstance(value, list):
        return " ".join(map(_told, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def not_tried(lines: Sequence[Line]) -> str:
    """What the machines could not do, with the reason, and tiers that no run is kept of."""
    found = [f"- {tier}: in none of these runs" for tier in TIERS if all(line.tier != tier for line in lines)]
    found += [
        f"- {line.tier}, {line.run.size}: {escaped(entry.what)}: {escaped(entry.skipped)}"
        for line in lines
        for entry in line.entries
        if entry.skipped
    ]
    return "\n".join(found) or "Nothing."


def mutants(lines: Iterable[Line]) -> str:
    """The mutants of the largest run, and what found each of them out."""
    entries = newest_mutants(lines)
    if not entries:
        return "No mutants were run."
    killed = sum(entry.failure is None and entry.skipped is None for entry in entries)
    rows = [
        (
            escaped(str(entry.facts["safeguard"])),
            f"`{entry.facts['file']}`",
            escaped(str(entry.facts.get("killer", "**survived**" if entry.failure else "not tried"))),
            escaped(str(entry.facts.get("cases", "-"))),
            escaped(str(entry.facts.get("seconds", "-"))),
            escaped(str(entry.facts.get("finding", "-"))),
        )
        for entry in entries
    ]
    head = ("what was taken out", "in", "found by", "cases until then", "seconds", "what it said")
    return f"{killed} of {len(entries)} were found out.\n\n{table(head, rows)}"


def newest_mutants(lines: Iterable[Line]) -> list[Entry]:
    """What became of each mutant, in the run of the largest size."""
    found = [line for line in lines if line.tier == MUTANTS]
    return [entry for entry in found[-1].entries if "safeguard" in entry.facts] if found else []


def runs(results: Results) -> str:
    """Which command gave which counts, when and where."""
    rows = [
        (
            f"`{run.command}`",
            run.began,
            f"{run.seconds:,.0f}",
            f"{run.cpu_seconds:,.0f}",
            run.revision,
            f"{run.machine.processor}, {run.machine.cores} cores; {run.machine.kernel}; {run.machine.disk}",
            ", ".join(
                [
                    run.machine.python,
                    *(f"{name} {version}" for name, version in (run.machine.versions | run.tools).items()),
                ]
            ),
        )
        for run in results.runs
    ]
    return table(("command", "when", "seconds", "CPU seconds", "commit", "machine", "versions"), rows)


def in_short(run: Run) -> str:
    """A run in a few lines, for the terminal."""
    lines = [
        f"-- {line.tier}: {line.cases:,} cases, {line.failures} failed, {line.skipped} not tried here"
        for line in lines_of(Results([run]))
    ]
    verdict = "passed" if run.passed else "FAILED"
    return "\n".join(
        [*lines, f"-- {run.folder} {verdict} in {run.seconds:.0f} s, {run.cpu_seconds:.0f} s of CPU"]
    )
