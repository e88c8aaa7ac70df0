"""Which stretches of which files are in memory: told by threads that copy, waited for by those that write."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from .copying import CHUNK

__all__ = ["Arrivals", "ArrivingImage"]


class Arrivals:
    """All files of one save, from the first copy to the last. May be used in any threads.

    Args:
        sizes: Bytes of each file.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._changed = threading.Condition()
        self._here = [bytearray(-(-size // CHUNK)) for size in sizes]
        self._over = False

    def arrived(self, file: int, start: int) -> None:
        """Say that the chunk of a file that begins at ``start`` is there."""
        with self._changed:
            self._here[file][start // CHUNK] = 1
            self._changed.notify_all()

    def end(self) -> None:
        """Say that nothing more will come; whoever waits in vain is let go."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_for_all(self, _start: int = 0, _stop: int = 0) -> bool:
        """Hold the calling thread until the copying is over; says whether everything is there."""
        with self._changed:
            while not self._over:
                self._changed.wait()
            return all(all(file) for file in self._here)

    def wait(self, file: int, start: int, stop: int) -> bool:
        """Hold the calling thread until the bytes from ``start`` to ``stop`` are there.

        Returns:
            False if they never come.
        """
        chunks = slice(start // CHUNK, -(-stop // CHUNK))
        with self._changed:
            while not all(self._here[file][chunks]):
                if self._over:
                    return False
                self._changed.wait()
        return True


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
