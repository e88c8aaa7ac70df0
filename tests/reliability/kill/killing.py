"""A child is killed at every call of a script, and again during the recovery; in a bare process.

See ``nursery.ask`` for who asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.tracing.faults import NONE, Fault
from tests.reliability.tracing.nursery import Desk, desk, litter, say
from tests.reliability.tracing.oracle import Oracle
from tests.reliability.tracing.scenarios import SCRIPTS, Act, Scenario, act
from tests.reliability.tracing.supervisor import Child, Life

__all__ = ["main"]

RECOVERY = act("open, restore, save 8, close")
VERIFICATION = act("open, list, save 9, list, close")
_MOST = 10


@dataclass(frozen=True)
class Wreck:
    """What a kill left.

    Attributes:
        kept: Where it was set aside.
        kills: At which call of which life.
        oracle: What may be there.
        hit: The last call that was not carried out.
    """

    kept: Path
    kills: tuple[int, ...]
    oracle: Oracle
    hit: str


class Killer:
    """Kills, and judges what is left."""

    def __init__(self, place: Desk) -> None:
        self._desk = place
        self._seen: set[str] = set()
        self.kills = Counter[str]()
        self.judged = 0
        self.failures: list[str] = []

    def wrecks(self, scenario: Scenario, numbers: list[int] | None) -> Iterator[Wreck]:
        """Kill at the calls given, or at every one; gives what is left, each different state once."""
        for number in numbers or range(1, 1 << 30):
            oracle = Oracle.of(scenario, strict=True)
            self._desk.lay_out(scenario)
            life = self._life(scenario, scenario.acts + act("close"), Fault("kill", number), oracle)
            if life.end != "killed":
                self._fail(scenario, (number,), oracle, life)
                break
            self.kills["first"] += 1
            if wreck := self._kept(scenario, (number,), oracle, life):
                yield wreck
                shutil.rmtree(wreck.kept)

    def again(self, scenario: Scenario, wreck: Wreck, numbers: list[int] | None) -> Iterator[Wreck]:
        """Let a recovery begin on a wreck, and kill it: at the calls given, or at all that change a thing."""
        if numbers is None:
            self._desk.put(wreck.kept)
            oracle = deepcopy(wreck.oracle)
            life = self._life(scenario, RECOVERY, NONE, oracle)
            self._fail(scenario, wreck.kills, oracle, life)
            numbers = life.changes
        for number in numbers:
            oracle = deepcopy(wreck.oracle)
            self._desk.put(wreck.kept)
            life = self._life(scenario, RECOVERY, Fault("kill", number), oracle)
            if life.end != "killed":
                self._fail(scenario, (*wreck.kills, number), oracle, life)
                continue
            self.kills["second"] += 1
            if second := self._kept(scenario, (*wreck.kills, number), oracle, life):
                yield second
                shutil.rmtree(second.kept)

    def judge(self, scenario: Scenario, wreck: Wreck) -> None:
        """Let a writer come that nobody kills, and look at everything."""
        self._desk.put(wreck.kept)
        oracle = deepcopy(wreck.oracle)
        life = self._life(scenario, VERIFICATION, NONE, oracle)
        self.judged += 1
        left = litter(scenario, self._desk.case, killed=True) if life.end == "done" else []
        self._fail(scenario, wreck.kills, oracle, life, left, wreck.hit)

    def _life(self, scenario: Scenario, acts: tuple[Act, ...], fault: Fault, oracle: Oracle) -> Life:
        child = Child()
        try:
            life = child.carry_out(scenario, acts, self._desk.case, fault)
        finally:
            child.close()
        oracle.hear(life.marks)
        if life.end == "killed":
            oracle.killed()
        return life

    def _kept(self, scenario: Scenario, kills: tuple[int, ...], oracle: Oracle, life: Life) -> Wreck | None:
        """Set the case aside, unless one like it was."""
        self._fail(scenario, kills, oracle, life)
        state = f"{scenario.name} {len(kills)} {_digest(self._desk.case)} {oracle.may} {oracle.conditions}"
        if state in self._seen:
            return None
        self._seen.add(state)
        kept = self._desk.keep("wreck-" + "-".join(map(str, kills)))
        return Wreck(kept, kills, oracle, life.hit or "")

    def _fail(
        self,
        scenario: Scenario,
        kills: tuple[int, ...],
        oracle: Oracle,
        life: Life,
        left: list[str] | None = None,
        hit: str = "",
    ) -> None:
        wrong = list(oracle.wrong)
        if life.end not in {"done", "killed"}:
            wrong.append(f"the child was {life.end}")
        if left:
            wrong.append(f"left behind: {left}")
        if wrong:
            again = json.dumps({"scenarios": [scenario.name], "kills": kills})
            code = f"from {__name__} import main; main({again!r})"
            self.failures.append(
                f"{scenario.name}, killed at {kills} ({hit or life.hit}): {'; '.join(wrong)}\n"
                f"    marks: {life.marks}\n    again: python -c {shlex.quote(code)}"
            )


def _digest(place: Path) -> str:
    """Say what is in a directory, whatever the random parts of the names are."""
    found = hashlib.sha256()
    random_part = re.compile(r"-[0-9a-f]{16}\b")
    for above, directories, files in os.walk(place):
        directories.sort(key=lambda name: random_part.sub("", name))
        for name in sorted(files, key=lambda name: random_part.sub("", name)):
            path = Path(above, name)
            shown = random_part.sub("-*", str(path.relative_to(place)))
            content = b"" if name == ".lock" else path.read_bytes()
            if name == "manifest.json" and content.rstrip().endswith(b"}"):
                content = b"whole"  # its attempt, time and digest are those of one run
            found.update(f"{shown} {len(content)}\0".encode() + content)
        for name in directories:
            found.update(f"{random_part.sub('-*', str(Path(above, name).relative_to(place)))}/\0".encode())
    return found.hexdigest()


def exhaustive(killer: Killer, scenario: Scenario) -> None:
    """At every call; and for every state that this leaves, at every call of the recovery that changes it."""
    for wreck in killer.wrecks(scenario, None):
        killer.judge(scenario, wreck)
        for second in killer.again(scenario, wreck, None):
            killer.judge(scenario, second)
        if len(killer.failures) >= _MOST:
            return


def sample(killer: Killer, scenario: Scenario, count: int, draws: random.Random) -> None:
    """At some calls, each followed by one kill in the recovery."""
    for _ in range(count):
        for wreck in killer.wrecks(scenario, [draws.randint(1, 100)]):
            killer.judge(scenario, wreck)
            for second in killer.again(scenario, wreck, [draws.randint(1, 100)]):
                killer.judge(scenario, second)


def main(question: str) -> None:
    """Answer ``{"scenarios": [...]}``, with ``kills`` for one case, or with ``count`` and ``seed``."""
    asked = json.loads(question)
    with desk(asked.get("place")) as place:
        killer = Killer(place)
        for name in asked["scenarios"]:
            scenario = SCRIPTS[name]
            if "kills" in asked:
                first, *second = asked["kills"]
                for wreck in killer.wrecks(scenario, [first]):
                    killer.judge(scenario, wreck)
                    for again in killer.again(scenario, wreck, second):
                        killer.judge(scenario, again)
            elif "count" in asked:
                sample(killer, scenario, asked["count"], random.Random(f"{asked['seed']} {name}"))
            else:
                exhaustive(killer, scenario)
    say({"kills": dict(killer.kills), "judged": killer.judged, "failures": killer.failures})
