"""Every byte of a checkpoint against its digest, in a bounded amount of memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xxhash

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.storage.records import Manifest
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Worker, finish

__all__ = ["verify_file"]

CHUNK = 16 << 20
"""Bytes that are read at once; two such buffers exist."""


def _segments(manifest: Manifest, number: int) -> Iterator[tuple[str, int, str]]:
    """What a file consists of, from its first byte to its last: name, length and digest."""
    file = manifest.files[number]
    yield "the header", file.header_bytes, file.header_digest
    inside = [entry for entry in manifest.tensors if entry.file == number]
    for entry in sorted(inside, key=lambda entry: (entry.offset, entry.bytes)):
        yield f"the tensor {entry.path!r}", entry.bytes, entry.digest


class _Walk:
    """Takes a file's bytes in order and compares each segment as it ends."""

    def __init__(self, manifest: Manifest, number: int, path: str) -> None:
        self._segments = _segments(manifest, number)
        self._step = manifest.step
        self._path = path
        self._left = 0
        self._current: tuple[str, str] | None = None
        self._hash = xxhash.xxh3_128()
        self._next()

    def feed(self, data: memoryview) -> None:
        while len(data):
            part, data = data[: self._left], data[self._left :]
            self._hash.update(part)
            self._left -= len(part)
            self._next()

    def _next(self) -> None:
        while self._left == 0:
            if self._current is not None and self._hash.hexdigest() != self._current[1]:
                message = f"{self._path}: {self._current[0]} is not what was saved"
                raise DamagedCheckpointError(message, step=self._step, path=self._path)
            segment = next(self._segments, None)
            if segment is None:
                return
            self._current, self._left = (segment[0], segment[2]), segment[1]
            self._hash.reset()


async def verify_file(store: Store, worker: Worker, manifest: Manifest, number: int, path: str) -> None:
    """Read one file whole; each digest is computed while the next bytes are read.

    Raises:
        DamagedCheckpointError: A byte is not what was saved; ``path`` is in the error.
    """
    walk = _Walk(manifest, number, path)
    size = manifest.files[number].bytes
    buffers = [np.empty(min(CHUNK, size), np.uint8) for _ in range(2)]
    checking = None
    try:
        for turn, offset in enumerate(range(0, size, CHUNK)):
            target = buffers[turn % 2][: min(CHUNK, size - offset)].data
            await store.read_into(manifest.step, manifest.files[number].name, offset, target)
            if checking is not None:
                (await finish(checking)).unwrap()
            checking = worker.submit(walk.feed, target)
    finally:
        last = None if checking is None else await finish(checking)
    if last is not None:
        last.unwrap()
