"""The only door to the disk: what a place for checkpoints has to offer.

A store knows directories, files and bytes. What the bytes mean is the manifest's affair, and which
checkpoints to keep is the saver's. ``testing.check_store`` checks any implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from async_ckpt.storage.ranges import Range

__all__ = ["Pieces", "Store"]


class Pieces(Protocol):
    """A file that is made while it is written.

    Iterated once, in the thread that writes; a generator is closed there too. A piece stays as it is until
    the next one is asked for. All but the last are a multiple of 4096 bytes long, and start at such an
    address where the memory is to go past the page cache.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces together."""
        ...

    def __iter__(self) -> Iterator[memoryview]:
        """Give the pieces, in the order of the file."""
        ...


class Store(Protocol):
    """A directory of checkpoints, one per step.

    Writing (``begin``, ``write``, ``commit``, ``discard``, ``add``, ``remove``, ``abandon``) needs
    ``open``; reading, pins and leases do not, and work beside a writer in another process.

    Cancelling a waiter never stops a thread: every method waits until its work has ended, then
    raises ``CancelledError``. What it was about to do has then been done in full or has failed in
    full; only ``write`` can be ended early, through its ``stopped``.

    Errors carry ``path``, ``step`` where there is one, and the ``OSError`` as cause.

    Attributes:
        location: The place in words, such as the directory's absolute path. Two stores with the
            same location share their contents.
    """

    location: str

    async def open(self) -> None:
        """Become the writer: make the place if need be, and remove what dead writers left.

        Idempotent. Nothing is removed that a live process may still use.

        Raises:
            DirectoryLockedError: Another writer is alive, in this process or another.
            SaveError: The place cannot be made or written to.
        """
        ...

    async def aclose(self) -> None:
        """Cease to be the writer, after the last thread that works here has ended. Idempotent.

        Cancellation: the waiting ends; the lock is given back when the last thread ends.
        """
        ...

    async def begin(self, step: int) -> str:
        """Start an attempt to save ``step`` and return its id, unique in this place.

        Nothing of an attempt is visible to readers before ``commit``.

        Raises:
            SaveError: There is no room, or the place has gone.
            ValueError: The step is negative or has more than 19 digits.
        """
        ...

    async def write(
        self,
        attempt: str,
        name: str,
        data: memoryview | Pieces,
        *,
        progress: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Write one file of an attempt, complete and durable on return. Files may be written side by side.

        A failed write ends the attempt: only ``discard`` makes sense after it.

        Args:
            attempt: From ``begin``.
            name: One path component of ASCII letters, digits, ``.``, ``_``, ``-``; ``manifest.json``
                comes last.
            data: Contiguous bytes that stay as they are until the method returns, or pieces.
            progress: Told the bytes of this file written so far, in a thread or on the loop.
            stopped: Asked between chunks, in a thread or on the loop; true ends the write.

        Raises:
            SaveError: With ``outcome="failed"``, or ``"cancelled"`` after ``stopped`` said so.
            ValueError: The name is not allowed.
            ProtocolError: The attempt is unknown or over.
            BaseException: What making a piece raised.
        """
        ...

    async def link(self, attempt: str, step: int, name: str, nbytes: int) -> bool:
        """Let a file of a checkpoint be a file of an attempt too, without its bytes being written again.

        Complete and durable on return. Either may be removed later without harm to the other.

        Args:
            attempt: From ``begin``.
            step: Of a checkpoint.
            name: Of the file there and here; not ``manifest.json``.
            nbytes: How long it has to be.

        Returns:
            False if that cannot be done here, or there is no such file of that length; it is then to be
            written.

        Raises:
            SaveError: It could be done, and failed. As after a failed write, the attempt is over.
            ProtocolError: The attempt is unknown or over.
        """
        ...

    async def commit(self, attempt: str, step: int) -> None:
        """Make the attempt the checkpoint of ``step``, durably and at one stroke; an older one goes last.

        Raises:
            SaveError: ``outcome="failed"``: it has not happened. ``outcome="unknown"``: it has, and
                may not survive a power cut. Either way the attempt is still to be discarded.
            ProtocolError: A write failed or still runs, or ``manifest.json`` was not written last.
        """
        ...

    async def discard(self, attempt: str) -> None:
        """Forget an attempt and free its space, once its writes have ended; never raises ``OSError``.

        Unknown, committed and discarded attempts are ignored.
        """
        ...

    async def add(self, step: int, name: str, data: bytes) -> None:
        """Add a small file to a checkpoint, or replace it, durably and at one stroke.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            SaveError: As for ``commit``.
        """
        ...

    async def steps(self) -> list[int]:
        """List what is committed and durable, ascending. An absent place holds nothing.

        Raises:
            RestoreError: The place is not a directory, or cannot be read.
        """
        ...

    async def read(self, step: int, name: str, *, limit: int) -> bytes:
        """Read a small file whole.

        Args:
            step: Of a checkpoint.
            name: Of a file in it.
            limit: Bytes; a larger file is refused before memory is taken for it.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            DamagedCheckpointError: The file is missing (the cause is then ``FileNotFoundError``),
                too large, not a plain file, or unreadable.
        """
        ...

    async def size(self, step: int, name: str) -> int:
        """Return the size of a file in bytes; raises as ``read`` does."""
        ...

    async def read_into(self, step: int, name: str, offset: int, target: memoryview) -> None:
        """Fill ``target``, writable and contiguous, from ``offset`` on; raises as ``read`` does.

        A file that ends before ``offset + len(target)`` is damaged, and nothing is read from it.
        """
        ...

    async def read_ranges(self, step: int, ranges: Sequence[Range]) -> None:
        """Read many ranges, several at a time, each by one thread; raises as ``read`` does.

        They are begun in the order given. A range begins when its ``target`` is asked for, and its ``take``
        sees every byte, in order, in the thread that read it. After a failure no further range is begun and
        those that were are read to their end; then the failure of the foremost one is raised.

        A store that cannot do better may read one range after the other with ``read_into``.

        Args:
            step: Of a checkpoint.
            ranges: Their targets do not overlap; what ``target`` or ``take`` raises is raised here.

        Cancellation: the reading ends soon, with ranges half read, and no thread is left behind.
        """
        ...

    async def map(self, step: int, name: str) -> memoryview:
        """Show a file as memory, nothing of which is read until it is looked at; raises as ``read`` does.

        It stays valid for as long as it is held, whatever becomes of the checkpoint. Nobody else sees what is
        written to it, and it may be read-only. Looking at bytes that the device cannot give ends the process.

        A store that cannot do this gives a copy.
        """
        ...

    async def remove(self, step: int) -> bool:
        """Remove a checkpoint: out of sight at one stroke and durably. Its files go in their own time.

        The next attempt begins when they are gone, for it may need their room.

        Returns:
            True if it is gone; False if it was not there, is pinned, or is being read.

        Raises:
            SaveError: It may still be there, or come back after a power cut.
        """
        ...

    async def abandon(self, above: int) -> list[int]:
        """Put every checkpoint above a step aside, kept but never listed again; their pins end.

        Returns:
            Their steps, ascending.

        Raises:
            SaveError: Some may still be there.
        """
        ...

    async def pin(self, step: int) -> None:
        """Protect a checkpoint from ``remove``, by whomever, until ``unpin``. Idempotent and durable.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            SaveError: The pin could not be written.
        """
        ...

    async def unpin(self, step: int) -> None:
        """End a pin; without one nothing happens.

        Raises:
            SaveError: The pin may still be there.
        """
        ...

    async def pinned(self) -> set[int]:
        """Return the steps that are pinned or that some living process reads right now."""
        ...

    def lease(self, step: int) -> AbstractAsyncContextManager[None]:
        """Protect a checkpoint while it is read: ``async with store.lease(step)``.

        Inside, this store reads the very checkpoint that was there at the entry, even if a newer
        one of the same step takes its place. The lease of a process that died is void.

        Raises:
            NoCheckpointError: There is no such checkpoint.
        """
        ...
