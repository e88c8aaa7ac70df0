"""What the session's tests share: a store that is as slow, or as broken, as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, Saver
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.testing import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from async_ckpt.events import Event
    from async_ckpt.storage.memory import MemoryPlace
    from async_ckpt.storage.store import Pieces

__all__ = [
    "HangError",
    "SlowStore",
    "advance",
    "disk_error",
    "events_of",
    "saver_on",
    "soon",
    "training",
    "until",
    "weights",
]

E = TypeVar("E", bound="Event")
T = TypeVar("T")

#: against hangs only; no test waits for it
HUNG_SECS = 20.0


class HangError(AssertionError):
    """What a test waited for did not come."""


async def soon(awaitable: Awaitable[T], what: str = "what the test waits for") -> T:
    """Await something that has to come, in this very task; a hang becomes a failure that names it."""
    try:
        async with asyncio.timeout(HUNG_SECS):
            return await awaitable
    except TimeoutError as error:
        message = f"{what} did not come"
        raise HangError(message) from error


class SlowStore(MemoryStore):
    """A memory store with gates, closed until a test opens them, and errors a test asks for.

    ``hold("write", 4)`` returns the gate in front of the files of step 4, ``hold("commit", 4)`` the one in
    front of its rename, ``hold("add", 4)`` the one in front of its report. ``fail("write", 4)`` makes
    them raise; ``fail("committed", 4)`` raises after the rename. A step of None stands for every step.
    """

    def __init__(self, place: MemoryPlace | None = None) -> None:
        super().__init__(place, hops=False, faults=self._asked)
        #: what was done, in order: ("begin" | "write" | "commit" | "add", step)
        self.done: list[tuple[str, int | None]] = []
        self._gates: dict[tuple[str, int | None], Gate] = {}
        self._errors: dict[tuple[str, int | None], list[BaseException]] = {}
        self._steps: dict[str, int] = {}

    def hold(self, operation: str, step: int | None = None) -> Gate:
        """Close the gate in front of an operation and return it."""
        return self._gates.setdefault((operation, step), Gate())

    def fail(
        self, operation: str, step: int | None = None, *, times: int = 1, error: BaseException | None = None
    ) -> None:
        """Let the next ``times`` operations of that kind fail."""
        errors = self._errors.setdefault((operation, step), [])
        errors.extend([disk_error() if error is None else error] * times)

    async def begin(self, step: int) -> str:
        await self._pass("begin", step)
        attempt = await super().begin(step)
        self._steps[attempt] = step
        return attempt

    async def write(
        self,
        attempt: str,
        name: str,
        data: memoryview | Pieces,
        *,
        progress: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> None:
        await self._pass("write", self._steps[attempt])
        await super().write(attempt, name, data, progress=progress, stopped=stopped)

    async def commit(self, attempt: str, step: int) -> None:
        await self._pass("commit", step)
        await super().commit(attempt, step)
        self.done.append(("commit", step))

    async def add(self, step: int, name: str, data: bytes) -> None:
        await self._pass("add", step)
        await super().add(step, name, data)
        self.done.append(("add", step))

    async def _pass(self, operation: str, step: int) -> None:
        for key in ((operation, step), (operation, None)):
            if key in self._gates:
                await self._gates[key]()

    def _asked(self, operation: str, step: int | None, name: str | None) -> BaseException | None:
        del name
        for key in ((operation, step), (operation, None)):
            if self._errors.get(key):
                return self._errors[key].pop(0)
        return None


def disk_error(number: int = errno.ENOSPC) -> OSError:
    """What a full or broken disk says."""
    return OSError(number, "No space left on device" if number == errno.ENOSPC else "Input/output error")


def weights() -> dict[str, Any]:
    """A small state that can be restored in place."""
    return {"model": {"w": np.zeros(4)}}


@contextlib.asynccontextmanager
async def saver_on(store: MemoryStore, **options: Any) -> AsyncIterator[Saver]:
    """A saver for a hook; closed at the end, when the session that used it has been left."""
    async with Saver(store, **options) as saver:
        yield saver


@contextlib.asynccontextmanager
async def training(
    store: MemoryStore,
    *,
    state: Any = None,
    session_options: dict[str, Any] | None = None,
    **hook_options: Any,
) -> AsyncIterator[MonitoredTrainingSession]:
    """An open session with one saver hook on ``store``, by default one that saves every second step."""
    if not {"save_secs", "save_when"} & hook_options.keys():
        hook_options.setdefault("save_steps", 2)
    hook_options.setdefault("initial_save", "never")
    async with saver_on(store) as saver:
        hook = CheckpointSaverHook(saver, weights() if state is None else state, **hook_options)
        async with MonitoredTrainingSession(hooks=[hook], **(session_options or {})) as session:
            yield session


async def until(holds: Callable[[], object]) -> None:
    """Give the loop turns until ``holds()``."""

    async def turns() -> None:
        while not holds():
            await asyncio.sleep(0)

    await soon(turns(), "the state the test waits for")


async def advance(session: MonitoredTrainingSession, steps: int) -> None:
    """That many steps of one each; a step that never ends is a failure."""
    for _ in range(steps):
        await soon(session.advance(), f"the boundary behind step {session.global_step}")


def events_of(session: MonitoredTrainingSession, kind: type[E]) -> list[E]:
    """A list that grows with every event of ``kind`` from now on."""
    seen: list[E] = []
    session.subscribe(lambda event: seen.append(event) if isinstance(event, kind) else None)
    return seen
