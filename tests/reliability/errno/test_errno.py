"""Whatever system call of the store fails, however often: success, an error of our tree, or ``unknown``.

Exhaustive in ``ci``: each call of each script, counted over all threads, fails with each error once, twice
and for ever (with the calls of its name that follow), and each read and write is cut short. A fault that
would be the same as one that was tried, since no other call of that name came, is not tried again. Then, in
the same process, what was acknowledged is there byte by byte, the next save works, nothing is left open and a
writer's next visit leaves no litter. An error of ``close`` closes the descriptor, as it does in life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reliability.tier import SEED, counting, pick
from tests.reliability.tracing.faults import CODES
from tests.reliability.tracing.notify import reason_not_to
from tests.reliability.tracing.nursery import ask
from tests.reliability.tracing.scenarios import SCENARIOS, SHORT

EACH: list[dict[str, Any]] = [
    {"scenarios": [name], "kinds": [kind]}
    for name in pick([], [*SHORT], [*SHORT, *SCENARIOS])
    for kind in (*CODES, "short")
]
QUESTIONS = EACH or [{"scenarios": [*SHORT], "count": 4, "seed": SEED}]


def name_of(question: dict[str, Any]) -> str:
    return f"{question['scenarios'][0]}-{'-'.join(question['kinds'])}" if EACH else "sample"


@pytest.mark.timeout(pick(120, 1200, 12000))
@pytest.mark.parametrize("question", QUESTIONS, ids=name_of)
def test_a_call_that_fails_costs_at_most_what_was_asked(
    question: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    with counting(record_property, "errno", f"faults, {name_of(question)}") as tally:
        if why := reason_not_to():
            tally.skip(why)
        answer = ask("tests.reliability.errno.injecting", question, timeout=pick(100, 1100, 11000))
        tally.cases = answer["cases"]
        tally.facts = {"calls": answer["calls"], "verdicts": answer["verdicts"]}
        failures = answer["failures"]
        assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)
        assert tally.cases > 0
