"""Runs one scenario on one simulated schedule and hands back what its listeners saw."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from async_ckpt import (
    CheckpointSaverHook,
    ListenerError,
    MonitoredTrainingSession,
    ProtocolError,
    SaveError,
    Saver,
    SessionRunHook,
    SessionStopped,
    StepRun,
    events,
)
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.testing import FakeClock, SimLoop, run_sim
from tests.determinism.grammar import Call, Rules
from tests.determinism.scenario import HookPlan, ListenerPlan, Scenario

__all__ = ["Run", "play"]

HAS_EAGER_TASKS = sys.version_info >= (3, 12)


class Boom(Exception):  # noqa: N818 - a name to be recognised by
    """What fails in a scenario."""


OUTCOMES = (events.SaveCommitted, events.SaveFailed, events.SaveUnknown)
EXPECTED = (Boom, ListenerError, SaveError, SessionStopped, asyncio.CancelledError)


@dataclass(slots=True)
class Run:
    """What came of one run.

    Attributes:
        log: The edges of all callbacks, in order.
        rules: What the grammar has to know.
        stopped_at: The step counter at the end.
        error: What left the session, or None.
        main_steps: How many steps the main task took.
        steps: How many steps the loop took.
        stores: What the saver hooks saved to, in hook order.
        outcomes: How the saves ended, as the observers were told.
        votes: Who had voted by the end, and after which save first, as the session says.
        left: Attempts that were still in a store when their save was said to have ended.
    """

    log: list[Call]
    rules: Rules
    stopped_at: int = 0
    error: BaseException | None = None
    main_steps: int = 0
    steps: int = 0
    stores: list[MemoryStore] = field(default_factory=list)
    outcomes: list[events.Event] = field(default_factory=list)
    votes: set[tuple[str, int]] = field(default_factory=set)
    left: list[str] = field(default_factory=list)

    def told(self, event: events.Event) -> None:
        """Take down how a save ended."""
        self.outcomes.append(event)
        for store in self.stores:
            if store.location == getattr(event, "directory", None):
                self.left += [f"step {attempt.step}" for attempt in store.place.attempts.values()]

    @property
    def sequence(self) -> list[tuple[int, int, str, int | None]]:
        """The calls in order, without their ends."""
        return [(c.hook, c.listener, c.phase, c.step) for c in self.log if c.edge == "start"]


@dataclass(slots=True)
class _World:
    scenario: Scenario
    rng: random.Random
    run: Run
    clock: FakeClock = field(default_factory=FakeClock)
    state: dict[str, Any] = field(default_factory=lambda: {"weights": np.zeros(2), "at": [0]})
    calls: Counter[tuple[int, int, str]] = field(default_factory=Counter)

    def delay(self) -> float:
        return self.rng.choice((0.0, 0.0, 0.001, 0.01, 0.1))


class _Listener:
    def __init__(self, world: _World, hook: int, index: int, plan: ListenerPlan) -> None:
        self.world, self.hook, self.index, self.plan = world, hook, index, plan
        self.name = f"{hook}.{index}"

    def note(self, phase: str, step: int | None, edge: str) -> None:
        self.world.run.log.append(Call(self.hook, self.index, phase, step, edge))

    def fail(self, phase: str) -> None:
        self.world.calls[self.hook, self.index, phase] += 1
        if self.plan.fails == (phase, self.world.calls[self.hook, self.index, phase]):
            raise Boom(phase)

    def vote(self, step: int) -> bool:
        return self.plan.vote_at is not None and step >= self.plan.vote_at


class _CoroutineListener(_Listener):
    async def begin(self) -> None:
        await self._called("begin", None)

    async def before_save(self, session: MonitoredTrainingSession, step: int) -> None:
        await self._called("before_save", step)

    async def after_save(self, session: MonitoredTrainingSession, step: int) -> bool:
        saved = None
        if self.index == 0:
            saved = await session.saved_state()
        await self._called("after_save", step)
        if saved is not None:
            # Training may be steps ahead by now: this is the checkpoint, and not a mixture.
            assert saved["at"] == [step]
            assert saved["weights"].tolist() == [step, step]
        return self.vote(step)

    async def end(self, session: MonitoredTrainingSession, step: int) -> None:
        await self._called("end", step)

    async def _called(self, phase: str, step: int | None) -> None:
        self.note(phase, step, "start")
        try:
            delay = self.world.delay()
            if delay:
                await asyncio.sleep(delay)
            self.fail(phase)
        except BaseException:
            self.note(phase, step, "failed")
            raise
        self.note(phase, step, "done")


class _PlainListener(_Listener):
    def begin(self) -> None:
        self._called("begin", None)

    def before_save(self, session: MonitoredTrainingSession, step: int) -> None:
        self._called("before_save", step)

    def after_save(self, session: MonitoredTrainingSession, step: int) -> bool:
        self._called("after_save", step)
        return self.vote(step)

    def end(self, session: MonitoredTrainingSession, step: int) -> None:
        self._called("end", step)

    def _called(self, phase: str, step: int | None) -> None:
        self.note(phase, step, "start")
        try:
            self.fail(phase)
        except Boom:
            self.note(phase, step, "failed")
            raise
        self.note(phase, step, "done")


class _Check(SessionRunHook):
    def __init__(self, at: int) -> None:
        self.at = at

    async def check(self, run: StepRun) -> None:
        if run.step == self.at:
            raise Boom("check")


def play(scenario: Scenario, seed: int, *, cancel_at: int | Collection[int] | None = None) -> Run:
    """Run ``scenario`` on schedule ``seed``: a fast or slow disk, eager tasks where there are any."""
    rng = random.Random(seed)
    plans = scenario.hooks
    committed: dict[int, list[int]] = {index: [] for index in range(len(plans))}
    rules = Rules([len(plan.listeners) for plan in plans], [plan.blocking for plan in plans], committed)
    world = _World(scenario, rng, Run([], rules))
    options: dict[str, Any] = {
        "thread_secs": (0.0, rng.choice((0.0002, 0.002, 0.02, 0.2))),
        "eager": HAS_EAGER_TASKS and rng.random() < 0.5,
        "cancel_at": cancel_at,
    }

    async def main() -> None:
        try:
            await _train(world)
        finally:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimLoop)
            world.run.main_steps, world.run.steps = loop.main_steps, loop.steps

    try:
        run_sim(main, seed, **options)
    except EXPECTED as error:
        world.run.error = error
    return world.run


def _hook(world: _World, index: int, plan: HookPlan, saver: Saver) -> CheckpointSaverHook:
    return CheckpointSaverHook(
        saver,
        world.state,
        save_steps=plan.save_steps,
        save_secs=plan.save_secs,
        listeners=[
            (_PlainListener if spec.plain else _CoroutineListener)(world, index, number, spec)
            for number, spec in enumerate(plan.listeners)
        ],
        when_busy=plan.when_busy,
        honor_stop=plan.honor_stop,
        blocking=plan.blocking,
        initial_save=plan.initial_save,
        on_listener_error=plan.on_listener_error,
        on_save_error=plan.on_save_error,
        listener_timeout_secs=plan.listener_timeout_secs,
    )


def _store(world: _World, index: int, plan: HookPlan) -> MemoryStore:
    calls: Counter[str] = Counter()

    def faults(operation: str, step: int | None, name: str | None) -> BaseException | None:
        calls[operation] += 1
        if (operation, calls[operation]) in plan.faults:
            return OSError(errno.EIO, "Input/output error")
        if operation == "committed" and step is not None:
            committed = world.run.rules.committed[index]
            assert isinstance(committed, list)
            committed.append(step)
        return None

    return MemoryStore(hops=world.rng.random() < 0.08, faults=faults)


async def _train(world: _World) -> None:
    scenario = world.scenario
    async with contextlib.AsyncExitStack() as stack:
        hooks: list[SessionRunHook] = []
        for index, plan in enumerate(scenario.hooks):
            world.run.stores.append(_store(world, index, plan))
            saver = Saver(world.run.stores[-1], max_to_keep=None, staging=plan.staging)
            hooks.append(_hook(world, index, plan, await stack.enter_async_context(saver)))
        if scenario.check_raises_at is not None:
            hooks.append(_Check(scenario.check_raises_at))
        session = MonitoredTrainingSession(
            hooks=hooks, final_save=scenario.final_save, grace_secs=1e6, clock=world.clock
        )
        session.subscribe(world.run.told, kinds=OUTCOMES)
        others = _others(world, session)
        try:
            async with session:
                await _loop(world, session)
        finally:
            world.run.stopped_at = session.global_step
            world.run.votes = {(vote.listener, vote.step) for vote in session.votes}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others)


async def _loop(world: _World, session: MonitoredTrainingSession) -> None:
    scenario = world.scenario
    while session.global_step < scenario.steps and not session.should_stop():
        try:
            await _step(world, session)
            if session.global_step == scenario.save_at and not session.should_stop():
                await session.save()
        except (ListenerError, SaveError):
            if not scenario.catches:
                raise


async def _step(world: _World, session: MonitoredTrainingSession) -> None:
    scenario, number = world.scenario, session.global_step + 1
    world.clock.advance(1)

    def train() -> None:
        if number == scenario.raise_at:
            raise Boom("step")
        world.state["at"][0] = number
        world.state["weights"] += number - world.state["weights"]

    async def train_slowly() -> None:
        await asyncio.sleep(world.delay())
        train()

    if scenario.drive == "plain":
        await session.run(train)
    elif scenario.drive == "coroutine":
        await session.run(train_slowly)
    else:
        async with session.mutating():
            train()
        await session.advance()


def _others(world: _World, session: MonitoredTrainingSession) -> list[asyncio.Task[None]]:
    scenario, main = world.scenario, asyncio.current_task()
    assert main is not None

    async def save() -> None:
        for _ in range(2):
            await asyncio.sleep(world.delay())
            with contextlib.suppress(ListenerError, SaveError, ProtocolError):
                await session.save()

    async def cancel() -> None:
        for _ in range(scenario.cancels):
            await asyncio.sleep(world.rng.random() * 0.2)
            main.cancel()

    chosen = [save] * scenario.rival_saves + [cancel] * bool(scenario.cancels)
    return [asyncio.create_task(work(), name=work.__name__) for work in chosen]
