"""The real thing under the model: one directory, a session in it, and somebody who looks from outside."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession, Saver
from async_ckpt.storage.names import step_name
from tests.reliability.inline import InlineLoop

__all__ = ["Driver", "Gone", "state_of"]

T = TypeVar("T")


class Gone(Exception):  # noqa: N818 - what ends a life early, and no fault of anybody
    """The process is no more, as far as the directory is concerned."""


def state_of(code: int) -> dict[str, Any]:
    """Give the state that is saved under a code."""
    return {"model": {"w": np.full(3, float(code))}, "optimizer": {"m": np.full(2, code)}, "code": [code]}


class _Listener(CheckpointSaverListener):
    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    async def begin(self) -> None:
        self.driver.calls["begin"] += 1

    async def after_save(self, session: Any, step: int) -> bool:
        self.driver.reports.append(step)
        return self.driver.votes

    async def end(self, session: Any, step: int) -> None:
        self.driver.calls["end"] += 1


class Driver:
    """Does what it is told, on a loop whose threads are calls.

    A session belongs to the task that entered it, so all that is done to it is done by one task.

    Attributes:
        base: Where the directory lies, under a new name after each crash.
        root: The directory.
        state: The live state.
        session: The open session, or None.
        votes: What the listener returns from now on.
        reports: The steps of the calls of ``after_save``.
        calls: How often the listener's ``begin`` and ``end`` were called in this life.
    """

    def __init__(self, base: Path, *, keep: int | None, blocking: bool) -> None:
        self.base = base
        self.keep = keep
        self.blocking = blocking
        self.loop = InlineLoop()
        self.number = 0
        self.root = base / "runs-0"
        self.state = state_of(0)
        self.session: MonitoredTrainingSession | None = None
        self.saver: Saver | None = None
        self.outside = Saver(self.root)
        self.votes = self.wanted = False
        self.reports: list[int] = []
        self.calls = {"begin": 0, "end": 0}
        self._asked: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = asyncio.Queue()
        self._actor = self.loop.create_task(self._act())

    async def _act(self) -> None:
        while True:
            work, answer = await self._asked.get()
            try:
                answer.set_result(await work())
            except Exception as error:
                answer.set_exception(error)

    def ask(self, work: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Have the session's task do something."""
        answer: asyncio.Future[T] = self.loop.create_future()
        self._asked.put_nowait((work, answer))
        return answer

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the session's task do something, and wait for it."""
        return self.loop.run_until_complete(self.ask(work))

    def turn(self, times: int) -> None:
        """Let the loop go on for a while."""

        async def turns() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    # -- a life --------------------------------------------------------------------------------------

    def enter(self) -> MonitoredTrainingSession:
        """Begin a life; raises what the entry raised."""
        self.state, self.wanted = state_of(0), False
        self.calls.update(begin=0, end=0)
        saver_hook = CheckpointSaverHook(
            self.root,
            self.state,
            save_when=lambda _: self.wanted,
            initial_save="never",
            listeners=[_Listener(self)],
            max_to_keep=self.keep,
            blocking=self.blocking,
        )
        self.saver = saver_hook.saver
        session = MonitoredTrainingSession(hooks=[saver_hook])
        self.do(session.__aenter__)
        self.session = session
        return session

    async def step(self, code: int, *, saves: bool) -> None:
        """One step, and all that follows from it."""
        session = self.session
        assert session is not None
        if not session.should_stop():
            self.change(code)
        self.wanted = saves
        try:
            await session.advance()
            await session.drain()
        finally:
            self.wanted = False

    def change(self, code: int) -> None:
        """Make the live state another one."""
        new = state_of(code)
        self.state["model"]["w"][:] = new["model"]["w"]
        self.state["optimizer"]["m"][:] = new["optimizer"]["m"]
        self.state["code"][0] = code

    def leave(self, error: BaseException | None = None) -> None:
        """End a life."""
        session, self.session, self.saver = self.session, None, None
        assert session is not None
        kind = None if error is None else type(error)
        self.do(lambda: session.__aexit__(kind, error, None))

    def crash(self) -> None:
        """Go on with the directory as it is at this moment, with all that is half done in it."""
        self.number += 1
        here, self.root = self.root, self.base / f"runs-{self.number}"
        shutil.copytree(here, self.root)
        for lease in self.root.glob(".pins/lease-*"):
            assert lease.stat().st_size == 0
        # The life goes on beside it, where it changes nothing any more.
        self.leave(Gone())
        shutil.rmtree(here)
        self.reopen_outside()

    # -- from outside --------------------------------------------------------------------------------

    def look(self, work: Callable[[Saver], Awaitable[T]]) -> T:
        """Ask a saver that only reads, or that writes while no session does."""

        async def asked() -> T:
            return await work(self.outside)

        return self.loop.run_until_complete(asked())

    def reopen_outside(self) -> None:
        """Let go of what the one outside may hold: to delete, it became a writer."""
        self.loop.run_until_complete(self.outside.aclose())
        self.outside = Saver(self.root)

    def file(self, step: int, name: str) -> Path:
        """Where a file of a checkpoint lies."""
        return self.root / step_name(step) / name

    def close(self) -> None:
        """End everything, whatever was going on."""
        try:
            if self.session is not None:
                self.leave(Gone())
            self.loop.run_until_complete(self.outside.aclose())
        finally:
            self._actor.cancel()
            self.loop.run_until_complete(asyncio.wait([self._actor]))
            self.loop.close()
            shutil.rmtree(self.root, ignore_errors=True)
