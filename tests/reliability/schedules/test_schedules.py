"""Tier *schedules*: listeners, saves, votes, errors and slow disks on simulated loops, each from a seed.

Half of the schedules are calm, where nothing but the order of things differs, and every one of a scenario has
to show the same calls; on the other half anything may fail. ``tests/determinism`` is the small form of it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.determinism.checking import checked, quiet
from tests.determinism.replay import command
from tests.reliability.tier import SEED, counting, pick

Record = Callable[[str, object], None]

CHUNKS = pick(2, 20, 100)
ROUGH = pick(200, 100_000, 600_000)
CALM_SCENARIOS = pick(20, 5_000, 30_000)
PER_CALM_SCENARIO = pick(10, 20, 20)
OFFSET = SEED * 1_000_000
"""Other scenarios than those of the suite, and others for another seed."""


def chunk(index: int, total: int) -> range:
    size = total // CHUNKS
    return range(OFFSET + index * size, OFFSET + (index + 1) * size)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("index", range(CHUNKS))
def test_whatever_fails_the_grammar_holds_and_the_stores_hold_what_was_told(
    record_property: Record, index: int
) -> None:
    with counting(record_property, "schedules", "rough schedules") as tally, quiet():
        for number in chunk(index, ROUGH):
            checked("rough", number, number, stores=number % 10 == 0)
            tally.cases += 1


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("index", range(CHUNKS))
def test_without_failures_every_schedule_shows_the_same_calls(record_property: Record, index: int) -> None:
    with counting(record_property, "schedules", "calm schedules") as tally, quiet():
        for number in chunk(index, CALM_SCENARIOS):
            first = checked("calm", number, 0)
            tally.cases += 1
            assert first.error is None, command("calm", number, 0)
            for seed in range(1, PER_CALM_SCENARIO):
                other = checked("calm", number, seed)
                tally.cases += 1
                assert other.sequence == first.sequence, command("calm", number, seed)
                assert other.stopped_at == first.stopped_at, command("calm", number, seed)
