"""What is under the memory store: the shared place, the hops to a thread, and the faults."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from async_ckpt.errors import (
    DamagedCheckpointError,
    NoCheckpointError,
    ProtocolError,
    RestoreError,
    SaveError,
)
from async_ckpt.storage.crew import Crew
from async_ckpt.storage.names import check_file_name, step_name

__all__ = ["Faults", "MemoryAttempt", "MemoryBase", "MemoryPlace"]

T = TypeVar("T")
Faults: TypeAlias = Callable[[str, int | None, str | None], BaseException | None]

_CHUNK = 1 << 20
_READS = {"steps", "read", "size", "read_into", "read_ranges", "map", "pinned", "lease"}
_AFTER = {"committed", "added"}
_numbers = itertools.count(1)


class MemoryAttempt:
    """An attempt: its files so far, how many are being written, and which one came last."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.files: dict[str, bytes] = {}
        self.writing = 0
        self.last = ""
        self.over = False


class MemoryPlace:
    """What several stores share: the directory, so to speak.

    Attributes:
        steps: The committed checkpoints, each a dict of files.
        abandoned: Those put aside, oldest first.
        pins: Pinned steps.
        leases: Live leases per step.
        attempts: The temp directories.
        writer: Who holds the lock.
        guard: Held for each look at, and change of, the above.
    """

    def __init__(self) -> None:
        self.location = f"memory:{next(_numbers)}"
        self.steps: dict[int, dict[str, bytes]] = {}
        self.abandoned: list[tuple[int, dict[str, bytes]]] = []
        self.pins: set[int] = set()
        self.leases: dict[int, int] = {}
        self.attempts: dict[str, MemoryAttempt] = {}
        self.writer: MemoryBase | None = None
        self.guard = threading.RLock()
        self.serial = itertools.count(1)

    def protected(self) -> set[int]:
        """Return what is pinned or leased."""
        return self.pins | {step for step, count in self.leases.items() if count}


class MemoryBase:
    """What every operation of a memory store goes through."""

    def __init__(
        self,
        place: MemoryPlace | None = None,
        *,
        hops: bool = True,
        faults: Faults | None = None,
        chunk: int = _CHUNK,
    ) -> None:
        self.place = MemoryPlace() if place is None else place
        self.location = self.place.location
        self.faults = faults
        self._hops = hops
        self._chunk = chunk
        self._crew = Crew("async_ckpt-memory")
        self._leased: dict[int, tuple[dict[str, bytes], int]] = {}

    async def _do(
        self, op: str, step: int | None, name: str | None, fn: Callable[..., T], *args: Any, owner: str = ""
    ) -> T:
        if self._hops:
            return await self._crew.call(self._crew.calls, self._act, op, step, name, fn, *args, owner=owner)
        return self._act(op, step, name, fn, *args)

    def _act(self, op: str, step: int | None, name: str | None, fn: Callable[..., T], *args: Any) -> T:
        # Outside the guard: a test may block in here, and the others are to go on.
        self._fault(op, step, name)
        with self.place.guard:
            return fn(*args)

    def _fault(self, op: str, step: int | None, name: str | None) -> None:
        error = None if self.faults is None else self.faults(op, step, name)
        if error is None:
            return
        if not isinstance(error, OSError):
            raise error
        if op in _READS:
            kind = DamagedCheckpointError if error.errno == errno.EIO else RestoreError
            path = self._path(step, name)
            msg = f"{path}: {error.strerror}"
            raise kind(msg, step=step, path=path) from error
        raise self._save_error(error, step, name, unknown=op in _AFTER) from error

    def _save_error(
        self, error: OSError, step: int | None, name: str | None, *, unknown: bool = False
    ) -> SaveError:
        path = self._path(step, name)
        made = SaveError(
            f"{path}: {error.strerror}", step=step, path=path, outcome="unknown" if unknown else "failed"
        )
        made.__cause__ = error
        return made

    def _cancelled(self, step: int, name: str) -> SaveError:
        path = self._path(step, name)
        return SaveError(f"{path}: the save was cancelled", step=step, path=path, outcome="cancelled")

    def _path(self, step: int | None, name: str | None) -> str:
        parts = [self.location, "" if step is None else step_name(step), name or ""]
        return "/".join(part for part in parts if part)

    def _check_writer(self) -> None:
        if self.place.writer is not self:
            msg = f"{self.location}: only an open store may write"
            raise ProtocolError(msg)

    def _attempt(self, attempt: str) -> MemoryAttempt:
        this = self.place.attempts.get(attempt)
        if this is None or this.over:
            raise self._over(attempt)
        return this

    def _over(self, attempt: str) -> ProtocolError:
        return ProtocolError(f"{self.location}: attempt {attempt!r} is unknown or over")

    def _files(self, step: int) -> dict[str, bytes]:
        files = self.place.steps.get(step)
        if files is None:
            msg = f"{self.location}: there is no checkpoint of step {step}"
            raise NoCheckpointError(msg, step=step, path=self.location)
        return files

    def _file(self, step: int, name: str) -> bytes:
        check_file_name(name)
        leased = self._leased.get(step)
        data = (self._files(step) if leased is None else leased[0]).get(name)
        if data is None:
            cause = FileNotFoundError(errno.ENOENT, "No such file")
            raise self._damaged(step, name, "No such file") from cause
        return data

    def _damaged(self, step: int, name: str, reason: str) -> DamagedCheckpointError:
        path = self._path(step, name)
        return DamagedCheckpointError(f"{path}: {reason}", step=step, path=path)
