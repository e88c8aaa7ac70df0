"""The scripts that are watched: those of all tracers, and a few that only show the order of things."""

from __future__ import annotations

from tests.reliability.tracing.scenarios import ALL, LEFT, SCENARIOS, Scenario, act

__all__ = ["PATHS"]

TWO = {"max_to_keep": 2}
BROKEN = (*LEFT, "step-00000009")
"""The last one has a checkpoint's name and no manifest."""

PATHS = SCENARIOS | {
    scenario.name: scenario
    for scenario in (
        Scenario("session", act("hold 2, hold 3, prune, close"), act("save 1"), {"max_to_keep": 1}),
        Scenario("from an older one", act("restore 1, save 3, save 4, close"), act("save 1, save 2"), TWO),
        Scenario("lower steps later", act("restore, close"), act("save 2, save 1"), ALL),
        Scenario("beside a damaged one", act("save 3, close"), act("save 1, save 2"), TWO, left=BROKEN),
        Scenario("sweep", act("save 3, close"), act("save 1, save 2"), ALL, left=LEFT),
    )
}
