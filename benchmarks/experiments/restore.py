"""Restore in place, from a cold and from a warm page cache, beside what the machine can do."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from async_ckpt import Saver
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.ranges import Range
from benchmarks import states
from benchmarks.measure import drop_caches, tidy
from benchmarks.records import Job, Run
from benchmarks.systems.ours import make_saver
from benchmarks.systems.raw import aligned
from benchmarks.threads import Thread

__all__ = ["measure"]

PIECE = 16 * 2**20
READERS = 4
Bytes = npt.NDArray[np.uint8]


async def measure(job: Job, run: Run, directory: Path) -> None:
    """Seconds each; see the names in ``run.values``. The bare read uses four threads and 16 MiB reads.

    ``warm_undigested`` is a restore by the same saver that does not look at what has arrived of the large
    tensors, so the difference to ``warm_restore`` is what their digests cost.
    """
    worker = Thread("bench")
    spec = states.spec(job.states[0])
    state = await worker.call(states.build, spec)
    async with make_saver(directory) as saver:
        await saver.save(state, 1)
    await worker.call(tidy)
    files = sorted((directory / "step-00000001").glob("*.safetensors"))
    memory = await worker.call(aligned, sum(file.stat().st_size for file in files))
    run.values = {"bytes": [float(spec.nbytes)], "files": [float(len(files))]}

    async def timed(name: str, call: Callable[[], Any]) -> None:
        began = time.perf_counter()
        await call()
        run.values.setdefault(name, []).append(time.perf_counter() - began)

    async with make_saver(directory) as saver, Saver(_Undigested(directory), max_to_keep=None) as trusting:
        for _ in range(job.repeats):
            for name, flags in (("cold_read", 0), ("cold_read_direct", os.O_DIRECT)):
                _cold(run)
                await timed(name, functools.partial(worker.call, _read, files, memory, flags))

            _cold(run)
            await timed("cold_restore", lambda: saver.restore(1, into=state))
            await worker.call(_read, files, memory, 0)
            await timed("warm_read", lambda: worker.call(_read, files, memory, 0))
            await timed("warm_restore", lambda: saver.restore(1, into=state))
            await timed("warm_undigested", lambda: trusting.restore(1, into=state))
            await timed("copy", lambda: worker.call(_copy, state, memory))
            await timed("digest", lambda: worker.call(_digest, memory))
            await timed("only", lambda: saver.restore(1, only="model/wpe.weight"))
            if "mmap" in inspect.signature(saver.restore).parameters:
                options: dict[str, Any] = {"mmap": True}
                await timed("mmap", functools.partial(saver.restore, 1, **options))

    await worker.call(_check, state, spec)
    worker.close()


class _Undigested(LocalStore):
    """Shows nothing of a range that is read straight to where it belongs."""

    async def read_ranges(self, step: int, ranges: Sequence[Range]) -> None:
        await super().read_ranges(step, [_Unseen(item) for item in ranges])


class _Unseen:
    def __init__(self, item: Range) -> None:
        self.name, self.offset, self.size = item.name, item.offset, item.size
        self._item = item
        self._lent = False

    def target(self) -> memoryview | None:
        target = self._item.target()
        self._lent = target is None
        return target

    def take(self, at: int, data: memoryview) -> None:
        # Small tensors are copied out by whoever looks at them.
        if self._lent:
            self._item.take(at, data)


def _check(state: states.Arrays, spec: states.Spec) -> None:
    expected = states.build(spec)
    if not all(np.array_equal(state[group][name], expected[group][name]) for group, name, _ in spec.shapes):
        message = "what was restored is not what was saved"
        raise AssertionError(message)


def _cold(run: Run) -> None:
    note = "the page cache could not be dropped (it takes root): cold figures are warm ones"
    if not drop_caches() and note not in run.notes:
        run.notes.append(note)


def _read(files: list[Path], memory: Bytes, flags: int) -> None:
    """Read all files with several threads, into memory that was used before."""
    pieces: list[tuple[int, int, memoryview]] = []
    descriptors = [os.open(file, os.O_RDONLY | flags) for file in files]
    base = 0
    for fd, file in zip(descriptors, files, strict=True):
        size = file.stat().st_size
        for at in range(0, size, PIECE):
            # A direct read of the tail asks for a whole page; the memory has room for it.
            length = min(PIECE, -(-(size - at) // 4096) * 4096 if flags else size - at)
            start = (base if not flags else -(-base // 4096) * 4096) + at
            pieces.append((fd, at, memoryview(memory.data)[start : start + length]))
        base += size
    try:
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(_read_piece, pieces))
    finally:
        for fd in descriptors:
            os.close(fd)


def _read_piece(piece: tuple[int, int, memoryview]) -> None:
    fd, at, target = piece
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], at + done)
        if count == 0:
            break
        done += count


def _copy(state: states.Arrays, memory: Bytes) -> None:
    at = 0
    for names in state.values():
        for array in names.values():
            np.copyto(memory[at : at + array.nbytes].view(np.float32).reshape(array.shape), array)
            at += array.nbytes


def _digest(memory: Bytes) -> None:
    xxhash.xxh3_128(memory.data).digest()
