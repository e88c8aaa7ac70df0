"""The grammar of callbacks, checked on the log of one run.

For one saver hook the phases read ``begin (before_save(s) after_save(s)?)* end``; over all hooks the unit of
order is the round. Every function raises ``AssertionError`` with what it saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Call", "Rules", "check"]


@dataclass(frozen=True, slots=True)
class Call:
    """One edge of one callback: its start, or its end with whether it raised."""

    hook: int
    listener: int
    phase: str
    step: int | None
    edge: str  # "start", "done" or "failed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the checker has to know about the run.

    Attributes:
        listeners: How many listeners each hook has.
        blocking: Which hooks do their whole sequence at their place.
        committed: The steps that each hook's store made durable, in order.
    """

    listeners: Sequence[int]
    blocking: Sequence[bool]
    committed: Mapping[int, Sequence[int]]


@dataclass(slots=True)
class Group:
    """One phase of one hook: the listeners that were called in a row for the same thing."""

    hook: int
    phase: str
    step: int | None
    listeners: list[int] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        at = "" if self.step is None else f"({self.step})"
        return f"hook {self.hook} {self.phase}{at} {self.listeners}"


def check(log: Sequence[Call], rules: Rules) -> None:
    """Check everything that has to hold whatever else happened."""
    _exclusive(log)
    groups = _grouped(log)
    begun = _listeners_obey(log, rules)
    _begin_and_end(groups, begun)
    _phases_reach_everyone(groups, begun)
    _rounds(groups, rules)
    for hook, count in enumerate(rules.listeners):
        if count and begun[hook]:
            reported = [group.step for group in groups if group.hook == hook and group.phase == "after_save"]
            assert reported == list(rules.committed[hook]), (
                f"hook {hook} committed {list(rules.committed[hook])} and reported {reported}"
            )


def _exclusive(log: Sequence[Call]) -> None:
    running: Call | None = None
    for call in log:
        if call.edge == "start":
            assert running is None, f"{call} while {running} runs"
            running = call
        else:
            assert running is not None
            assert (running.hook, running.listener, running.phase) == (call.hook, call.listener, call.phase)
            running = None
    assert running is None, f"{running} never ended"


def _grouped(log: Sequence[Call]) -> list[Group]:
    groups: list[Group] = []
    for call in log:
        last = groups[-1] if groups else None
        if call.edge != "start":
            assert last is not None
            if call.edge == "failed":
                last.failed.add(call.listener)
        elif (
            last is not None
            and (last.hook, last.phase, last.step) == (call.hook, call.phase, call.step)
            and call.listener > last.listeners[-1]
        ):
            last.listeners.append(call.listener)
        else:
            groups.append(Group(call.hook, call.phase, call.step, [call.listener]))
    return groups


def _listeners_obey(log: Sequence[Call], rules: Rules) -> dict[int, list[int]]:
    """Each listener's own calls obey the grammar; returns who begun, by hook."""
    begun: dict[int, list[int]] = {hook: [] for hook in range(len(rules.listeners))}
    for hook, count in enumerate(rules.listeners):
        for listener in range(count):
            mine = [c for c in log if (c.hook, c.listener) == (hook, listener)]
            if _obeys(mine):
                begun[hook].append(listener)
    return begun


def _obeys(calls: Sequence[Call]) -> bool:
    """Check one listener's calls; tell whether its ``begin`` returned."""
    starts = [c for c in calls if c.edge == "start"]
    if not starts:
        return False
    shown = " ".join(f"{c.phase}@{c.step}" for c in starts)
    assert starts[0].phase == "begin", shown
    if any(c.phase == "begin" and c.edge == "failed" for c in calls):
        assert len(starts) == 1, f"called after its begin failed: {shown}"
        return False
    assert starts[-1].phase == "end", f"no end: {shown}"
    pending: int | None = None
    taken = -1
    for call in starts[1:-1]:
        assert call.step is not None
        if call.phase == "before_save":
            assert call.step > taken, f"step {call.step} again after it was saved: {shown}"
            assert pending is None or call.step >= pending, f"steps go back: {shown}"
            pending = call.step
        else:
            assert call.phase == "after_save", f"{call.phase} in the middle: {shown}"
            assert call.step == pending, f"after_save without its before_save: {shown}"
            pending, taken = None, call.step
    return True


def _begin_and_end(groups: Sequence[Group], begun: Mapping[int, Sequence[int]]) -> None:
    phases = [group.phase for group in groups]
    inner = list(itertools.dropwhile(lambda phase: phase == "begin", phases))
    assert "begin" not in inner, "begin after something else"
    tail = list(itertools.dropwhile(lambda phase: phase != "end", inner))
    assert set(tail) <= {"end"}, f"calls after an end: {tail}"
    for phase in ("begin", "end"):
        hooks = [group.hook for group in groups if group.phase == phase]
        assert hooks == sorted(set(hooks)), f"{phase} out of hook order: {hooks}"
    ended = {group.hook: group.listeners for group in groups if group.phase == "end"}
    assert ended == {hook: list(who) for hook, who in begun.items() if who}


def _phases_reach_everyone(groups: Sequence[Group], begun: Mapping[int, Sequence[int]]) -> None:
    for group in groups:
        if group.phase == "after_save":
            assert group.listeners == list(begun[group.hook]), f"after_save left somebody out: {group}"
        elif group.phase == "before_save":
            assert group.listeners == list(begun[group.hook])[: len(group.listeners)], (
                f"out of order: {group}"
            )


def _rounds(groups: Sequence[Group], rules: Rules) -> None:
    """No ``before_save`` of a later round before every ``after_save`` of the earlier; hook order in both."""
    step: int | None = None
    prepared: list[int] = []
    reported: list[int] = []
    for position, group in enumerate(groups):
        if group.phase == "before_save":
            # A second round at one step is what save() and the exit take for the hooks that lack it.
            if group.step != step or group.hook <= prepared[-1]:
                step, prepared, reported = group.step, [], []
            prepared.append(group.hook)
        elif group.phase == "after_save":
            assert group.step == step, f"a later round began before {group}"
            assert group.hook in prepared, f"a later round began before {group}"
            if rules.blocking[group.hook]:
                before = groups[position - 1]
                whole = (before.hook, before.phase) == (group.hook, "before_save")
                assert whole, f"a blocking hook's sequence was interrupted before {group}"
            else:
                assert not reported or group.hook > reported[-1], f"after_save out of hook order: {group}"
                reported.append(group.hook)
