"""Which stretches of which files are in memory: told by threads that copy, waited for by those that write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event

from .copying import CHUNK

__all__ = ["Arrivals", "ArrivingImage"]


class Arrivals:
    """All files of one save, from the first copy to the last. May be used in any threads.

    Each thread that wakes takes the interpreter from the training, so none is woken for nothing.

    Args:
        sizes: Bytes of each file.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._here = [bytearray(-(-size // CHUNK)) for size in sizes]
        self._waiting: list[_Stretch | None] = [None] * len(sizes)
        self._over = Event()

    def arrived(self, file: int, start: int) -> None:
        """Say that the chunk of a file that begins at ``start`` is there."""
        self._here[file][start // CHUNK] = 1
        wanted = self._waiting[file]
        if wanted is not None and self._has(file, wanted):
            wanted.settled.set()

    def end(self) -> None:
        """Say that nothing more will come; whoever waits in vain is let go."""
        self._over.set()
        for wanted in self._waiting:
            if wanted is not None:
                wanted.settled.set()

    def wait_for_all(self, _start: int = 0, _stop: int = 0) -> bool:
        """Hold the calling thread until the copying is over; says whether everything is there."""
        self._over.wait()
        return all(all(file) for file in self._here)

    def wait(self, file: int, start: int, stop: int) -> bool:
        """Hold the calling thread until the bytes from ``start`` to ``stop`` are there.

        Only one thread at a time may wait for a file.

        Returns:
            False if they never come.
        """
        # Said first and looked at then, as the other side does: one of the two sees the other.
        wanted = self._waiting[file] = _Stretch(slice(start // CHUNK, -(-stop // CHUNK)))
        if not self._has(file, wanted) and not self._over.is_set():
            wanted.settled.wait()
        self._waiting[file] = None
        return self._has(file, wanted)

    def _has(self, file: int, wanted: _Stretch) -> bool:
        return all(self._here[file][wanted.chunks])


class _Stretch:
    """What somebody waits for, and whether that is decided."""

    def __init__(self, chunks: slice) -> None:
        self.chunks = chunks
        self.settled = Event()


class ArrivingImage:
    """A file whose image is still being filled, in pieces, for the thread that writes it.

    What never arrives is given all the same: whoever ends the copying stops the writing first.

    Args:
        image: The bytes of the file, some of them still to come.
        arrivals: Tells which.
        number: Of the file there.
        piece: Bytes per piece, a multiple of the page.
    """

    def __init__(self, image: memoryview, arrivals: Arrivals, number: int, piece: int) -> None:
        self._image = image
        self._arrivals = arrivals
        self._number = number
        self._piece = piece

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces together."""
        return len(self._image)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, self.nbytes, self._piece):
            stop = min(start + self._piece, self.nbytes)
            self._arrivals.wait(self._number, start, stop)
            yield self._image[start:stop]
