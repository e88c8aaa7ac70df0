"""What lies where in the files of a checkpoint, and what of it is read together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from async_ckpt.storage.ranges import WHOLE

__all__ = ["Segment", "runs"]


class Segment(NamedTuple):
    """Bytes with a digest of their own; sorted, segments come in the order of the bytes on disk.

    Attributes:
        file: The number of the file.
        offset: From its start.
        bytes: How many.
        number: Which tensor, or less than zero for a header.
    """

    file: int
    offset: int
    bytes: int
    number: int


def runs(segments: Iterable[Segment], *, alone: int) -> Iterator[list[Segment]]:
    """Group small segments without anything between them, up to ``WHOLE`` bytes.

    Args:
        segments: Sorted.
        alone: Bytes from which a segment is a run by itself.
    """
    run: list[Segment] = []
    file, end, size = -1, 0, 0
    for segment in segments:
        if run and (
            segment.file != file
            or segment.offset != end
            or segment.bytes >= alone
            or size + segment.bytes > WHOLE
        ):
            yield run
            run, size = [], 0
        run.append(segment)
        file, end = segment.file, segment.offset + segment.bytes
        size += segment.bytes
        if segment.bytes >= alone:
            yield run
            run, size = [], 0
    if run:
        yield run
