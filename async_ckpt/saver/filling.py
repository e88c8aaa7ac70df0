"""From files to arrays: read, compare with the digest, hand over.

Large tensors are read straight into the memory they end in. Small ones that lie side by side are read
together and copied out after their digests were found right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.saver.catalog import Catalog
from async_ckpt.state.arrays import Bytes, stored
from async_ckpt.state.into import IntoPlan
from async_ckpt.state.tree import select, unflatten
from async_ckpt.storage.manifest import digest
from async_ckpt.storage.records import Manifest
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Outcome, Worker, finish

__all__ = ["Fresh", "Into", "Target", "fill"]

LARGE = 1 << 20
"""Bytes from which a tensor is read by itself."""

BATCH = 8 << 20
"""Bytes of small tensors that are read together."""


class Target(Protocol):
    """Where the leaves of a checkpoint go."""

    @property
    def indices(self) -> Iterable[int]:
        """The numbers of the leaves to be read."""
        ...

    def memory(self, index: int) -> Bytes:
        """The writable row that leaf ``index`` ends in."""
        ...

    def in_place(self, index: int) -> bool:
        """Whether that row is an array the caller already has."""
        ...

    def finish(self) -> Any:
        """The state, once everything is read."""
        ...


class Fresh:
    """New arrays in plain containers."""

    def __init__(self, manifest: Manifest, only: str | tuple[str, ...] | None) -> None:
        self.indices = select(manifest.tree, len(manifest.tensors), only)
        self._manifest = manifest
        self._only = only
        self._rows: dict[int, Bytes] = {}

    def memory(self, index: int) -> Bytes:
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = np.empty(self._manifest.tensors[index].bytes, np.uint8)
        return row

    def in_place(self, index: int) -> bool:  # noqa: ARG002 - none of them is
        return False

    def finish(self) -> Any:
        tensors = self._manifest.tensors
        arrays: list[Any] = [None] * len(tensors)
        for index in self.indices:
            entry = tensors[index]
            arrays[index] = stored(entry.dtype, entry.shape, self.memory(index), writeable=True)
        return unflatten(self._manifest.tree, arrays, only=self._only)


class Into:
    """The arrays of a living state."""

    def __init__(self, plan: IntoPlan, state: Any) -> None:
        self.indices = plan.indices
        self._plan = plan
        self._state = state

    def memory(self, index: int) -> Bytes:
        return self._plan.memory(index)

    def in_place(self, index: int) -> bool:
        return self._plan.in_place(index)

    def finish(self) -> Any:
        self._plan.apply()
        return self._state


@dataclass(frozen=True, slots=True)
class _Batch:
    """Tensors of one file without anything between them."""

    file: str
    offset: int
    indices: list[int]
    bytes: int


def _batches(manifest: Manifest, indices: Iterable[int]) -> Iterator[_Batch]:
    tensors = manifest.tensors
    batch: list[int] = []
    size = 0
    for index in sorted(indices, key=lambda i: (tensors[i].file, tensors[i].offset, tensors[i].bytes)):
        entry = tensors[index]
        if batch:
            first = tensors[batch[0]]
            follows = first.file == entry.file and first.offset + size == entry.offset
            if not follows or entry.bytes >= LARGE or size + entry.bytes > BATCH:
                yield _Batch(manifest.files[first.file].name, first.offset, batch, size)
                batch, size = [], 0
        batch.append(index)
        size += entry.bytes
        if entry.bytes >= LARGE:
            yield _Batch(manifest.files[entry.file].name, entry.offset, batch, size)
            batch, size = [], 0
    if batch:
        first = tensors[batch[0]]
        yield _Batch(manifest.files[first.file].name, first.offset, batch, size)


async def fill(
    store: Store, catalog: Catalog, worker: Worker, manifest: Manifest, target: Target, touched: set[str]
) -> None:
    """Read every leaf that ``target`` wants, and compare it with its digest.

    Args:
        store: To read from.
        catalog: For paths in messages.
        worker: Computes digests while the next batch is read.
        manifest: What lies where; its files were found to have the right sizes.
        target: Where the bytes go.
        touched: Gets the paths of the caller's own arrays that were written to, also if reading fails.

    Raises:
        DamagedCheckpointError: Bytes are missing, or are not those that were saved.
    """
    judge = _Judge(catalog, manifest, target, touched)
    judging: asyncio.Future[Outcome[None]] | None = None
    try:
        for batch in _batches(manifest, target.indices):
            row = judge.row(batch)
            if batch.bytes:
                await store.read_into(manifest.step, batch.file, batch.offset, row.data)
            if judging is not None:
                (await finish(judging)).unwrap()
            judging = worker.submit(judge.accept, batch, row)
    finally:
        last = None if judging is None else await finish(judging)
    if last is not None:
        last.unwrap()


class _Judge:
    """Compares what was read with what was saved, and hands it over."""

    def __init__(self, catalog: Catalog, manifest: Manifest, target: Target, touched: set[str]) -> None:
        self._catalog = catalog
        self._manifest = manifest
        self._target = target
        self._touched = touched

    def row(self, batch: _Batch) -> Bytes:
        """The memory to read a batch into."""
        if batch.bytes < LARGE or len(batch.indices) > 1:
            return np.empty(batch.bytes, np.uint8)
        return self._memory(batch.indices[0])

    def accept(self, batch: _Batch, row: Bytes) -> None:
        """Take a batch that was read. Runs in a thread."""
        at = 0
        for index in batch.indices:
            entry = self._manifest.tensors[index]
            part = row[at : at + entry.bytes]
            at += entry.bytes
            if digest(part.data) != entry.digest:
                path = self._catalog.path(self._manifest.step, batch.file)
                message = f"{path}: the bytes of {entry.path!r} are not those that were saved"
                raise DamagedCheckpointError(message, step=self._manifest.step, path=path)
            if entry.bytes < LARGE:
                self._memory(index)[:] = part

    def _memory(self, index: int) -> Bytes:
        if self._target.in_place(index):
            self._touched.add(self._manifest.tensors[index].path)
        return self._target.memory(index)
