"""What the tiers share: how large they are, what they count, and where the counts go.

``ASYNC_CKPT_RELIABILITY`` chooses the size: ``quick`` (the default, part of the suite), ``ci`` or ``long``.
``ASYNC_CKPT_SEED`` repeats the draws of a run. The counts of all tiers are printed below the summary of the
tests, and written as JSON to the file that ``ASYNC_CKPT_RELIABILITY_RESULTS`` names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

__all__ = ["SEED", "SIZE", "Tally", "counting", "pick", "pytest_terminal_summary"]

T = TypeVar("T")

SIZES = ("quick", "ci", "long")
SIZE = os.environ.get("ASYNC_CKPT_RELIABILITY", "quick")
SEED = int(os.environ.get("ASYNC_CKPT_SEED", "20261122"))
_PROPERTY = "reliability"

if SIZE not in SIZES:
    raise ValueError(f"ASYNC_CKPT_RELIABILITY={SIZE!r}: it is one of {', '.join(SIZES)}")


def pick(quick: T, ci: T, long: T) -> T:
    """Give the value for the size of this run."""
    return {"quick": quick, "ci": ci, "long": long}[SIZE]


class Tally:
    """What one test of a tier counted.

    Attributes:
        cases: How many faults, schedules, states or inputs were judged.
        distinct: How many of them were different from each other, where that was counted.
        skipped: Why this machine could not do it, or None.
        facts: Other figures worth printing: versions, sizes, kinds of outcome with their counts.
    """

    def __init__(self, tier: str, what: str) -> None:
        self.tier = tier
        self.what = what
        self.cases = 0
        self.distinct: int | None = None
        self.skipped: str | None = None
        self.facts: dict[str, Any] = {}

    def skip(self, why: str) -> NoReturn:
        """Leave the test as one that this machine cannot do; the summary says so."""
        self.skipped = why
        pytest.skip(f"NOT TRIED HERE: {why}")


@contextmanager
def counting(record: Callable[[str, object], None], tier: str, what: str) -> Generator[Tally]:
    """Count for a test: what is in the tally when the block is left, however it is left, is kept.

    Args:
        record: The fixture ``record_property``.
        tier: The tier's name in the table of ``docs/reliability.md``.
        what: What is counted, in a few words.
    """
    tally = Tally(tier, what)
    began = time.perf_counter()
    failure: str | None = None
    try:
        yield tally
    except BaseException as error:
        failure = None if tally.skipped else f"{type(error).__name__}: {error}"[:300]
        raise
    finally:
        record(
            _PROPERTY,
            {
                "tier": tier,
                "what": what,
                "size": SIZE,
                "seed": SEED,
                "cases": tally.cases,
                "distinct": tally.distinct,
                "skipped": tally.skipped,
                "failure": failure,
                "seconds": round(time.perf_counter() - began, 3),
                "facts": tally.facts,
            },
        )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the tiers counted, and keep it where that was asked for."""
    found = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if not found:
        return
    found.sort(key=lambda entry: (entry["tier"], entry["what"]))
    terminalreporter.section(f"reliability, size {SIZE!r}, seed {SEED}")
    for entry in found:
        distinct = "" if entry["distinct"] is None else f" ({entry['distinct']} distinct)"
        verdict = (
            f"NOT TRIED: {entry['skipped']}"
            if entry["skipped"]
            else f"FAILED: {entry['failure']}"
            if entry["failure"]
            else "0 failed"
        )
        counted = f"{entry['tier']}: {entry['cases']} {entry['what']}{distinct}"
        terminalreporter.write_line(f"{counted}, {verdict}, {entry['seconds']:.1f} s")
    path = os.environ.get("ASYNC_CKPT_RELIABILITY_RESULTS")
    if path:
        Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
