"""What is started is waited for, and what is said not to have been started has not run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_ckpt.system import threads
from async_ckpt.system.threads import Worker, insist, see_through, spawn, spend


class LacksMemory:
    """A set of references that takes no more of them."""

    def add(self, _: object) -> None:
        raise MemoryError

    discard = add


@pytest.mark.asyncio
async def test_a_task_that_could_not_be_kept_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    async def work() -> None:
        ran.append(True)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with monkeypatch.context() as patched:
        patched.setattr(threads, "_running", LacksMemory())
        with pytest.raises(MemoryError):
            spawn(work(), name="kept by nobody")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not ran


@pytest.mark.asyncio
async def test_a_call_in_a_thread_is_waited_for_where_memory_lacks_for_the_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait, lacked = asyncio.wait, list[bool]()

    async def waits(*args: Any, **kwargs: Any) -> Any:
        if not lacked:
            lacked.append(True)
            raise MemoryError
        return await wait(*args, **kwargs)

    monkeypatch.setattr(asyncio, "wait", waits)
    worker = Worker("w")
    try:
        assert await worker.call(lambda: "done") == "done"
        assert (await see_through(worker.submit, lambda: "done")).value == "done"
    finally:
        worker.close()
    assert lacked


def test_what_must_not_be_left_out_is_tried_again_but_not_for_ever() -> None:
    tries = []

    def call(enough: int) -> str:
        tries.append(True)
        if len(tries) < enough:
            raise MemoryError
        return "done"

    assert insist(lambda: call(3)) == "done"
    tries.clear()
    with pytest.raises(MemoryError):
        insist(lambda: call(10**6))
    assert len(tries) == threads.TRIES


def test_the_error_of_the_last_try_leaves() -> None:
    tries, lacked = 3, list[MemoryError]()
    with pytest.raises(MemoryError) as caught:
        while True:
            try:
                lacked.append(MemoryError())
                raise lacked[-1]
            except MemoryError:
                tries = spend(tries)
    assert len(lacked) == 3
    assert caught.value is lacked[-1]
