"""The scripts that are watched: those of all tracers, and a few that only show the order of things."""

from __future__ import annotations

from tests.reliability.tracing.scenarios import ALL, LEFT, SCENARIOS, Scenario, act

__all__ = ["PATHS"]

PATHS = SCENARIOS | {
    scenario.name: scenario
    for scenario in (
        Scenario("session", act("hold 2, hold 3, prune, close"), act("save 1"), {"max_to_keep": 1}),
        Scenario("sweep", act("save 3, close"), act("save 1, save 2"), ALL, left=LEFT),
    )
}
