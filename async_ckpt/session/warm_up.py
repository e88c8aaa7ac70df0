"""Making ready for the first saves while the first steps run: places planned, memory touched.

The state is looked at before the entry ends, when no step can be changing it, and only where that runs no
code of the user's: a callable may have side effects, and ``state_dict()`` may be a meeting of many processes.
The first save of such a state plans for itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from async_ckpt.runtime.runner import SaveRunner
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.state.nodes import is_stateful, open_node
from async_ckpt.state.tree import Flat
from async_ckpt.system.threads import spawn

if TYPE_CHECKING:
    from async_ckpt.session.boundary import Place
    from async_ckpt.session.host import SessionHost

__all__ = ["WarmUp"]

logger = logging.getLogger("async_ckpt")


class WarmUp:
    """The preparations of one session, in tasks that end with it.

    A failure is only noted: the first save will meet it too, and say so where it can be heard.
    """

    def __init__(self, host: SessionHost) -> None:
        self._host = host
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, places: Iterable[Place]) -> None:
        """Begin for every saver hook that has not saved yet, and whose state may be looked at.

        Cancellation: what was begun goes on until :meth:`stop`.
        """
        for place in places:
            runner, hook = place.runner, place.hook
            if runner is None or not isinstance(hook, CheckpointSaverHook) or hook.is_callable:
                continue
            if runner.attempt is not None and runner.attempt.pending is not None:
                continue  # the initial save has done it
            flat = await self._read(runner, hook.state)
            if flat is not None:
                preparing = _prepared(runner, flat)
                task = spawn(preparing, name=f"async_ckpt prepare {runner.directory}")
                while task not in self._tasks:
                    try:
                        self._tasks.append(task)
                    except MemoryError:
                        task.cancel()  # it runs, so it has to be known to whoever waits for its end

    def cancel(self) -> None:
        """Have them end as soon as they can."""
        for task in self._tasks:
            task.cancel()

    @property
    def under_way(self) -> bool:
        """Whether one has not ended yet."""
        return not all(task.done() for task in self._tasks)

    async def ended(self) -> None:
        """Wait until the last one has ended."""
        await asyncio.wait(self._tasks)

    async def _read(self, runner: SaveRunner, state: Any) -> Flat | None:
        def look() -> Flat | None:
            return None if _runs_code(state) else runner.saver._flatten(state)

        try:
            return await self._host.in_state_thread(look, bound=False)
        except Exception as error:  # noqa: BLE001 - see the class
            _note(runner, error)
            return None


async def _prepared(runner: SaveRunner, flat: Flat) -> None:
    try:
        await runner.saver._prepare_flat(flat)
    except Exception as error:  # noqa: BLE001 - see the class
        _note(runner, error)


def _note(runner: SaveRunner, error: Exception) -> None:
    logger.debug("%s could not be made ready for", runner.directory, exc_info=error)


def _runs_code(state: Any) -> bool:
    """Whether an object with ``state_dict()`` stands anywhere in ``state``."""
    left = [state]
    while left:
        value = left.pop()
        if is_stateful(value):
            return True
        branch = open_node(value, "")
        if branch is not None:
            left.extend(branch.children)
    return False
