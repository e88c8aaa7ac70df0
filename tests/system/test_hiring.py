from __future__ import annotations

import threading

import pytest

from async_ckpt.system.threads import Worker


@pytest.mark.asyncio
async def test_hired_threads_are_all_there_and_free() -> None:
    worker, hirer = Worker("test-hired", threads=3), Worker("test-hirer")
    together = threading.Barrier(3, timeout=30)
    try:
        await hirer.call(worker.hire)
        names = {thread.name for thread in threading.enumerate()}
        assert {f"test-hired_{number}" for number in range(3)} <= names
        waiting = [worker.submit(together.wait) for _ in range(3)]
        assert {(await future).unwrap() for future in waiting} == {0, 1, 2}
    finally:
        worker.close()
        hirer.close()
