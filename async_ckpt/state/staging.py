"""The live state into the arena, its digests, and the state as it stands in there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

from async_ckpt.system.threads import Outcome, Worker, finish

from .arrays import Array, Bytes, as_stored, stored
from .build import build
from .dtypes import PAGE
from .layout import Layout, TensorSpec
from .parse import parse
from .tree import Leaf

__all__ = ["Digests", "digests", "stage", "stage_across", "view"]

CHUNK = 16 * 2**20
"""Bytes that are copied or digested in one go, without the interpreter's lock."""

_BATCH = 64
"""Small tensors that are handed to a thread together."""


class Digests(NamedTuple):
    """xxh3_128 in hex: of each tensor by its index, and of each file's header in the order of the files."""

    tensors: tuple[str, ...]
    headers: tuple[str, ...]


def _row(memory: Any) -> Bytes:
    if isinstance(memory, np.ndarray):
        return memory
    return np.frombuffer(memory, np.uint8) if len(memory) else np.empty(0, np.uint8)


def _source(leaf: Leaf) -> Array:
    source = as_stored(leaf.value)
    if source.shape != leaf.spec.shape:
        msg = f"{leaf.path} changed its shape to {source.shape} while it was being saved"
        raise ValueError(msg)
    return source


def _copy(leaf: Leaf, target: Bytes) -> None:
    """Copy one tensor to its place, in pieces where it lies in a row anyway."""
    source = _source(leaf)
    into = stored(leaf.spec.dtype, leaf.spec.shape, target, writeable=True)
    if source.nbytes > CHUNK and source.flags.c_contiguous and source.dtype == into.dtype:
        row = source.reshape(-1).view(np.uint8)
        for start in range(0, len(row), CHUNK):
            np.copyto(target[start : start + CHUNK], row[start : start + CHUNK])
    else:
        np.copyto(into, source)


