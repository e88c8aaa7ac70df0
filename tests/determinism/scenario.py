"""What is run: scenarios drawn from a number, so that a number is all it takes to run one again."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Family", "HookPlan", "ListenerPlan", "Scenario", "draw"]

Family = Literal["calm", "rough"]


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """One listener: how it is written, when it votes, what it fails at."""

    plain: bool = False
    vote_at: int | None = None
    fails: tuple[str, int] | None = None  # phase, number of the call


@dataclass(frozen=True, slots=True)
class HookPlan:
    """One saver hook and its store."""

    listeners: tuple[ListenerPlan, ...]
    save_steps: int | None = 2
    save_secs: float | None = None
    when_busy: Literal["wait", "skip", "coalesce"] = "wait"
    honor_stop: Literal["next_step", "next_save"] = "next_step"
    blocking: bool = False
    staging: Literal["copy", "overlap"] = "copy"
    initial_save: Literal["fresh", "always", "never"] = "fresh"
    on_listener_error: Literal["raise", "log"] = "raise"
    on_save_error: Literal["raise", "warn"] = "raise"
    listener_timeout_secs: float | None = None
    faults: tuple[tuple[str, int], ...] = ()  # store operation, number of the call


@dataclass(frozen=True, slots=True)
class Scenario:
    """A training run."""

    hooks: tuple[HookPlan, ...]
    steps: int
    drive: Literal["advance", "coroutine", "plain"] = "advance"
    final_save: Literal["clean", "never", "always"] = "clean"
    save_at: int | None = None  # session.save() by the loop itself, behind this step
    rival_saves: bool = False  # session.save() by another task, whenever
    raise_at: int | None = None  # the step function raises
    check_raises_at: int | None = None  # a hook's check raises
    catches: bool = False  # the loop goes on after errors of background work
    cancels: int = 0  # how often another task cancels the run


def draw(family: Family, number: int) -> Scenario:
    """Draw scenario ``number``; the same one every time."""
    rng = random.Random(f"{family} {number}")
    return _calm(rng) if family == "calm" else _rough(rng)


def _calm(rng: random.Random) -> Scenario:
    """Nothing fails, nothing is dropped: whatever the schedule, the same calls in the same order."""
    # Small on purpose: ten thousand small runs find more than a thousand large ones.
    voting = rng.random() < 0.4
    steps = rng.choice([2, 2, 3])
    hooks = []
    for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 2, 3])):
        listeners = tuple(ListenerPlan(plain=rng.random() < 0.25) for _ in range(rng.choice([1, 1, 2])))
        by_time = not voting and rng.random() < 0.2
        hooks.append(
            HookPlan(
                listeners,
                save_steps=None if by_time else rng.choice([1, 2, 2, 2, 3, 3]),
                save_secs=2.0 if by_time else None,
                honor_stop="next_save" if voting else "next_step",
                blocking=rng.random() < 0.2,
                staging=rng.choice(["copy", "copy", "overlap"]),
                initial_save=rng.choice(["fresh", "never", "never", "never"]),
            )
        )
    if voting:
        # With two or three steps to the next save, honouring the vote too early shows as an earlier stop.
        every, vote_at = rng.choice([(1, 1), (2, 0), (2, 0), (3, 0), (2, 2)])
        listeners = (ListenerPlan(vote_at=vote_at), *hooks[0].listeners[1:])
        first: Literal["fresh", "never"] = "never" if vote_at else "fresh"
        hooks[0] = replace(hooks[0], listeners=listeners, save_steps=every, initial_save=first)
        steps = vote_at + every + 1
    return Scenario(
        tuple(hooks),
        steps,
        drive=rng.choice(["advance", "coroutine", "coroutine", "plain"]),
        final_save=rng.choice(["clean", "never"]),
        save_at=rng.randint(1, steps) if rng.random() < 0.15 else None,
    )


def _rough(rng: random.Random) -> Scenario:
    """Anything may fail or be cut short: the grammar holds all the same."""
    steps = rng.choice([2, 2, 3])
    hooks = tuple(_rough_hook(rng, steps) for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 2, 3])))
    return Scenario(
        hooks,
        steps,
        drive=rng.choice(["advance", "coroutine", "plain"]),
        final_save=rng.choice(["clean", "never", "always"]),
        save_at=rng.randint(1, steps) if rng.random() < 0.1 else None,
        rival_saves=rng.random() < 0.15,
        raise_at=rng.randint(1, steps) if rng.random() < 0.1 else None,
        check_raises_at=rng.randint(1, steps) if rng.random() < 0.1 else None,
        catches=rng.random() < 0.6,
        cancels=rng.choice([0, 0, 0, 0, 1, 2]),
    )


def _rough_hook(rng: random.Random, steps: int) -> HookPlan:
    listeners = tuple(
        ListenerPlan(
            plain=rng.random() < 0.2,
            vote_at=rng.randint(0, steps) if rng.random() < 0.2 else None,
            fails=(rng.choice(["begin", "before_save", "after_save", "end"]), rng.randint(1, 2))
            if rng.random() < 0.2
            else None,
        )
        for _ in range(rng.choice([1, 1, 2]))
    )
    by_time = rng.random() < 0.15
    when_busy: Literal["wait", "skip", "coalesce"] = rng.choice(["wait", "wait", "skip", "coalesce"])
    grid = not by_time and when_busy == "wait"
    return HookPlan(
        listeners,
        save_steps=None if by_time else rng.choice([1, 1, 2, 2, 2, 3]),
        save_secs=2.0 if by_time else None,
        when_busy=when_busy,
        honor_stop="next_save" if grid and rng.random() < 0.3 else "next_step",
        blocking=rng.random() < 0.15,
        staging=rng.choice(["copy", "overlap"]),
        initial_save=rng.choice(["fresh", "never", "never", "always"]),
        on_listener_error=rng.choice(["raise", "log"]),
        on_save_error=rng.choice(["raise", "warn"]),
        listener_timeout_secs=0.02 if rng.random() < 0.15 else None,
        faults=tuple(
            (rng.choice(["begin", "write", "commit", "committed", "add"]), rng.randint(1, 4))
            for _ in range(rng.choice([0, 0, 0, 1, 2]))
        ),
    )
