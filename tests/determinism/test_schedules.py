"""Determinism, shown over 20,000 seeded schedules: the grammar and the rounds hold, calm runs are all alike.

3,000 calm schedules (300 scenarios, 10 each), 4,000 rough ones, and at least 13,000 on which the run is
cancelled at each of its steps in turn. Chunks, so that several processes can share them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.determinism.checking import checked, quiet
from tests.determinism.replay import command
from tests.determinism.scenario import Family

CHUNKS = 25
CALM_SCENARIOS = 300
SCHEDULES_PER_CALM_SCENARIO = 10
ROUGH_SCHEDULES = 4000
CANCELLED_SCHEDULES = 13_000
LARGEST_CANCELLED = (
    260  # steps of the loop: a larger run costs more and shows nothing that a small one cannot
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def chunk(index: int, total: int) -> range:
    size = total // CHUNKS
    return range(index * size, (index + 1) * size)


@pytest.mark.parametrize("index", range(CHUNKS))
def test_calm_runs_are_the_same_on_every_schedule(index: int) -> None:
    for number in chunk(index, CALM_SCENARIOS):
        first = checked("calm", number, 0)
        assert first.error is None, command("calm", number, 0)
        for seed in range(1, SCHEDULES_PER_CALM_SCENARIO):
            other = checked("calm", number, seed)
            assert other.sequence == first.sequence, command("calm", number, seed)
            assert other.stopped_at == first.stopped_at, command("calm", number, seed)


@pytest.mark.parametrize("index", range(CHUNKS))
def test_rough_runs_keep_the_grammar(index: int) -> None:
    for number in chunk(index, ROUGH_SCHEDULES):
        checked("rough", number, number)


@pytest.mark.parametrize("index", range(CHUNKS))
def test_a_run_cancelled_at_any_of_its_steps_keeps_the_grammar(index: int) -> None:
    family: Family = "calm" if index % 2 else "rough"
    number, schedules = index * 1_000_000, 0
    while schedules < CANCELLED_SCHEDULES // CHUNKS:
        number += 1
        whole = checked(family, number, number)
        if whole.steps > LARGEST_CANCELLED:
            continue
        for step in range(1, whole.main_steps + 1):
            checked(family, number, number, cancel_at=step)
            schedules += 1