def _frame(layout: Layout, row: Bytes) -> None:
    """Write everything that is not a tensor: the headers, and zeros up to the next page."""
    for file in layout.files:
        start, end = file.arena_offset, file.arena_offset + file.size
        row[start : start + file.header_bytes] = np.frombuffer(file.header, np.uint8)
        row[end : -(-end // PAGE) * PAGE] = 0


def stage(layout: Layout, leaves: Sequence[Leaf], memory: Any) -> None:
    """Copy the live state to its places; on return ``memory`` holds every file, byte for byte.

    Runs in the calling thread and leaves the interpreter to others while it copies.

    Args:
        layout: Planned for the specs of exactly these leaves.
        leaves: As :func:`async_ckpt.state.tree.flatten` gave them, their arrays not changed since.
        memory: Writable, at least ``layout.total`` bytes.

    Raises:
        ValueError: Memory or leaves do not fit the layout.
    """
    row = _fitting(layout, leaves, memory)
    _frame(layout, row)
    for leaf, start in zip(leaves, layout.offsets, strict=True):
        _copy(leaf, row[start : start + leaf.spec.nbytes])


def _fitting(layout: Layout, leaves: Sequence[Leaf], memory: Any) -> Bytes:
    row = _row(memory)
    if len(row) < layout.total or len(leaves) != len(layout.offsets):
        msg = f"{len(row)} bytes and {len(leaves)} leaves do not fit the layout"
        raise ValueError(msg)
    return row


def _jobs(layout: Layout, leaves: Sequence[Leaf], row: Bytes) -> Iterator[Callable[[], None]]:
    """Cut the copying into jobs of about a chunk, so that threads end together."""
    batch: list[tuple[Leaf, Bytes]] = []
    held = 0
    for leaf, start in zip(leaves, layout.offsets, strict=True):
        target = row[start : start + leaf.spec.nbytes]
        if leaf.spec.nbytes > CHUNK:
            yield from _slices(leaf, target)
            continue
        batch.append((leaf, target))
        held += leaf.spec.nbytes
        if held >= CHUNK or len(batch) >= _BATCH:
            yield lambda batch=batch: _copy_all(batch)  # type: ignore[misc]
            batch, held = [], 0
    yield lambda: _copy_all(batch)


def _slices(leaf: Leaf, target: Bytes) -> Iterator[Callable[[], None]]:
    """Cut a large array along its first axis."""
    into = stored(leaf.spec.dtype, leaf.spec.shape, target, writeable=True)
    length = into.shape[0] if into.ndim else 0
    if not isinstance(leaf.value, np.ndarray) or length < 2:
        yield lambda: _copy(leaf, target)
        return
    source = _source(leaf)
    rows = max(1, length * CHUNK // into.nbytes)
    for at in range(0, length, rows):
        piece = slice(at, at + rows)
        yield lambda piece=piece: np.copyto(into[piece], source[piece])  # type: ignore[misc]


def _copy_all(batch: list[tuple[Leaf, Bytes]]) -> None:
    for leaf, target in batch:
        _copy(leaf, target)


async def stage_across(
    layout: Layout, leaves: Sequence[Leaf], memory: Any, *, worker: Worker, threads: int
) -> None:
    """Do what :func:`stage` does, with several threads of ``worker``.

    Raises:
        ValueError: As :func:`stage`.
        BaseException: What the first copy that failed raised, once every thread has stopped.

    Cancellation: the copy goes on to its end, then ``CancelledError`` is raised.
    """
    row = _fitting(layout, leaves, memory)
    jobs = deque([lambda: _frame(layout, row), *_jobs(layout, leaves, row)])

    def run() -> None:
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                return
            try:
                job()
            except BaseException:
                jobs.clear()
                raise

    running = [worker.submit(run) for _ in range(max(1, threads))]
    outcomes: list[Outcome[None]] = await finish(asyncio.gather(*running))
    for outcome in outcomes:
        outcome.unwrap()


def digests(layout: Layout, memory: Any, *, stopped: Callable[[], bool] = lambda: False) -> Digests | None:
    """Digest every header and every tensor of a staged state, in the calling thread.

    Args:
        layout: What lies where.
        memory: The staged bytes.
        stopped: Asked before each chunk.

    Returns:
        The digests, or None if ``stopped`` said so.
    """
    row = _row(memory)
    tensors = [""] * len(layout.offsets)
    headers = []
    for file in layout.files:
        headers.append(
            xxhash.xxh3_128_hexdigest(row[file.arena_offset : file.arena_offset + file.header_bytes].data)
        )
        for placed in file.tensors:
            start = file.arena_offset + placed.offset_in_file
            digest = xxhash.xxh3_128()
            for at in range(start, start + placed.nbytes, CHUNK):
                if stopped():
                    return None
                digest.update(row[at : min(at + CHUNK, start + placed.nbytes)].data)
            tensors[placed.index] = digest.hexdigest()
    return Digests(tuple(tensors), tuple(headers))


def view(structure: Any, layout: Layout, specs: Sequence[TensorSpec], root: Any) -> Any:
    """Show a staged state as plain containers, as :func:`async_ckpt.state.build.build` makes them.

    numpy arrays are read-only views of the staged memory. torch tensors share the memory and must not be
    written to, which torch has no means to prevent; if ``root`` is read-only they are copies. jax arrays
    are always copies.

    Args:
        structure: The tree.
        layout: What lies where.
        specs: Of the leaves.
        root: The staged memory; :meth:`async_ckpt.state.arena.Arena.lend` gives one whose life tells
            whether the view is still in use.
    """
    row = _row(root)

    def fetch(index: int) -> Any:
        spec, start = specs[index], layout.offsets[index]
        return stored(spec.dtype, spec.shape, row[start : start + spec.nbytes], writeable=True)

    return _sealed(build(parse(structure, len(specs)), fetch))


def _sealed(tree: Any) -> Any:
    if isinstance(tree, np.ndarray):
        tree.flags.writeable = False
    elif isinstance(tree, dict):
        for child in tree.values():
            _sealed(child)
    elif isinstance(tree, list | tuple):
        for child in tree:
            _sealed(child)
    return tree
