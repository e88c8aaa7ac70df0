"""What the session's tests share: an open session over a slow store, and short ways to wait."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, Saver
from tests.session.disk import SlowStore, disk_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from async_ckpt.events import Event
    from async_ckpt.storage.memory import MemoryStore

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
