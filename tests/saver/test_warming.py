"""Whoever makes memory ready has left it before somebody else is given it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from async_ckpt.saver import warming
from async_ckpt.saver.engine import Engine
from async_ckpt.saver.warming import Warming


@pytest.mark.asyncio
async def test_where_memory_lacks_for_waiting_no_thread_writes_on_into_what_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came, go, wait = threading.Event(), threading.Event(), asyncio.wait
    writing = []

    def held(_: memoryview) -> bool:
        writing.append(True)
        came.set()
        assert go.wait(30)
        writing.pop()
        return True

    async def waits(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(asyncio, "wait", wait)
        while not came.is_set():
            await asyncio.sleep(0)
        raise MemoryError

    monkeypatch.setattr(warming, "prefault", held)
    monkeypatch.setattr(asyncio, "wait", waits)
    engine = Engine()
    warm = Warming(engine, object())
    task = asyncio.ensure_future(warm.warm(1 << 20))
    ending = asyncio.ensure_future(warm.end())
    while asyncio.wait is not wait:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(MemoryError):
        await task
    await ending
    assert not writing
    engine._close()
