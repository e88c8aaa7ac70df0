"""Every call of a script fails in every way; carried out in a bare process, see ``nursery.ask``."""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter
from typing import Any

from tests.reliability.tracing.faults import CODES, NONE, TIMES, Fault
from tests.reliability.tracing.notify import SHORTENED
from tests.reliability.tracing.nursery import Desk, desk, litter, say
from tests.reliability.tracing.oracle import Oracle
from tests.reliability.tracing.scenarios import SCRIPTS, Scenario, act
from tests.reliability.tracing.supervisor import Child, Life

__all__ = ["main"]

AFTERWARDS = act("calm, list, save 9, restore, close, open, close")
_MOST = 20
_LIVES = 200
"""Scripts that one child carries out before a fresh one takes its place."""


class Injector:
    """Carries out one script after the other, each with a fault, and judges them."""

    def __init__(self, place: Desk) -> None:
        self._desk = place
        self._child: Child | None = None
        self._lives = 0
        self.cases = 0
        self.failures: list[str] = []
        self.verdicts: Counter[str] = Counter()
        self.calls: set[tuple[str, int]] = set()

    def run(self, scenario: Scenario, fault: Fault) -> Life:
        """One case."""
        place = self._desk.lay_out(scenario)
        if self._child is None or self._lives >= _LIVES:
            self.close()
            self._child, self._lives = Child(), 0
        self._lives += 1
        life = self._child.carry_out(scenario, scenario.acts + AFTERWARDS, place, fault)
        wrong = self._judge(scenario, life, place)
        if life.hit is not None or fault.kind == "none":
            self.cases += 1
            self.calls.add((scenario.name, fault.at))
        if wrong:
            again = json.dumps({"scenarios": [scenario.name], "fault": [fault.kind, fault.at, fault.times]})
            code = f"from {__name__} import main; main({again!r})"
            self.failures.append(
                f"{scenario.name}, {fault} ({life.hit}): {'; '.join(wrong)}\n    marks: {life.marks}\n"
                f"    again: python -c {shlex.quote(code)}"
            )
        if life.end != "done":
            self.close()
        return life

    def _judge(self, scenario: Scenario, life: Life, place: Any) -> list[str]:
        oracle = Oracle.of(scenario, strict=False)
        oracle.hear(life.marks)
        wrong = list(oracle.wrong)
        if life.end != "done":
            wrong.append(f"the child was {life.end}")
        elif left := litter(scenario, place):
            wrong.append(f"left behind: {left}")
        self.verdicts.update(oracle.verdicts)
        return wrong

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def ways() -> list[tuple[str, int]]:
    """All ways to fail: which, and how often."""
    return [(kind, times) for kind in (*CODES, "short") for times in TIMES.values()]


def exhaustive(injector: Injector, scenario: Scenario, kinds: list[str]) -> None:
    """Every call in every way of ``kinds``."""
    plain = injector.run(scenario, NONE)
    number, hit = 0, True
    # With several threads at work one run may have a few calls more than another.
    while (hit or number < plain.calls) and len(injector.failures) < _MOST:
        number += 1
        hit = False
        for kind in kinds:
            if kind == "short" and not SHORTENED & {*plain.names[max(0, number - 4) : number + 3]}:
                continue
            for times in TIMES.values():
                life = injector.run(scenario, Fault(kind, number, times))
                hit = hit or life.hit is not None
                if not life.spared:
                    break  # no other call of that name came: failing more often is the same


def sample(injector: Injector, scenario: Scenario, count: int, draws: random.Random) -> None:
    """Some calls in some ways."""
    calls = injector.run(scenario, NONE).calls
    for _ in range(count):
        kind, times = draws.choice(ways())
        injector.run(scenario, Fault(kind, draws.randint(1, calls), times))


def main(question: str) -> None:
    """Answer ``{"scenarios": [...]}`` with ``kinds``, or ``count`` and ``seed``, or one ``fault``."""
    asked = json.loads(question)
    with desk(asked.get("place")) as place:
        injector = Injector(place)
        try:
            for name in asked["scenarios"]:
                scenario = SCRIPTS[name]
                if "fault" in asked:
                    injector.run(scenario, Fault(*asked["fault"]))
                elif "count" in asked:
                    sample(injector, scenario, asked["count"], random.Random(f"{asked['seed']} {name}"))
                else:
                    exhaustive(injector, scenario, asked["kinds"])
        finally:
            injector.close()
    say(
        {
            "cases": injector.cases,
            "calls": len(injector.calls),
            "failures": injector.failures,
            "verdicts": dict(sorted(injector.verdicts.items())),
        }
    )
