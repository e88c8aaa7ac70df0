"""The same promises in a dict: for tests, and for thousands of simulated schedules a second."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from async_ckpt.errors import DirectoryLockedError, ProtocolError, SaveError
from async_ckpt.storage.memory_base import MemoryAttempt, MemoryBase, MemoryPlace
from async_ckpt.storage.names import MANIFEST, check_file_name, check_step
from async_ckpt.storage.ranges import WHOLE, Handout, serve
from async_ckpt.system.threads import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from async_ckpt.storage.ranges import Range
    from async_ckpt.storage.store import Pieces

__all__ = ["MemoryPlace", "MemoryStore"]


class MemoryStore(MemoryBase):
    """A :class:`~async_ckpt.storage.store.Store` without a disk.

    Args:
        place: Shared with other stores; a new one if None.
        hops: Do everything in a thread, which a simulated loop can delay and reorder. False: at once.
        faults: Asked before each operation as ``faults(operation, step, file name)``, in its thread;
            what it returns is raised, an ``OSError`` in the clothes it would have on a disk.
            Operations are named after the methods, and there are ``"committed"`` and ``"added"``,
            asked after the rename.
        chunk: Bytes copied per hop of a ``write``.
    """

    async def open(self) -> None:
        """See :meth:`Store.open`."""
        await self._do("open", None, None, self._open)

    def _open(self) -> None:
        place = self.place
        if place.writer not in {None, self}:
            msg = f"{self.location}: another writer holds this directory"
            raise DirectoryLockedError(msg, path=self.location)
        if place.writer is None:
            place.attempts.clear()
            place.writer = self

    async def aclose(self) -> None:
        """See :meth:`Store.aclose`."""
        if self._hops:
            await self._crew.dismiss(self._let_go)
        else:
            self._let_go()

    def _let_go(self) -> None:
        with self.place.guard:
            if self.place.writer is self:
                self.place.writer = None
                self.place.attempts.clear()

    async def begin(self, step: int) -> str:
        """See :meth:`Store.begin`."""
        check_step(step)
        self._check_writer()
        return await self._do("begin", step, None, self._begin, step)

    def _begin(self, step: int) -> str:
        attempt = f"{next(self.place.serial):016x}"
        self.place.attempts[attempt] = MemoryAttempt(step)
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
        """See :meth:`Store.write`."""
        self._check_writer()
        check_file_name(name)
        this = self._attempt(attempt)
        if name in this.files:
            this.over = True
            raise self._save_error(FileExistsError(errno.EEXIST, "File exists"), this.step, name)
        this.files[name] = b""
        this.writing += 1
        copied = bytearray()
        pieces = _cut(data, self._chunk)
        try:
            while len(copied) < data.nbytes or not copied:
                await self._copy(attempt, this, name, copied, pieces, stopped)
                progress(len(copied))
                if not data.nbytes:
                    break
        except BaseException:
            this.over = True
            raise
        finally:
            pieces.close()
            this.writing -= 1
        this.files[name] = bytes(copied)
        this.last = name

    async def _copy(
        self,
        attempt: str,
        this: MemoryAttempt,
        name: str,
        copied: bytearray,
        pieces: Iterator[memoryview],
        stopped: Callable[[], bool],
    ) -> None:
        if this.over:
            raise self._over(attempt)
        if stopped():
            raise self._cancelled(this.step, name)
        await self._do("write", this.step, name, lambda: copied.extend(next(pieces)), owner=attempt)

    async def link(self, attempt: str, step: int, name: str, nbytes: int) -> bool:
        """See :meth:`Store.link`."""
        self._check_writer()
        check_step(step)
        check_file_name(name)
        this = self._attempt(attempt)
        this.writing += 1
        try:
            linked = await self._do("link", step, name, self._link, this, step, name, nbytes, owner=attempt)
        except BaseException:
            this.over = True
            raise
        finally:
            this.writing -= 1
        if linked:
            this.last = name
        return linked

    def _link(self, this: MemoryAttempt, step: int, name: str, nbytes: int) -> bool:
        data = self.place.steps.get(step, {}).get(name)
        if data is None or len(data) != nbytes or name in this.files:
            return False
        this.files[name] = data
        return True

    async def commit(self, attempt: str, step: int) -> None:
        """See :meth:`Store.commit`."""
        self._check_writer()
        this = self._attempt(attempt)
        if this.step != step or this.writing or this.last != MANIFEST:
            msg = f"commit before {MANIFEST} was written as the last file of step {this.step}"
            raise ProtocolError(msg)
        this.over = True
        await self._do("commit", step, None, self._commit, attempt, this)

    def _commit(self, attempt: str, this: MemoryAttempt) -> None:
        self.place.steps[this.step] = this.files
        del self.place.attempts[attempt]
        self._fault("committed", this.step, None)

    async def discard(self, attempt: str) -> None:
        """See :meth:`Store.discard`."""
        this = self.place.attempts.get(attempt)
        if this is not None:
            this.over = True
            await finish(self._crew.idle(attempt))
        with contextlib.suppress(SaveError):
            await self._do("discard", None, None, self.place.attempts.pop, attempt, None)

    async def add(self, step: int, name: str, data: bytes) -> None:
        """See :meth:`Store.add`."""
        check_step(step)
        check_file_name(name)
        if name == MANIFEST:
            msg = f"{MANIFEST} is written once, by the commit"
            raise ValueError(msg)
        self._check_writer()
        await self._do("add", step, name, self._add, step, name, data)

    def _add(self, step: int, name: str, data: bytes) -> None:
        self._files(step)[name] = bytes(data)
        self._fault("added", step, name)

    async def steps(self) -> list[int]:
        """See :meth:`Store.steps`."""
        return await self._do("steps", None, None, sorted, self.place.steps)

    async def read(self, step: int, name: str, *, limit: int) -> bytes:
        """See :meth:`Store.read`."""
        return await self._do("read", step, name, self._read, step, name, limit)

    def _read(self, step: int, name: str, limit: int) -> bytes:
        data = self._file(step, name)
        if len(data) > limit:
            raise self._damaged(step, name, f"{len(data)} bytes are more than any such file has")
        return data

    async def size(self, step: int, name: str) -> int:
        """See :meth:`Store.size`."""
        return len(await self._do("size", step, name, self._file, step, name))

    async def read_into(self, step: int, name: str, offset: int, target: memoryview) -> None:
        """See :meth:`Store.read_into`."""
        plain = target.cast("B")
        await self._do("read_into", step, name, self._read_into, step, name, offset, plain)

    def _read_into(self, step: int, name: str, offset: int, target: memoryview) -> None:
        data = self._file(step, name)
        end = offset + len(target)
        if offset < 0 or end > len(data):
            raise self._damaged(step, name, f"it has {len(data)} bytes, and byte {end} is to be read")
        target[:] = memoryview(data)[offset:end]

    async def read_ranges(self, step: int, ranges: Sequence[Range]) -> None:
        """See :meth:`Store.read_ranges`."""
        handout = Handout(ranges)

        def gather() -> None:
            handout.run(lambda item: self._read_range(step, item, handout))

        if self._hops:
            await serve(self._crew, self._crew.reads, 1, handout, gather)
        else:
            gather()
            handout.check()

    def _read_range(self, step: int, item: Range, handout: Handout) -> None:
        target = item.target()
        for at in range(0, item.size, WHOLE):
            if handout.stopped:
                return
            end = min(at + WHOLE, item.size)
            part = memoryview(bytearray(end - at)) if target is None else target[at:end]
            self._act(
                "read_ranges", step, item.name, self._read_into, step, item.name, item.offset + at, part
            )
            item.take(at, part)

    async def map(self, step: int, name: str) -> memoryview:
        """See :meth:`Store.map`; a copy."""
        return memoryview(bytearray(await self._do("map", step, name, self._file, step, name)))

    async def remove(self, step: int) -> bool:
        """See :meth:`Store.remove`."""
        check_step(step)
        self._check_writer()
        return await self._do("remove", step, None, self._remove, step)

    def _remove(self, step: int) -> bool:
        if step in self.place.protected():
            return False
        return self.place.steps.pop(step, None) is not None

    async def abandon(self, above: int) -> list[int]:
        """See :meth:`Store.abandon`."""
        self._check_writer()
        return await self._do("abandon", above, None, self._abandon, above)

    def _abandon(self, above: int) -> list[int]:
        place = self.place
        steps = sorted(step for step in place.steps if step > above)
        place.abandoned += [(step, place.steps.pop(step)) for step in steps]
        place.pins.difference_update(steps)
        return steps

    async def pin(self, step: int) -> None:
        """See :meth:`Store.pin`."""
        check_step(step)
        await self._do("pin", step, None, self._pin, step)

    def _pin(self, step: int) -> None:
        self._files(step)
        self.place.pins.add(step)

    async def unpin(self, step: int) -> None:
        """See :meth:`Store.unpin`."""
        check_step(step)
        await self._do("unpin", step, None, self.place.pins.discard, step)

    async def pinned(self) -> set[int]:
        """See :meth:`Store.pinned`."""
        return await self._do("pinned", None, None, self.place.protected)

    @contextlib.asynccontextmanager
    async def lease(self, step: int) -> AsyncIterator[None]:
        """See :meth:`Store.lease`."""
        check_step(step)
        if self._hops:
            await self._crew.obtain(lambda: self._act("lease", step, None, self._take, step), self._drop)
        else:
            self._act("lease", step, None, self._take, step)
        try:
            yield
        finally:
            self._drop(step)

    def _take(self, step: int) -> int:
        with self.place.guard:
            files, count = self._leased.get(step, (None, 0))
            self._leased[step] = (self._files(step) if files is None else files, count + 1)
            self.place.leases[step] = self.place.leases.get(step, 0) + 1
            return step

    def _drop(self, step: int) -> None:
        with self.place.guard:
            self.place.leases[step] -= 1
            files, count = self._leased.pop(step)
            if count > 1:
                self._leased[step] = (files, count - 1)


def _cut(data: memoryview | Pieces, chunk: int) -> Generator[memoryview, None, None]:
    whole = [data.cast("B")] if isinstance(data, memoryview) else data
    for piece in whole:
        for start in range(0, len(piece) or 1, chunk):
            yield piece[start : start + chunk]
