"""Tier *kill-random*: ``kill -9`` at any moment, and a record of what was acknowledged that outlives it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reliability.tier import SEED, counting, pick
from tests.reliability.tracing.nursery import ask

KILLS = pick(40, 10_000, 100_000)
CHUNK = pick(20, 250, 1_000)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, KILLS, CHUNK))
def test_nothing_acknowledged_is_lost_and_nothing_torn_is_listed(
    record_property: Callable[[str, object], None], first: int
) -> None:
    with counting(record_property, "kill-random", "kills at random moments") as tally:
        question = {"seed": SEED, "first": first, "kills": CHUNK}
        answer = ask("tests.reliability.kill_random.killing", question, timeout=1100)
        tally.cases = CHUNK
        tally.distinct = answer["distinct"]
        tally.facts = {"acknowledged": answer["acknowledged"]}
