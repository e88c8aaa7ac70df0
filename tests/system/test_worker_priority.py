from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from async_ckpt.system.threads import Worker

linux = pytest.mark.skipif(sys.platform != "linux", reason="priorities belong to threads on Linux only")


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    made = Worker("test-nice", threads=2, nice=request.param)
    yield made
    made.close()


@linux
@pytest.mark.asyncio
@pytest.mark.parametrize("worker", [7], indirect=True)
async def test_each_thread_lowers_its_own_priority_once_and_nobody_elses(worker: Worker) -> None:
    mine = priority()
    together = threading.Barrier(2, timeout=30)

    def both_at_once() -> int:
        together.wait()
        return priority()

    first, second = worker.submit(both_at_once), worker.submit(both_at_once)
    assert [(await first).unwrap(), (await second).unwrap()] == [min(mine + 7, 19)] * 2
    assert await worker.call(priority) == min(mine + 7, 19)
    assert priority() == mine


@linux
@pytest.mark.asyncio
@pytest.mark.parametrize("worker", [0], indirect=True)
async def test_without_nice_a_thread_keeps_the_priority_it_was_started_with(worker: Worker) -> None:
    assert await worker.call(priority) == priority()


@pytest.mark.asyncio
@pytest.mark.parametrize("worker", [7], indirect=True)
async def test_a_system_that_refuses_changes_nothing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: int) -> None:
        asked.append(arguments)
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse, raising=False)
    assert await worker.call(lambda: 5) == 5
    assert len(asked) == (1 if sys.platform == "linux" else 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("worker", [7], indirect=True)
async def test_elsewhere_nothing_is_asked_of_the_system(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "setpriority", lambda *_: pytest.fail("asked"), raising=False)
    assert await worker.call(lambda: 5) == 5
