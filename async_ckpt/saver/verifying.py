"""Every byte of a checkpoint against its digest, in a bounded amount of memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import xxhash

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.saver.catalog import Catalog
from async_ckpt.saver.segments import Segment, runs
from async_ckpt.storage.ranges import WHOLE, Range
from async_ckpt.storage.records import Manifest
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Worker

__all__ = ["judge_files", "verify_files", "verify_headers"]

_HEADER = -1


async def verify_files(store: Store, catalog: Catalog, worker: Worker, manifest: Manifest) -> None:
    """Read every file whole, several parts of them at a time, and compare every digest.

    Raises:
        DamagedCheckpointError: A byte is not what was saved; ``path`` is in the error.

    Cancellation: ends the reading half-way; no thread is left behind.
    """
    files = range(len(manifest.files))
    await store.read_ranges(manifest.step, await worker.call(_stretches, catalog, manifest, files))


async def judge_files(
    store: Store, catalog: Catalog, worker: Worker, manifest: Manifest, progress: Callable[[int], None]
) -> list[DamagedCheckpointError]:
    """Read every file, whatever is wrong with the others, and say what is wrong with each that is damaged.

    Args:
        store: Where they lie.
        catalog: Of that store.
        worker: Plans off the loop.
        manifest: Says what they should be.
        progress: Told how many bytes were read since it was told last; called in threads.

    Cancellation: ends the reading half-way; no thread is left behind.
    """
    found = []
    for number, file in enumerate(manifest.files):
        try:
            await catalog.check_sizes(manifest.step, (file,))
            stretches = await worker.call(_stretches, catalog, manifest, (number,), progress)
            await store.read_ranges(manifest.step, stretches)
        except DamagedCheckpointError as error:
            found.append(error)
    return found


async def verify_headers(store: Store, catalog: Catalog, manifest: Manifest, files: Iterable[int]) -> None:
    """Read the headers of some files and compare their digests; raises as :func:`verify_files` does."""
    ranges = [_Stretch(catalog, manifest, [_header(manifest, file)]) for file in files]
    await store.read_ranges(manifest.step, ranges)


def _header(manifest: Manifest, file: int) -> Segment:
    return Segment(file, 0, manifest.files[file].header_bytes, _HEADER)


def _stretches(
    catalog: Catalog,
    manifest: Manifest,
    files: Collection[int],
    progress: Callable[[int], None] | None = None,
) -> list[Range]:
    segments = [_header(manifest, file) for file in files]
    segments += [
        Segment(entry.file, entry.offset, entry.bytes, number)
        for number, entry in enumerate(manifest.tensors)
        if entry.file in files
    ]
    segments.sort()
    return [_Stretch(catalog, manifest, run, progress) for run in runs(segments, alone=WHOLE)]


class _Stretch:
    """Segments side by side: takes their bytes in order and compares each segment as it ends."""

    def __init__(
        self,
        catalog: Catalog,
        manifest: Manifest,
        run: list[Segment],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._progress = progress
        self._catalog = catalog
        self._manifest = manifest
        self._segments: Iterator[Segment] = iter(run)
        self._current: Segment | None = None
        self._left = 0
        self._hash = xxhash.xxh3_128()
        self.name = manifest.files[run[0].file].name
        self.offset = run[0].offset
        self.size = sum(segment.bytes for segment in run)
        # Empty ones at the front; those behind others end with them.
        self._advance()

    def target(self) -> None:
        return None

    def take(self, at: int, data: memoryview) -> None:  # noqa: ARG002 - the parts come in order
        if self._progress is not None:
            self._progress(len(data))
        while len(data):
            part, data = data[: self._left], data[self._left :]
            self._hash.update(part)
            self._left -= len(part)
            self._advance()

    def _advance(self) -> None:
        while self._left == 0:
            self._judge()
            self._current = next(self._segments, None)
            if self._current is None:
                return
            self._left = self._current.bytes
            self._hash.reset()

    def _judge(self) -> None:
        segment, step = self._current, self._manifest.step
        if segment is None:
            return
        if segment.number == _HEADER:
            what, digest = "the header", self._manifest.files[segment.file].header_digest
        else:
            entry = self._manifest.tensors[segment.number]
            what, digest = f"the tensor {entry.path!r}", entry.digest
        if self._hash.hexdigest() != digest:
            path = self._catalog.path(step, self.name)
            raise DamagedCheckpointError(f"{path}: {what} is not what was saved", step=step, path=path)
