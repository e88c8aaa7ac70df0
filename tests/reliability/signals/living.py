"""Runs of a session in forked processes, signalled from outside; what :func:`nursery.ask` calls."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession, Saver
from async_ckpt.events import Event, SaveCommitted
from tests.reliability.tracing.nursery import desk, say

__all__ = ["KINDS", "main"]

KINDS = ("SIGTERM", "SIGINT", "twice", "stop")
"""One signal; two of them, the second at once or a little later; a stop that is continued."""

STEPS = 12
INTERRUPTED = 130
PATIENCE_SECS = 60.0


class Listener(CheckpointSaverListener):
    """Takes a moment for everything, so that a signal can come in the middle."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    async def begin(self) -> None:
        await self._moment("begin")

    async def before_save(self, session: Any, global_step_value: int) -> None:
        await self._moment("before_save")

    async def after_save(self, session: Any, global_step_value: int) -> None:
        await self._moment("after_save")

    async def end(self, session: Any, global_step_value: int) -> None:
        await self._moment("end")

    async def _moment(self, phase: str) -> None:
        self._tell(f"inside {phase}")
        await asyncio.sleep(0.001)


async def train(directory: Path, tell: Callable[[str], object]) -> None:
    """Train to the last step, or until told to stop; every event is a line."""
    state: dict[str, Any] = {"at": np.zeros(1000), "step": [0]}
    listener = Listener(tell)
    hook = CheckpointSaverHook(directory, state, save_steps=3, listeners=[listener], max_to_keep=2)
    session = MonitoredTrainingSession(
        chief_only_hooks=[hook], handle_signals=(signal.SIGTERM, signal.SIGINT), grace_secs=20
    )

    def observe(event: Event) -> None:
        if isinstance(event, SaveCommitted):
            tell(f"committed {event.step}")
        else:
            tell(type(event).__name__)

    async def step() -> None:
        await asyncio.sleep(0.001)
        state["at"] += 1
        state["step"][0] += 1

    session.subscribe(observe, kinds=[Event])
    async with session:
        while not session.should_stop() and session.global_step < STEPS:
            await session.run(step)
    tell(f"left {session.global_step}")


def main(text: str) -> None:
    """Live as often as the question says; answer with what was counted, or die with what went wrong."""
    question: dict[str, Any] = json.loads(text)
    outcomes: Counter[str] = Counter()
    with desk(question["place"]) as place:
        for number in range(question["first"], question["first"] + question["lives"]):
            rng = random.Random(f"{question['seed']} {number}")
            kind = KINDS[number % len(KINDS)]
            # Every second one at an event, in turn; the others at any moment.
            at = number // (2 * len(KINDS)) if number // len(KINDS) % 2 else None
            try:
                outcomes[_live(place._base / f"run-{number}", kind, at, rng)] += 1
            except BaseException as error:
                error.add_note(f"life {number} of seed {question['seed']}: {kind}, at line {at}")
                raise
    say(dict(outcomes))


def _live(directory: Path, kind: str, at: int | None, rng: random.Random) -> str:
    listening, pipe = os.pipe()
    make = rng.choice((asyncio.new_event_loop, uvloop.new_event_loop))
    child = os.fork()
    if child == 0:
        os.close(listening)
        os._exit(_child(directory, pipe, make))
    os.close(pipe)
    lines: list[str] = []
    try:
        with os.fdopen(listening, "rb", buffering=0) as heard:
            _hear(heard.fileno(), lines, until=at, secs=rng.random() * 0.15 if at is None else PATIENCE_SECS)
            _signal(child, kind, rng)
            _hear(heard.fileno(), lines, until=None, secs=PATIENCE_SECS)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        child = 0
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return _judge(directory, kind, lines, code)


def _child(directory: Path, pipe: int, make: Callable[[], asyncio.AbstractEventLoop]) -> int:
    try:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(train(directory, lambda line: os.write(pipe, f"{line}\n".encode())))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BaseException as error:
        os.write(pipe, f"error {error!r}\n".encode())
        return 1
    return 0


def _hear(fd: int, lines: list[str], *, until: int | None, secs: float) -> None:
    """Read lines until there are more than ``until``, the writer ends, or the time is over."""
    deadline, rest = time.monotonic() + secs, b""
    while until is None or len(lines) <= until:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return
        data = os.read(fd, 1 if until is not None else 65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        lines += [line.decode() for line in whole]


def _signal(child: int, kind: str, rng: random.Random) -> None:
    first = rng.choice((signal.SIGTERM, signal.SIGINT)) if kind == "twice" else None
    if kind == "stop":
        os.kill(child, signal.SIGSTOP)
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGCONT)
    elif first is not None:
        os.kill(child, first)
        time.sleep(rng.choice((0.0, 0.001, 0.005)))
        os.kill(child, first)
    else:
        os.kill(child, signal.Signals[kind])


def _judge(directory: Path, kind: str, lines: list[str], code: int) -> str:
    shown = f"exit {code}: {lines[-12:]}"
    errors = [line for line in lines if line.startswith("error")]
    assert not errors, errors
    committed = [int(line.split()[1]) for line in lines if line.startswith("committed")]
    left = [int(line.split()[1]) for line in lines if line.startswith("left")]
    found = asyncio.run(_found(directory)) if directory.exists() else []
    assert not committed or found, f"committed {committed}, nothing there; {shown}"
    assert not committed or max(found) >= max(committed), f"committed {committed}, there {found}; {shown}"
    assert lines.count("inside begin") <= 1, shown
    assert lines.count("inside end") <= 1, shown
    if code == 0:
        assert left, shown
        assert found, shown
        assert max(found) == left[0], f"left at {left}, there {found}; {shown}"
        assert kind != "stop" or left == [STEPS], shown
        return "stopped" if left[0] < STEPS else "done"
    # Before the session has taken the signals over, or once it has given them back, they end the process.
    early = "SessionBegan" not in lines or bool(left) or "SessionEnded" in lines
    assert kind == "twice" or early, shown
    assert code == INTERRUPTED or (early and code == -signal.SIGTERM) or kind == "twice", shown
    return "interrupted" if kind == "twice" else "outside"


async def _found(directory: Path) -> list[int]:
    async with Saver(directory) as saver:
        steps = await saver._store.steps()
        for step in steps:
            await saver.verify(step)
            state = (await saver.restore(step)).state
            assert state["step"] == [step]
            assert (state["at"] == step).all()
        return steps
