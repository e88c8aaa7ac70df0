"""From files to arrays: read, compare with the digest, hand over.

Large tensors are read straight into the memory they end in, in pieces, by several threads. Small ones that
lie side by side are read together and copied out after their digests were found right.
"""

from __future__ import annotations

import threading

import numpy as np
import xxhash

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.saver.catalog import Catalog
from async_ckpt.saver.segments import Segment, runs
from async_ckpt.saver.targets import Target
from async_ckpt.state.arrays import Bytes
from async_ckpt.storage.ranges import WHOLE, Range
from async_ckpt.storage.records import Manifest
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Worker

__all__ = ["LARGE", "fill"]

LARGE = 1 << 20
"""Bytes from which a tensor is read by itself, and straight to where it belongs."""

PIECE = 4 * WHOLE
"""Bytes of a large tensor that one thread reads before it looks for more to do."""


async def fill(
    store: Store, catalog: Catalog, worker: Worker, manifest: Manifest, target: Target, touched: set[str]
) -> None:
    """Read every leaf that ``target`` wants, and compare it with its digest.

    Args:
        store: To read from.
        catalog: For paths in messages.
        worker: Where it is found out what to read.
        manifest: What lies where; its files were found to have the right sizes.
        target: Where the bytes go.
        touched: Gets the paths of the caller's own arrays that were written to, also if reading fails.

    Raises:
        DamagedCheckpointError: Bytes are missing, or are not those that were saved. Of several damaged
            tensors the first one in the files is named.

    Cancellation: ends the reading half-way; no thread is left behind.
    """
    filling = _Filling(catalog, manifest, target, touched)
    for ranges in await worker.call(filling.rounds):
        await store.read_ranges(manifest.step, ranges)


class _Filling:
    """One restore: what is to be read, where it goes, and whether it is what was saved."""

    def __init__(self, catalog: Catalog, manifest: Manifest, target: Target, touched: set[str]) -> None:
        self.catalog = catalog
        self.manifest = manifest
        self._target = target
        self._touched = touched

    def rounds(self) -> list[list[Range]]:
        """Cut everything into ranges, in the order of the bytes on disk. Runs in a thread.

        More than one round if arrays of the caller's share memory: what is read at the same time must not
        end in the same place. The last one in the files wins.
        """
        tensors = self.manifest.tensors
        segments = [
            Segment(entry.file, entry.offset, entry.bytes, index)
            for index in self._target.indices
            for entry in (tensors[index],)
        ]
        segments.sort()
        sharing = self._sharing(segments)
        apart = [segment for segment in segments if segment.number not in sharing]
        return [
            self._cut(apart),
            *(self._cut([segment]) for segment in segments if segment.number in sharing),
        ]

    def _sharing(self, segments: list[Segment]) -> set[int]:
        """Find the tensors whose memory is also that of one before them."""
        places = sorted(
            (self._target.memory(segment.number).__array_interface__["data"][0], order, segment)
            for order, segment in enumerate(segments)
            if segment.bytes and self._target.in_place(segment.number)
        )
        clusters: list[list[tuple[int, int]]] = []
        end = 0
        for start, order, segment in places:
            if start >= end:
                clusters.append([])
            clusters[-1].append((order, segment.number))
            end = max(end, start + segment.bytes)
        return {number for cluster in clusters for _, number in sorted(cluster)[1:]}

    def _cut(self, segments: list[Segment]) -> list[Range]:
        ranges: list[Range] = []
        for run in runs(segments, alone=LARGE):
            if run[0].bytes < LARGE:
                ranges.append(_Small(self, run))
            else:
                tensor = _Large(self, run[0])
                ranges += [_Piece(tensor, start) for start in range(0, run[0].bytes, PIECE)]
        return ranges

    def memory(self, number: int) -> Bytes:
        """Where a tensor ends."""
        return self._target.memory(number)

    def touch(self, number: int) -> None:
        """Say of a tensor's memory that it is written to from now on."""
        if self._target.in_place(number):
            self._touched.add(self.manifest.tensors[number].path)

    def name(self, segment: Segment) -> str:
        """The file of a segment."""
        return self.manifest.files[segment.file].name

    def damaged(self, number: int) -> DamagedCheckpointError:
        """Make the error for a tensor that is not what was saved."""
        entry, step = self.manifest.tensors[number], self.manifest.step
        path = self.catalog.path(step, self.manifest.files[entry.file].name)
        message = f"{path}: the bytes of {entry.path!r} are not those that were saved"
        return DamagedCheckpointError(message, step=step, path=path)


class _Small:
    """Small tensors side by side: read into lent memory, copied out one by one when found right."""

    def __init__(self, filling: _Filling, run: list[Segment]) -> None:
        self._filling = filling
        self._run = run
        self.name = filling.name(run[0])
        self.offset = run[0].offset
        self.size = sum(segment.bytes for segment in run)
        if not self.size:
            # Nothing would ever arrive.
            self.take(0, memoryview(b""))

    def target(self) -> None:
        return None

    def take(self, at: int, data: memoryview) -> None:  # noqa: ARG002 - it comes as a whole
        filling, tensors = self._filling, self._filling.manifest.tensors
        row = np.frombuffer(data, np.uint8)
        start = 0
        for _, _, size, number in self._run:
            end = start + size
            if xxhash.xxh3_128_hexdigest(data[start:end]) != tensors[number].digest:
                raise filling.damaged(number)
            filling.touch(number)
            filling.memory(number)[:] = row[start:end]
            start = end


class _Large:
    """A tensor whose pieces arrive in any order, and whose digest takes them in theirs."""

    def __init__(self, filling: _Filling, segment: Segment) -> None:
        self.filling = filling
        self.number = segment.number
        self.bytes = segment.bytes
        self.offset = segment.offset
        self.name = filling.name(segment)
        # Before any thread touches fresh memory: whoever asks for more then has to wait for those.
        self.row = filling.memory(segment.number).data
        self._digest = filling.manifest.tensors[segment.number].digest
        self._hash = xxhash.xxh3_128()
        self._digested = 0
        self._arrived: dict[int, memoryview] = {}
        self._digesting = False
        self._lock = threading.Lock()

    def arrived(self, at: int, data: memoryview) -> None:
        """Take a part, and digest what can be digested now, unless somebody is at it already."""
        with self._lock:
            self._arrived[at] = data
            if self._digesting:
                return
            self._digesting = True
        while (part := self._next()) is not None:
            self._hash.update(part)
            self._digested += len(part)
        if self._digested == self.bytes and self._hash.hexdigest() != self._digest:
            raise self.filling.damaged(self.number)

    def _next(self) -> memoryview | None:
        with self._lock:
            part = self._arrived.pop(self._digested, None)
            self._digesting = part is not None
            return part


class _Piece:
    """A part of a large tensor."""

    def __init__(self, tensor: _Large, start: int) -> None:
        self._tensor = tensor
        self._start = start
        self.name = tensor.name
        self.offset = tensor.offset + start
        self.size = min(PIECE, tensor.bytes - start)

    def target(self) -> memoryview:
        self._tensor.filling.touch(self._tensor.number)
        return self._tensor.row[self._start : self._start + self.size]

    def take(self, at: int, data: memoryview) -> None:
        self._tensor.arrived(self._start + at, data)
