"""Runs one schedule again and prints what happened.

``python -m tests.determinism.replay FAMILY SCENARIO SEED`` from the root of the repository; further numbers
are the steps of the main task at which it is cancelled.
"""

from __future__ import annotations

import pprint
import sys
from collections.abc import Collection
from typing import cast

from tests.determinism.grammar import check
from tests.determinism.scenario import Family, draw
from tests.determinism.world import play

__all__ = ["command", "main"]


def command(family: Family, number: int, seed: int, cancel_at: int | Collection[int] | None = None) -> str:
    """What to type to see that schedule again, from the root of the repository."""
    cancels = () if cancel_at is None else (cancel_at,) if isinstance(cancel_at, int) else cancel_at
    words = [family, number, seed, *cancels]
    return "replay with: python -m tests.determinism.replay " + " ".join(map(str, words))


def main(family: str, number: str, seed: str, *cancel_at: str) -> None:
    """Print the scenario, the calls and the outcome, then check the grammar."""
    scenario = draw(cast(Family, family), int(number))
    pprint.pprint(scenario)
    run = play(scenario, int(seed), cancel_at=[int(step) for step in cancel_at])
    for call in run.log:
        at = "" if call.step is None else f"({call.step})"
        print(f"{call.hook}.{call.listener} {call.phase}{at} {call.edge}")
    print(f"ended at step {run.stopped_at} with {run.error!r}; committed {dict(run.rules.committed)}")
    check(run.log, run.rules)


if __name__ == "__main__":
    main(*sys.argv[1:])
