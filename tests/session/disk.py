"""What the session's tests share: stores that are slow or broken as told, and short ways to say things."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, Saver
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.memory import MemoryPlace, MemoryStore
from async_ckpt.storage.names import MANIFEST, step_name
from async_ckpt.storage.store import Pieces
from async_ckpt.storage.writing import save_errors
from async_ckpt.testing import Gate

__all__ = [
    "Disk",
    "SlowStore",
    "Weights",
    "disk_error",
    "hang_guard",
    "others_ended",
    "saved_values",
    "saver_hook",
]

#: some store; a test chooses which
_AnyStore: Any = object


def disk_error(number: int = errno.ENOSPC) -> OSError:
    """What a full or broken disk says."""
    return OSError(number, "No space left on device" if number == errno.ENOSPC else "Input/output error")


class _Slow(_AnyStore):  # type: ignore[misc]
    """Before a real store: its operations are held, fail and are written down as a test says.

    Operations are ``"begin"``, ``"write"`` (a tensor file), ``"manifest"``, ``"commit"``, ``"add"`` and
    ``"remove"``. Gates and errors come before an operation is carried out; ``"committed"`` fails behind
    the rename. A step of None stands for every step.

    Attributes:
        log: ``(operation, step)`` as each begins, and ``("committed", step)`` when a commit is through.
        done: ``("commit", step)`` and ``("add", step)`` when they are through.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.log: list[tuple[str, int]] = []
        self.done: list[tuple[str, int]] = []
        self._held: dict[tuple[str, int | None], Gate] = {}
        self._failing: dict[tuple[str, int | None], list[BaseException]] = {}
        self._steps_of: dict[str, int] = {}
        self._in_thread: tuple[threading.Event, threading.Event] | None = None

    def hold(self, operation: str, step: int | None = None) -> Gate:
        """Hold every such operation from now on, until the gate is opened."""
        return self._held.setdefault((operation, step), Gate())

    def fail(
        self, operation: str, step: int | None = None, *, times: int = 1, error: BaseException | None = None
    ) -> None:
        """Let the next ``times`` operations of that kind fail."""
        errors = self._failing.setdefault((operation, step), [])
        errors.extend([disk_error() if error is None else error] * times)

    def hold_thread(self) -> tuple[threading.Event, threading.Event]:
        """Hold the writing thread of the next large file: ``(it is there, let it go on)``."""
        self._in_thread = (threading.Event(), threading.Event())
        return self._in_thread

    async def _pass(self, operation: str, step: int) -> None:
        self.log.append((operation, step))
        for key in ((operation, step), (operation, None)):
            if key in self._held:
                await self._held[key]()
        if (error := self._error(operation, step)) is not None:
            with save_errors(f"{self.location}/{step_name(step)}", step):
                raise error

    def _error(self, operation: str, step: int) -> BaseException | None:
        for key in ((operation, step), (operation, None)):
            if self._failing.get(key):
                return self._failing[key].pop(0)
        return None

    async def begin(self, step: int) -> str:
        await self._pass("begin", step)
        attempt: str = await super().begin(step)
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
        if (error := self._error("committed", step)) is not None:
            with save_errors(f"{self.location}/{step_name(step)}", step, "unknown"):
                raise error
        self.log.append(("committed", step))
        self.done.append(("commit", step))

    async def add(self, step: int, name: str, data: bytes) -> None:
        await self._pass("add", step)
        await super().add(step, name, data)
        self.done.append(("add", step))

    async def remove(self, step: int) -> bool:
        await self._pass("remove", step)
        removed: bool = await super().remove(step)
        return removed


class Disk(_Slow, LocalStore):
    """A real directory."""


class SlowStore(_Slow, MemoryStore):
    """A store in memory, which takes no turns of the loop of its own."""

    def __init__(self, place: MemoryPlace | None = None) -> None:
        super().__init__(place, hops=False)


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
