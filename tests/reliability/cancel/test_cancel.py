"""Tier *cancel*: every scenario cancelled at every step of its task, small ones at every pair of steps.

After each run the stores hold what the observers were told of each save, and every listener that began got
its ``end`` once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest

from tests.determinism.checking import checked, quiet
from tests.determinism.scenario import Family
from tests.reliability.tier import SEED, counting, pick

Record = Callable[[str, object], None]

CHUNKS = pick(2, 20, 100)
SCENARIOS = pick(6, 2_000, 20_000)
PAIRED = pick(2, 240, 2_400)
"""Scenarios of each family."""

LARGEST = 260
"""Steps of the loop: a larger run costs more and shows nothing that a small one cannot."""

LARGEST_PAIRED = 14
"""Steps of the main task."""

OFFSET = SEED * 1_000_000


def chunk(index: int, total: int) -> range:
    size = total // CHUNKS
    return range(OFFSET + index * size, OFFSET + (index + 1) * size)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("index", range(CHUNKS))
@pytest.mark.parametrize("family", ["calm", "rough"])
def test_cancelled_at_any_step(record_property: Record, family: Family, index: int) -> None:
    with counting(record_property, "cancel", f"cancellations of {family} runs") as tally, quiet():
        tally.facts = {"scenarios": 0, "too large": 0}
        for number in chunk(index, SCENARIOS):
            whole = checked(family, number, number, stores=True)
            if whole.steps > LARGEST:
                tally.facts["too large"] += 1
                continue
            tally.facts["scenarios"] += 1
            for step in range(1, whole.main_steps + 1):
                checked(family, number, number, step, stores=True)
                tally.cases += 1


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("index", range(CHUNKS))
@pytest.mark.parametrize("family", ["calm", "rough"])
def test_cancelled_at_any_two_steps(record_property: Record, family: Family, index: int) -> None:
    with counting(record_property, "cancel", f"pairs of cancellations of {family} runs") as tally, quiet():
        tally.facts = {"scenarios": 0, "too large": 0}
        for number in chunk(index, PAIRED):
            whole = checked(family, number, number)
            if whole.main_steps > LARGEST_PAIRED:
                tally.facts["too large"] += 1
                continue
            tally.facts["scenarios"] += 1
            # The first cancellation changes how many steps there are; a second past the end never comes.
            for pair in combinations(range(1, whole.main_steps + 3), 2):
                checked(family, number, number, pair, stores=True)
                tally.cases += 1
