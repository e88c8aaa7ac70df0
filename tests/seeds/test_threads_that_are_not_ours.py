"""A thread of the store is neither somebody else's, nor left alone, nor waited for when it has ended.

Found by the tier ``allocation``. Aiofiles closes a file that was opened in an ``async with`` in the loop's
default executor. A thread that failed before its first line was counted as working for ever, so the directory
stayed locked. Memory that lacked for the waiting left a thread alone with the lock that it took. Memory that
lacked behind the rename made a checkpoint that was there a failed save.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import SaveError, Saver
from async_ckpt.storage.crew import Crew
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system.threads import Worker, finish
from async_ckpt.testing import run_sim


def test_no_call_of_a_save_goes_to_the_default_executor(tmp_path: Path) -> None:
    async def life() -> None:
        # The simulated loop refuses whoever asks for it.
        async with Saver(tmp_path / "runs") as saver:
            await saver.save({"x": 1}, 1)
            await saver._add_report(1, metrics={"loss": 1.0})
            assert (await saver.restore()).state == {"x": 1}

    run_sim(life)


@pytest.mark.asyncio
async def test_a_thread_that_fails_before_its_first_line_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew, last = Crew("test"), asyncio.Event()
    loop = asyncio.get_running_loop()

    def starved(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(crew, "_counted", starved)
        with pytest.raises(MemoryError):
            await crew.call(crew.calls, int)
    await crew.dismiss(lambda: loop.call_soon_threadsafe(last.set))  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        await last.wait()


@pytest.mark.asyncio
async def test_a_save_that_fails_without_words_says_what_failed() -> None:
    store = MemoryStore(faults=lambda operation, *_: MemoryError() if operation == "write" else None)
    async with Saver(store) as saver:
        with pytest.raises(SaveError, match="failed: MemoryError"):
            await saver.save({"x": 1}, 1)


@pytest.mark.asyncio
async def test_a_waiter_that_lacks_memory_does_not_leave_its_thread_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, wait, failures = Worker("test"), asyncio.wait, [MemoryError()]

    async def starved(futures: Any) -> Any:
        if failures:
            raise failures.pop()
        return await wait(futures)

    monkeypatch.setattr(asyncio, "wait", starved)
    assert await worker.call(lambda: 5) == 5
    assert failures == []
    worker.close()


@pytest.mark.asyncio
async def test_memory_that_lacks_for_ever_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    future = asyncio.get_running_loop().create_future()

    async def starved(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(asyncio, "wait", starved)
    with pytest.raises(MemoryError):
        await finish(future)


@pytest.mark.asyncio
async def test_memory_that_lacks_behind_the_rename_leaves_the_outcome_unknown() -> None:
    store = MemoryStore(faults=lambda operation, *_: MemoryError() if operation == "committed" else None)
    async with Saver(store) as saver:
        with pytest.raises(SaveError) as caught:
            await saver.save({"x": 1}, 1)
        assert caught.value.outcome == "unknown"
        assert [checkpoint.step for checkpoint in await saver.checkpoints()] == [1]
