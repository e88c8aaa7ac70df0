"""Tier *signals*: SIGTERM, SIGINT, two in a row, and a stop, at each event of a run and at any moment.

Real processes, on asyncio's loop and on uvloop. A first signal ends the run at a boundary, its last step
durable and the exit code 0; a second one ends it at once, with nothing acknowledged lost.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reliability.tier import SEED, counting, pick

LIVES = pick(32, 1_000, 10_000)
CHUNK = pick(16, 50, 500)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, LIVES, CHUNK))
def test_the_last_step_is_durable_or_the_process_leaves_at_once_and_loses_nothing(
    record_property: Callable[[str, object], None], first: int
) -> None:
    pytest.importorskip("uvloop")
    from tests.reliability.tracing.nursery import ask

    with counting(record_property, "signals", "runs that got a signal") as tally:
        question = {"seed": SEED, "first": first, "lives": CHUNK}
        tally.facts = ask("tests.reliability.signals.living", question, timeout=1100)
        tally.cases = CHUNK
