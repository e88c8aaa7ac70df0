"""Files that are made while they are written, a piece at a time, in two slots of memory each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

from .arrays import Bytes
from .copying import Copier
from .digesting import FileDigester, FileDigests
from .layout import FilePlan

__all__ = ["StreamedFile"]


class StreamedFile:
    """The pieces of one file, for the thread that writes it; each is valid until the next is asked for.

    While one slot is being written, a thread of ``pool`` fills and digests the other.

    Args:
        file: The file.
        copier: Makes any stretch of it.
        slots: Two rows of bytes, of one size that is a multiple of the page.
        pool: Where slots are filled.
        made: Called in a thread when the last byte has left the arrays.
    """

    def __init__(
        self,
        file: FilePlan,
        copier: Copier,
        slots: tuple[Bytes, Bytes],
        pool: Executor,
        made: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._copier = copier
        self._slots = slots
        self._pool = pool
        self._made = made
        self._digester = FileDigester(file)

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces together."""
        return self._file.size

    def __iter__(self) -> Iterator[memoryview]:
        slot = len(self._slots[0])
        starts = range(0, self._file.size, slot)
        ahead: Future[memoryview] | None = self._pool.submit(self._fill, 0)
        try:
            for start in starts:
                assert ahead is not None  # noqa: S101 - there is one for every start
                piece = ahead.result()
                after = start + slot
                ahead = self._pool.submit(self._fill, after) if after < self._file.size else None
                yield piece
        finally:
            if ahead is not None:
                # Whoever stops early gives the slots to somebody else.
                ahead.exception()

    def digests(self) -> FileDigests:
        """The file's digests, once every piece was given."""
        return self._digester.result()

    def _fill(self, start: int) -> memoryview:
        slot = self._slots[start // len(self._slots[0]) % 2]
        stop = min(start + len(slot), self._file.size)
        target = slot[: stop - start]
        self._copier.copy(self._file, start, stop, target)
        if stop == self._file.size:
            self._made()
        piece = memoryview(target.data)
        self._digester.feed(piece)
        return piece
