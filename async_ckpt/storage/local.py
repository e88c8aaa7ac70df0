"""Checkpoints in a POSIX directory: durable, atomic, one writer.

This is the asynchronous shell. Every blocking line lives in ``writing``, ``reader``, ``pins``,
``lock`` and ``bulk``, and runs in a thread of this store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING

from async_ckpt.errors import ProtocolError, SaveError
from async_ckpt.storage import bulk, posix, writing
from async_ckpt.storage.crew import Crew
from async_ckpt.storage.gathering import READERS, Gathering
from async_ckpt.storage.journal import Journal
from async_ckpt.storage.lock import HeldFile, take_lock
from async_ckpt.storage.names import MANIFEST, TEMP, check_file_name, check_step, step_name
from async_ckpt.storage.ranges import Handout, serve
from async_ckpt.storage.reader import Reader
from async_ckpt.storage.reading import View
from async_ckpt.storage.small import write_small
from async_ckpt.storage.writing import Attempt, save_errors
from async_ckpt.system.threads import Worker, finish, insist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from async_ckpt.storage.ranges import Range
    from async_ckpt.storage.store import Pieces

__all__ = ["LocalStore"]

_SMALL = 1 << 20
_RUBBISH = "rubbish"


class _Hold:
    """What the writer holds: the open directory and its lock."""

    def __init__(self, root: int, lock: HeldFile) -> None:
        self.root = root
        self.lock = lock
        self.journal = Journal(root)


class LocalStore:
    """A :class:`~async_ckpt.storage.store.Store` in a directory of the local file system.

    Durable against a crash of the process at any instruction and a power cut at any moment, as far
    as the disk tells the truth about what it has written. Safe against links: nothing is opened,
    renamed or deleted through one, except that the directory itself may be reached through links.

    A store belongs to the process that first uses it; in a forked child its methods raise
    ``ProtocolError``, and the lock stays with the parent.

    Args:
        directory: Made at ``open`` if it is missing.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.location = os.path.abspath(os.fspath(directory))  # noqa: PTH100 - names stay strings here
        self._hold: _Hold | None = None
        self._attempts: dict[str, Attempt] = {}
        self._reader = Reader(self.location)
        self._crew = Crew("async_ckpt-store")
        self._opening = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether this store is the writer."""
        return self._hold is not None

    async def open(self) -> None:
        """See :meth:`Store.open`."""
        self._crew.claim()
        async with self._opening:
            if self._hold is None:
                take = partial(_take_hold, self.location)
                self._hold = await self._crew.obtain(take, partial(_let_go, []))

    async def aclose(self) -> None:
        """See :meth:`Store.aclose`."""
        hold, self._hold = self._hold, None
        if self._crew.is_inherited:
            return
        try:
            gone = self._crew.dismiss(partial(_let_go, list(self._attempts.values()), hold))
        except BaseException:
            self._hold = hold  # still the writer, and may be closed once more
            raise
        self._attempts.clear()
        await gone

    async def begin(self, step: int) -> str:
        """See :meth:`Store.begin`."""
        check_step(step)
        self._root()
        # The room that a new checkpoint needs may still be taken by what was removed.
        await self._crew.idle(_RUBBISH)
        root = self._root()
        start = partial(writing.begin, root, self.location, step)
        attempt: Attempt = await self._crew.obtain(start, partial(writing.discard, root))
        self._attempts[attempt.id] = attempt
        return attempt.id

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
        self._root()
        check_file_name(name)
        this = self._attempt(attempt)
        path = f"{this.path}/{name}"
        this.writing += 1
        try:
            with save_errors(path, this.step):
                if isinstance(data, memoryview) and data.nbytes < _SMALL:
                    await self._write_small(this, name, data.cast("B"), stopped)
                    progress(data.nbytes)
                else:
                    plain = data.cast("B") if isinstance(data, memoryview) else data
                    write = bulk.write_file
                    await self._crew.call(
                        self._crew.bulk, write, this.fd, name, plain, progress, stopped, owner=attempt
                    )
        except bulk.StoppedError as error:
            this.failed = True
            msg = f"step {this.step}: {path}: the save was cancelled"
            raise SaveError(msg, step=this.step, path=path, outcome="cancelled") from error
        except BaseException:
            # After a cancellation too: the file may have failed, and nobody was told.
            this.failed = True
            raise
        finally:
            this.writing -= 1
        this.last = name

    async def _write_small(
        self, this: Attempt, name: str, data: memoryview, stopped: Callable[[], bool]
    ) -> None:
        if stopped():
            raise bulk.StoppedError
        await self._crew.carry_out(write_small, this.fd, name, data, owner=this.id)

    async def link(self, attempt: str, step: int, name: str, nbytes: int) -> bool:
        """See :meth:`Store.link`."""
        root = self._root()
        check_step(step)
        check_file_name(name)
        this = self._attempt(attempt)
        this.writing += 1
        try:
            linked = await self._crew.call(
                self._crew.calls, writing.link, root, this, step, name, nbytes, owner=attempt
            )
        except BaseException:
            this.failed = True
            raise
        finally:
            this.writing -= 1
        if linked:
            this.last = name
        return linked

    async def commit(self, attempt: str, step: int) -> None:
        """See :meth:`Store.commit`."""
        root = self._root()
        this = self._attempt(attempt)
        if this.step != step or this.writing or this.last != MANIFEST:
            msg = f"{this.path}: commit before {MANIFEST} was written as the last file of step {this.step}"
            raise ProtocolError(msg)
        # From here on nothing may be written into it, whatever becomes of the commit.
        this.failed = True
        commit = writing.commit
        replaced = await self._crew.call(self._crew.calls, commit, root, self.location, this, owner=attempt)
        self._attempts.pop(attempt, None)
        if replaced:
            self._empty_trash(root)

    async def discard(self, attempt: str) -> None:
        """See :meth:`Store.discard`."""
        this = self._attempts.pop(attempt, None)
        if this is not None:
            this.failed = True
            await finish(self._discard(this, self._root()))

    async def _discard(self, this: Attempt, root: int) -> None:
        await self._crew.idle(this.id)
        await self._crew.call(self._crew.calls, writing.discard, root, this)

    async def add(self, step: int, name: str, data: bytes) -> None:
        """See :meth:`Store.add`."""
        check_step(step)
        check_file_name(name)
        if name == MANIFEST:
            msg = f"{MANIFEST} is written once, by the commit"
            raise ValueError(msg)
        self._root()
        await self._crew.carry_out(self._add, step, name, data)

    async def _add(self, small: Worker, step: int, name: str, data: bytes) -> None:
        view = await small.call(self._reader.open_now, step)
        temp = f"{TEMP}{name}-{secrets.token_hex(8)}"
        path = f"{self.location}/{step_name(step)}/{name}"
        try:
            with save_errors(path, step):
                await write_small(small, view.fd, temp, data)
            await small.call(writing.publish, view.fd, temp, name, path, step)
        except BaseException:
            await small.call(writing.unlink_quietly, temp, view.fd)
            raise
        finally:
            await small.call(view.close)

    async def hire(self) -> None:
        """Start the threads that write large files, while nothing else keeps the processors busy."""
        bulk = self._crew.bulk
        _ = bulk.pool  # made here, so that no two threads make it
        await self._crew.call(self._crew.calls, bulk.hire)

    async def note(self, lines: bytes) -> None:
        """Append whole lines to the event log of the directory, in the order of the calls; needs ``open``.

        Raises:
            OSError: The log is not written to any more.
        """
        self._root()
        assert self._hold is not None  # noqa: S101 - it has a root
        await self._crew.call(self._crew.small, self._hold.journal.append, lines)

    async def remove(self, step: int) -> bool:
        """See :meth:`Store.remove`."""
        check_step(step)
        root = self._root()
        gone = await self._crew.call(self._crew.calls, writing.remove, root, self.location, step)
        if gone:
            self._empty_trash(root)
        return gone

    def _empty_trash(self, root: int) -> None:
        """Delete what is out of sight; nobody waits for it but the next attempt, and whoever closes."""
        self._crew.start(self._crew.rubbish, writing.empty_trash, root, owner=_RUBBISH)

    async def abandon(self, above: int) -> list[int]:
        """See :meth:`Store.abandon`."""
        return await self._crew.call(self._crew.calls, writing.abandon, self._root(), self.location, above)

    async def steps(self) -> list[int]:
        """See :meth:`Store.steps`."""
        return await self._crew.call(self._crew.calls, self._reader.list_steps)

    async def read(self, step: int, name: str, *, limit: int) -> bytes:
        """See :meth:`Store.read`."""
        return await self._crew.call(self._crew.calls, self._reader.with_view, step, View.read, name, limit)

    async def size(self, step: int, name: str) -> int:
        """See :meth:`Store.size`."""
        return await self._crew.call(self._crew.calls, self._reader.with_view, step, View.size, name)

    async def read_into(self, step: int, name: str, offset: int, target: memoryview) -> None:
        """See :meth:`Store.read_into`."""
        plain = target.cast("B")
        await self._crew.call(
            self._crew.calls, self._reader.with_view, step, View.read_into, name, offset, plain
        )

    async def read_ranges(self, step: int, ranges: Sequence[Range]) -> None:
        """See :meth:`Store.read_ranges`."""
        check_step(step)
        handout = Handout(ranges)
        alone = len(ranges) > 0 and await self._crew.call(self._crew.calls, self._reader.is_alone, step)
        gathering = Gathering(handout, past_cache=alone)
        read = partial(self._reader.with_view, step, gathering.run)
        await serve(self._crew, self._crew.reads, READERS, handout, read)

    async def map(self, step: int, name: str) -> memoryview:
        """See :meth:`Store.map`."""
        return await self._crew.call(self._crew.calls, self._reader.with_view, step, View.map, name)

    async def pin(self, step: int) -> None:
        """See :meth:`Store.pin`."""
        check_step(step)
        await self._crew.call(self._crew.calls, self._reader.pin, step)

    async def unpin(self, step: int) -> None:
        """See :meth:`Store.unpin`."""
        check_step(step)
        await self._crew.call(self._crew.calls, self._reader.unpin, step)

    async def pinned(self) -> set[int]:
        """See :meth:`Store.pinned`."""
        return await self._crew.call(self._crew.calls, self._reader.pinned)

    @contextlib.asynccontextmanager
    async def lease(self, step: int) -> AsyncIterator[None]:
        """See :meth:`Store.lease`."""
        check_step(step)
        lease = await self._crew.obtain(partial(self._reader.take_lease, step), self._reader.drop_lease)
        try:
            yield
        finally:
            await self._crew.call(self._crew.calls, self._reader.drop_lease, lease)

    def _root(self) -> int:
        self._crew.claim()
        if self._hold is None:
            msg = f"{self.location}: only an open store may write"
            raise ProtocolError(msg)
        return self._hold.root

    def _attempt(self, attempt: str) -> Attempt:
        this = self._attempts.get(attempt)
        if this is None or this.failed:
            msg = f"{self.location}: attempt {attempt!r} is unknown or over"
            raise ProtocolError(msg)
        return this


def _take_hold(location: str) -> _Hold:
    root, lock = -1, None
    try:
        with save_errors(location):
            posix.make_directories(location)
            root = posix.open_directory(location)
            lock = take_lock(root, location)
            writing.sweep(root)
            return _Hold(root, lock)
    except BaseException:
        # Out here, for memory may lack even for leaving that block.
        if lock is not None:
            insist(lock.close)
        if root >= 0:
            posix.close_quietly(root)
        raise


def _let_go(attempts: list[Attempt], hold: _Hold | None) -> None:
    if hold is None:
        return
    try:
        for attempt in attempts:
            writing.discard(hold.root, attempt)
    finally:
        try:
            hold.journal.close()
        finally:
            insist(hold.lock.close)
            posix.close_quietly(hold.root)
