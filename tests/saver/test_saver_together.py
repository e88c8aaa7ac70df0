"""A large state is written while it is still being copied, and neither end leaves the other behind."""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import SaveError
from async_ckpt.saver import Engine, Saver, writing
from async_ckpt.state import arrivals, copying, staging
from async_ckpt.state.copying import Copier
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system.threads import Worker

from .conftest import Faults, assert_same, rich_state

pytestmark = pytest.mark.asyncio

CHUNK = 2**16


def state(seed: int = 0) -> dict[str, Any]:
    """About 3 MiB in several groups: dozens of chunks."""
    rng = np.random.default_rng(seed)
    large = {name: {"w": rng.standard_normal(100_000)} for name in ("a", "b", "c")}
    return {**rich_state(seed), **large, "d": {"w": rng.standard_normal(50)}}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_TOGETHER", 2**20)
    for module in (copying, staging, arrivals):
        monkeypatch.setattr(module, "CHUNK", CHUNK)
    monkeypatch.setattr("async_ckpt.saver.files._PIECE", 2 * CHUNK)


class Slow:
    """Holds the copy of the last stretch of a file until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.came, self.go = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        copy = Copier.copy

        def held(copier: Copier, file: Any, start: int, stop: int, target: Any) -> None:
            if file.name.startswith(name) and stop == file.size:
                self.came.set()
                assert self.go.wait(30)
                if self.error is not None:
                    raise self.error
            copy(copier, file, start, stop, target)

        monkeypatch.setattr(Copier, "copy", held)


async def test_it_comes_back_as_it_was(make_store: Any) -> None:
    async with Saver(make_store(), reuse_unchanged=True) as saver:
        for step in (1, 2, 3):
            await saver.save(state(step // 2), step)
            await saver.verify(step)
            assert_same((await saver.restore(step)).state, state(step // 2))


async def test_bytes_reach_the_store_before_the_copy_is_over(
    memory: MemoryStore, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, "c-")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(), 1)
        await thread.call(slow.came.wait)
        while pending.progress.bytes_done < pending.progress.bytes_total // 2:
            await asyncio.sleep(0)
        assert pending.progress.phase == "staging"
        assert not pending.viewable
        slow.go.set()
        await pending.staged()
        await pending
        assert_same((await saver.restore()).state, state())


async def test_a_copy_that_fails_ends_the_writing_and_is_what_is_raised(
    memory: MemoryStore, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, "b-")
    slow.error = MemoryError("no more")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(), 1)
        await thread.call(slow.came.wait)
        slow.go.set()
        with pytest.raises(SaveError, match="no more"):
            await pending
        assert await saver.checkpoints() == []
        assert not memory.place.attempts
        monkeypatch.undo()
        await saver.save(state(), 2)


async def test_a_disk_that_fails_waits_for_the_copy_before_the_state_may_change(
    memory: MemoryStore, faults: Faults, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, "c-")
    faults.fail("write", OSError(errno.ENOSPC, "No space left on device"), "a-00001-of-00001.safetensors")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(), 1)
        await thread.call(slow.came.wait)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not pending.done()
        slow.go.set()
        with pytest.raises(SaveError, match="No space left"):
            await pending
        assert await saver.checkpoints() == []


async def test_the_file_that_failed_first_is_the_cause_although_its_digest_ends_last(
    memory: MemoryStore, faults: Faults, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.fail("write", OSError(errno.ENOSPC, "No space left on device"), "a-00001-of-00001.safetensors")
    digest, later, go = staging.digest_image, threading.Event(), threading.Event()

    def last(file: Any, image: Any, **rest: Any) -> Any:
        if file.name.startswith("a-"):
            assert go.wait(30)
            return digest(file, image, **rest)
        try:
            return digest(file, image, **rest)
        finally:
            if file.name.startswith("b-"):
                later.set()

    monkeypatch.setattr("async_ckpt.saver.files.digest_image", last)
    # One thread for the digest that is held, and one for those that overtake it.
    async with Engine(copy_threads=2) as engine, Saver(memory, engine=engine) as saver:
        pending = saver.start_save(state(), 1)
        assert await thread.call(later.wait, 30)
        for _ in range(50):
            await asyncio.sleep(0)
        go.set()
        with pytest.raises(SaveError, match="No space left"):
            await pending


async def test_who_waits_for_the_copy_hears_of_its_end_though_memory_lacked_for_that(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, lacked = arrivals.Arrivals.end, list[bool]()

    def ends(self: arrivals.Arrivals) -> None:
        if not lacked:
            lacked.append(True)
            raise MemoryError
        end(self)

    monkeypatch.setattr(arrivals.Arrivals, "end", ends)
    async with Saver(memory) as saver:
        await saver.save(state(), 1)
        assert_same((await saver.restore()).state, state())
    assert lacked


async def test_a_save_cancelled_while_it_is_copied_leaves_nothing(
    memory: MemoryStore, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, "c-")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(), 1)
        await thread.call(slow.came.wait)
        assert pending.cancel()
        slow.go.set()
        with pytest.raises(SaveError, match="cancelled"):
            await pending
        assert not memory.place.attempts


async def test_a_change_under_the_copy_is_found_though_it_may_be_on_disk_already(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, copy, done = state(), Copier.copy, threading.Event()

    def meddling(copier: Copier, file: Any, start: int, stop: int, target: Any) -> None:
        copy(copier, file, start, stop, target)
        if file.name.startswith("a-") and start == 0 and not done.is_set():
            done.set()
            live["a"]["w"][0] = 7.0

    monkeypatch.setattr(Copier, "copy", meddling)
    async with Saver(memory, validate_staging=True) as saver:
        with pytest.raises(SaveError, match="a/w changed while being copied"):
            await saver.save(live, 1)
        assert await saver.checkpoints() == []
        await saver.save(live, 2)
