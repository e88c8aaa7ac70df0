"""What the session's tests share: a disk whose operations wait at gates, and short ways to say things."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, Saver
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.names import MANIFEST
from async_ckpt.storage.store import Pieces
from async_ckpt.testing import Gate

__all__ = ["Disk", "Weights", "hang_guard", "others_ended", "saved_values", "saver_hook"]


class Disk(LocalStore):
    """A real directory whose operations a test holds, fails and counts.

    Operations are ``"begin"``, ``"write"`` (a tensor file), ``"manifest"``, ``"commit"``, ``"add"`` and
    ``"remove"``; the log has ``(operation, step)`` as each begins, gates and errors come before it is
    carried out, and ``"committed"`` is logged when a commit is through.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.log: list[tuple[str, int]] = []
        self._gates: dict[str, Gate] = {}
        self._errors: dict[str, list[BaseException]] = {}
        self._steps_of: dict[str, int] = {}
        self._in_thread: tuple[threading.Event, threading.Event] | None = None

    def hold(self, operation: str) -> Gate:
        """Hold every such operation from now on, until the gate is opened."""
        return self._gates.setdefault(operation, Gate())

    def fail(self, operation: str, *errors: BaseException) -> None:
        """Let the next operations of that kind fail, one error each."""
        self._errors.setdefault(operation, []).extend(errors)

    def hold_thread(self) -> tuple[threading.Event, threading.Event]:
        """Hold the writing thread of the next large file: ``(it is there, let it go on)``."""
        self._in_thread = (threading.Event(), threading.Event())
        return self._in_thread

    async def _pass(self, operation: str, step: int) -> None:
        self.log.append((operation, step))
        if operation in self._gates:
            await self._gates[operation]()
        if errors := self._errors.get(operation):
            raise errors.pop(0)

    async def begin(self, step: int) -> str:
        await self._pass("begin", step)
        attempt = await super().begin(step)
        self._steps_of[attempt] = step
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
        await self._pass("manifest" if name == MANIFEST else "write", self._steps_of[attempt])
        held, self._in_thread = (self._in_thread, None) if name != MANIFEST else (None, self._in_thread)

        def stopped_or_held() -> bool:
            if held is not None:
                held[0].set()
                assert held[1].wait(60)
            return stopped()

        await super().write(attempt, name, data, progress=progress, stopped=stopped_or_held)

    async def commit(self, attempt: str, step: int) -> None:
        await self._pass("commit", step)
        await super().commit(attempt, step)
        self.log.append(("committed", step))

    async def add(self, step: int, name: str, data: bytes) -> None:
        await self._pass("add", step)
        await super().add(step, name, data)

    async def remove(self, step: int) -> bool:
        await self._pass("remove", step)
        return await super().remove(step)


class Weights:
    """A state of one array and one plain value, both of which say at which step they were."""

    def __init__(self, size: int = 64) -> None:
        self.tree: dict[str, Any] = {"model": {"w": np.zeros(size)}, "at": [0]}

    def train(self) -> int:
        """One step, in whatever thread."""
        self.tree["at"][0] += 1
        self.tree["model"]["w"][...] = self.tree["at"][0]
        return int(self.tree["at"][0])

    async def atrain(self) -> int:
        """One step on the loop."""
        return self.train()


def saver_hook(where: Path | Disk, state: Any, **options: Any) -> CheckpointSaverHook:
    """A saver hook over a directory or a disk of ours; it owns its saver either way."""
    if not options.keys() & {"save_secs", "save_steps", "save_when"}:
        options["save_steps"] = 1000
    tree = state.tree if isinstance(state, Weights) else state
    hook = CheckpointSaverHook(where.location if isinstance(where, Disk) else where, tree, **options)
    if isinstance(where, Disk):
        kept = {name: options[name] for name in ("max_to_keep", "keep", "staging") if name in options}
        hook.saver = Saver(where, **kept)
    return hook


async def saved_values(directory: Path) -> dict[int, float]:
    """Step to the value of the weights for every valid checkpoint in ``directory``."""
    async with Saver(directory) as saver:
        found = {}
        for checkpoint in await saver.checkpoints():
            state = (await saver.restore(checkpoint.step)).state
            values = set(state["model"]["w"].tolist())
            assert len(values) == 1, f"step {checkpoint.step} is torn: {values}"
            assert state["at"] == [values.pop()]
            found[checkpoint.step] = float(state["at"][0])
        return found


async def others_ended() -> None:
    """Wait until the calling task is the only one: what was abandoned has come to its end."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


def hang_guard() -> AbstractAsyncContextManager[Any]:
    """Far longer than anything takes; only a hang gets there."""
    return asyncio.timeout(15)
