"""What a disk may hold after a power cut: everything that was flushed, and any part of what was not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.disk.plugin import RECORD

__all__ = ["Log", "Write", "read_log"]

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Write:
    """One write: ``end`` is where its record ends in the log."""

    offset: int
    data: bytes
    end: int


class Log:
    """The log of a disk: what was written between one flush and the next.

    Attributes:
        epochs: Writes by epoch; a flush ends one.
        flushes: Where the record of each flush ends in the log; the last epoch has none.
    """

    def __init__(self, epochs: list[list[Write]], flushes: list[int]) -> None:
        self.epochs = epochs
        self.flushes = flushes

    @property
    def writes(self) -> int:
        """How many there are."""
        return sum(map(len, self.epochs))

    def cuts(self) -> list[tuple[int, int]]:
        """Every moment the power may go: in which epoch, behind how many of its writes."""
        return [
            (number, count) for number, epoch in enumerate(self.epochs) for count in range(len(epoch) + 1)
        ]

    def position(self, epoch: int, count: int) -> int:
        """Where the log ended at that moment."""
        if count:
            return self.epochs[epoch][count - 1].end
        return self.flushes[epoch - 1] if epoch else 0

    def states(
        self, base: Path, cuts: list[tuple[int, int, bool]], rng: random.Random
    ) -> Iterator[tuple[tuple[int, int, bool], np.ndarray[tuple[int], np.dtype[np.uint8]]]]:
        """Give what the disk holds after each cut; the array is the same one every time.

        Args:
            base: The image before the first write.
            cuts: The third element says whether every unflushed write of the epoch got through up to there,
                as if in order, or each only with even odds. Blocks of a write are not torn, and what
                overlaps stays in order.
            rng: Draws which.
        """
        flushed = np.fromfile(base, np.uint8)
        done = 0
        for epoch, count, whole in sorted(cuts):
            for write in (w for number in range(done, epoch) for w in self.epochs[number]):
                _apply(flushed, write)
            done = epoch
            image = flushed.copy()
            for write in self.epochs[epoch][:count]:
                for start in range(0, len(write.data), BLOCK):
                    if whole or rng.random() < 0.5:
                        end = min(start + BLOCK, len(write.data))
                        _apply(image, Write(write.offset + start, write.data[start:end], 0))
            yield (epoch, count, whole), image


def _apply(image: np.ndarray[tuple[int], np.dtype[np.uint8]], write: Write) -> None:
    image[write.offset : write.offset + len(write.data)] = np.frombuffer(write.data, np.uint8)


def read_log(path: Path) -> Log:
    """Read a log; a half record at its end is left out."""
    data = memoryview(path.read_bytes())
    epochs: list[list[Write]] = [[]]
    flushes: list[int] = []
    at = 0
    while at + RECORD.size <= len(data):
        kind, offset, length = RECORD.unpack_from(data, at)
        body = at + RECORD.size
        at = body + (length if kind == b"W" else 0)
        if at > len(data):
            break
        if kind == b"W":
            epochs[-1].append(Write(offset, bytes(data[body:at]), at))
        else:
            epochs.append([])
            flushes.append(at)
    return Log(epochs, flushes)
