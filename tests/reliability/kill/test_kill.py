"""A process killed at any of its system calls, and killed again while the next one recovers, loses nothing.

Exhaustive in ``ci``: ``SIGKILL`` at each call of each script; then, for every different state of the
directory that this leaves, at each call of a recovery (open, restore, save, close) that changes the
directory. A kill at a call that only looks leaves what a kill at the next change leaves, so nothing is left
out. A writer that nobody kills comes last. What was acknowledged is there byte by byte, nothing else is
listed, the next save works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reliability.tier import SEED, counting, pick
from tests.reliability.tracing.notify import reason_not_to
from tests.reliability.tracing.nursery import ask
from tests.reliability.tracing.scenarios import SCENARIOS, SHORT

EACH: list[dict[str, Any]] = [{"scenarios": [name]} for name in pick([], [*SHORT], [*SHORT, *SCENARIOS])]
QUESTIONS = EACH or [{"scenarios": [*SHORT], "count": 2, "seed": SEED}]


def name_of(question: dict[str, Any]) -> str:
    return str(question["scenarios"][0]) if EACH else "sample"


@pytest.mark.timeout(pick(120, 1200, 12000))
@pytest.mark.parametrize("question", QUESTIONS, ids=name_of)
def test_a_kill_loses_nothing_and_leaves_nothing_torn(
    question: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    with counting(record_property, "kill", f"kills, {name_of(question)}") as tally:
        if why := reason_not_to():
            tally.skip(why)
        answer = ask("tests.reliability.kill.killing", question, timeout=pick(100, 1100, 11000))
        tally.cases = sum(answer["kills"].values())
        tally.distinct = answer["judged"]
        tally.facts = answer["kills"]
        failures = answer["failures"]
        assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)
        assert tally.cases > 0
