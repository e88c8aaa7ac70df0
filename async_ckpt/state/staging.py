"""The live state into memory, and the state as it stands in there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from async_ckpt.system.threads import Outcome, Worker, finish

from .arrays import ArraySpec, Bytes, stored
from .arrivals import Arrivals
from .build import build
from .copying import CHUNK, Copier
from .digesting import FileDigester, FileDigests
from .dtypes import PAGE
from .layout import FilePlan, Layout
from .parse import parse
from .placing import Placing

DIGESTED = 128 * 2**20
"""Bytes of a file that are digested between two looks at whether to stop. Every tensor that such a cut goes
through needs the interpreter two times more, for which a thread beside a busy one waits 5 ms."""

__all__ = ["as_row", "digest_image", "image_of", "stage", "view"]


def as_row(memory: Any) -> Bytes:
    """See memory as one row of bytes."""
    if isinstance(memory, np.ndarray):
        return memory
    return np.frombuffer(memory, np.uint8) if len(memory) else np.empty(0, np.uint8)


def image_of(layout: Layout, placing: Placing, number: int, row: Bytes) -> Bytes | None:
    """Give the memory that holds a file byte for byte, or None if it is made in the window."""
    at = placing.images[number]
    return None if at is None else row[at : at + layout.files[number].size]


def _copies(
    layout: Layout, placing: Placing, copier: Copier, row: Bytes, arrivals: Arrivals | None
) -> Iterator[Callable[[], None]]:
    """Cut the copying into jobs of about a chunk, so that threads end together."""
    for number, file in enumerate(layout.files):
        at = placing.images[number]
        if at is None:
            continue
        for start in range(0, file.size, CHUNK):
            stop = min(start + CHUNK, file.size)
            told = None if arrivals is None else partial(arrivals.arrived, number, start)
            yield _job(copier, file, start, stop, row[at + start : at + stop], told)
        end = at + file.size
        row[end : -(-end // PAGE) * PAGE] = 0
    if placing.stash:
        yield lambda: _fill_stash(layout, placing, copier, row)


def _job(
    copier: Copier, file: FilePlan, start: int, stop: int, target: Bytes, told: Callable[[], None] | None
) -> Callable[[], None]:
    def copy() -> None:
        copier.copy(file, start, stop, target)
        if told is not None:
            told()

    return copy


def _fill_stash(layout: Layout, placing: Placing, copier: Copier, row: Bytes) -> None:
    for file in layout.files:
        for placed in file.tensors:
            at = placing.stash.get(placed.index)
            if at is not None:
                copier.copy_leaf(placed, row[at : at + placed.nbytes])


async def stage(
    layout: Layout,
    placing: Placing,
    copier: Copier,
    memory: Any,
    *,
    worker: Worker,
    threads: int,
    arrivals: Arrivals | None = None,
) -> None:
    """Copy everything that may change to its place, with several threads of ``worker``.

    On return ``memory`` holds the images of files, byte for byte. The interpreter is left to others while
    the copies run.

    Args:
        layout: Planned for the leaves of ``copier``.
        placing: Planned for the layout.
        copier: Has the live arrays.
        memory: Writable, at least ``placing.nbytes`` bytes, on a page.
        worker: Runs the copies.
        threads: How many of its threads may.
        arrivals: Is told what is there already. That it ends is up to the caller.

    Raises:
        ValueError: The memory is too small, or an array is not what it was.
        BaseException: What the first copy that failed raised, once every thread has stopped.

    Cancellation: the copy goes on to its end, then ``CancelledError`` is raised.
    """
    row = as_row(memory)
    if len(row) < placing.nbytes:
        msg = f"{len(row)} bytes of memory for {placing.nbytes}"
        raise ValueError(msg)
    jobs = deque(_copies(layout, placing, copier, row, arrivals))

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

    running = [worker.submit(run) for _ in range(max(1, min(threads, len(jobs))))]
    outcomes: list[Outcome[None]] = await finish(asyncio.gather(*running))
    for outcome in outcomes:
        outcome.unwrap()


def digest_image(
    file: FilePlan,
    image: Bytes,
    *,
    stopped: Callable[[], bool],
    arrived: Callable[[int, int], bool] = lambda _start, _stop: True,
) -> FileDigests | None:
    """Digest a file that lies in memory, in the calling thread.

    Args:
        file: The file.
        image: Its bytes.
        stopped: Asked before each stretch, of 128 MiB.
        arrived: Waits until a stretch of it is there, and says whether it is.

    Returns:
        The digests, or None if it was stopped, or a stretch never came.
    """
    digester = FileDigester(file)
    data = memoryview(image.data)
    for start in range(0, file.size, DIGESTED):
        if stopped() or not arrived(start, min(start + DIGESTED, file.size)):
            return None
        digester.feed(data[start : start + DIGESTED])
    return digester.result()


def view(
    structure: Any,
    layout: Layout,
    placing: Placing,
    specs: Sequence[ArraySpec],
    values: Sequence[Any],
    root: Any,
) -> Any:
    """Show a staged state as plain containers, as :func:`async_ckpt.state.build.build` makes them.

    numpy arrays are read-only views of the staged memory. torch tensors share the memory and must not be
    written to, which torch has no means to prevent; if ``root`` is read-only they are copies. jax arrays
    are the ones that were saved if they were large, else copies.

    Args:
        structure: The tree.
        layout: What lies in which file.
        placing: What lies where in memory; none of it living.
        specs: Of the leaves.
        values: The leaves themselves.
        root: The staged memory; :meth:`async_ckpt.state.arena.Arena.lend` gives one whose life tells
            whether the view is still in use.
    """
    row = as_row(root)
    where: dict[int, int] = dict(placing.stash)
    for at, file in zip(placing.images, layout.files, strict=True):
        if at is not None:
            where.update((placed.index, at + placed.offset_in_file) for placed in file.tensors)

    def fetch(index: int) -> Any:
        start, spec = where.get(index), specs[index]
        if start is None:
            return values[index]
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
