"""What a run of the tiers leaves: who counted what, when, on which machine. Kept as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records import Machine

__all__ = ["Entry", "Results", "Run", "decode", "encode", "load"]


class Entry(msgspec.Struct):
    """What one test of a tier counted; see ``tests.reliability.tier.Tally``."""

    tier: str
    what: str
    size: str
    seed: int
    cases: int
    seconds: float
    distinct: int | None = None
    skipped: str | None = None
    failure: str | None = None
    facts: dict[str, Any] = {}


class Run(msgspec.Struct):
    """One tier run by one command.

    Attributes:
        folder: The tier's place below ``tests/reliability``.
        began: Day and minute, in UTC.
        seconds: By the clock on the wall.
        cpu_seconds: Of all processors together; others on the machine do not count.
        passed: Whether every test of the folder passed, those too that count nothing.
        tools: Versions of programs that are not Python packages.
    """

    folder: str
    size: str
    command: str
    began: str
    seconds: float
    revision: str
    machine: Machine
    tools: dict[str, str]
    passed: bool
    entries: list[Entry]
    cpu_seconds: float = 0.0


class Results(msgspec.Struct):
    """The last run of each tier at each size."""

    runs: list[Run] = []

    def keep(self, run: Run) -> None:
        """Take in a run, in the place of the earlier one of the same tier and size."""
        others = [r for r in self.runs if (r.folder, r.size) != (run.folder, run.size)]
        self.runs = sorted([*others, run], key=lambda r: (r.folder, r.size))


def encode(results: Results) -> bytes:
    """Spell results as JSON that a person can compare with an earlier one."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def decode(data: bytes) -> Results:
    """Read what ``encode`` wrote.

    Raises:
        msgspec.ValidationError: It is something else.
    """
    return msgspec.json.decode(data, type=Results)


def load(path: Path) -> Results:
    """Read a file of results; none, if there is no such file."""
    return decode(path.read_bytes()) if path.exists() else Results()
