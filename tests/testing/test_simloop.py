"""The simulated loop: what it shuffles, what it keeps, and what it finds."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from async_ckpt.system.threads import Worker, finish
from async_ckpt.testing import SimDeadlock, SimError, SimLeak, SimLivelock, SimLoop, run_sim


async def race(count: int = 3) -> str:
    log: list[str] = []

    async def runner(name: str) -> None:
        for _ in range(2):
            log.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(runner(name) for name in "abc"[:count]))
    return "".join(log)


def test_the_same_seed_gives_the_same_run() -> None:
    assert [run_sim(race, seed) for seed in range(20)] == [run_sim(race, seed) for seed in range(20)]


def test_the_seeds_try_every_order_of_tasks() -> None:
    every = {"".join(order) for order in itertools.permutations("aabb")}
    assert {run_sim(lambda: race(2), seed) for seed in range(300)} == every


def test_callbacks_keep_the_order_they_were_scheduled_in() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        log: list[int] = []
        for number in range(5):
            loop.call_soon(log.append, number)
        loop.call_soon_threadsafe(log.append, 5)
        await asyncio.sleep(1)
        return log

    assert all(run_sim(main, seed) == [0, 1, 2, 3, 4, 5] for seed in range(50))


def test_whoever_awaits_a_task_finds_its_done_callbacks_called() -> None:
    async def main() -> None:
        called: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0)

        others = [asyncio.ensure_future(race()) for _ in range(2)]
        task = asyncio.ensure_future(work())
        task.add_done_callback(lambda _: called.append("done"))
        await task
        assert called == ["done"]
        await asyncio.gather(*others)

    for seed in range(50):
        run_sim(main, seed)


def test_time_is_virtual_and_timers_fire_in_the_order_of_their_time() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        log: list[float] = []

        async def sleeper(secs: float) -> None:
            await asyncio.sleep(secs)
            log.append(secs)

        await asyncio.gather(*(sleeper(secs) for secs in (86400.0, 3600.0, 1.0)))
        assert 86400.0 <= loop.time() < 86401.0
        return log

    assert run_sim(main) == [1.0, 3600.0, 86400.0]


def test_a_cancelled_timer_does_not_move_the_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(1000.0, print).cancel()
        await asyncio.sleep(1.0)
        return loop.time()

    assert run_sim(main) < 2.0


# -- threads -----------------------------------------------------------------------------------


def in_pool(count: int, workers: int, seed: int) -> list[int]:
    async def main() -> list[int]:
        log: list[int] = []
        pool = ThreadPoolExecutor(workers)
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, log.append, n) for n in range(count)))
        pool.shutdown()
        return log

    return run_sim(main, seed)


def test_one_worker_takes_its_calls_in_order() -> None:
    assert all(in_pool(4, 1, seed) == [0, 1, 2, 3] for seed in range(50))


def test_several_workers_overtake_each_other() -> None:
    assert len({tuple(in_pool(3, 3, seed)) for seed in range(200)}) == 6


def test_a_call_in_a_thread_ends_before_or_after_what_tasks_do_meanwhile() -> None:
    async def main() -> str:
        log: list[str] = []
        worker = Worker("w")

        async def write() -> None:
            await worker.call(log.append, "written")
            log.append("known")

        task = asyncio.ensure_future(write())
        for _ in range(20):
            await asyncio.sleep(0.0005)
            log.append("step")
        await task
        worker.close()
        return " ".join(log)

    runs = {run_sim(main, seed) for seed in range(100)}
    assert any("written step" in run for run in runs), "side effect first, news of it later"
    assert any("written known" in run for run in runs)
    assert len(runs) > 20


def test_a_function_in_a_thread_sees_no_loop_and_no_task() -> None:
    def inside() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    async def main() -> None:
        worker = Worker("w")
        await worker.call(inside)
        worker.close()
        assert asyncio.current_task() is not None

    run_sim(main)


def test_a_thread_can_call_back_into_the_loop() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        log: list[int] = []
        worker = Worker("w")
        await worker.call(lambda: [loop.call_soon_threadsafe(log.append, n) for n in range(3)])
        worker.close()
        return log

    assert run_sim(main) == [0, 1, 2]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), StopIteration()])
def test_what_a_function_in_a_thread_raises_reaches_whoever_waits(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def main() -> None:
        worker = Worker("w")
        try:
            await worker.call(fail)
        finally:
            worker.close()

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(expected):
        run_sim(main)


def test_an_exception_set_on_the_future_itself_is_raised() -> None:
    async def main(error: BaseException) -> None:
        def fail() -> None:
            raise error

        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, fail)

    with pytest.raises(OSError, match="full"):
        run_sim(lambda: main(OSError("full")))
    with pytest.raises(SimError, match="StopIteration"):
        run_sim(lambda: main(StopIteration()))


def test_the_default_executor_is_refused() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, print)

    with pytest.raises(SimError, match="default executor"):
        run_sim(main)


def test_an_executor_that_was_shut_down_is_refused() -> None:
    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        await asyncio.get_running_loop().run_in_executor(pool, print)

    with pytest.raises(RuntimeError, match="after shutdown"):
        run_sim(main)


def test_a_call_that_was_cancelled_in_the_queue_never_runs() -> None:
    log: list[str] = []

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            first = loop.run_in_executor(pool, log.append, "first")
            second = loop.run_in_executor(pool, log.append, "second")
            second.cancel()
            await first
            await asyncio.sleep(1)

    run_sim(main)
    assert log == ["first"]


def test_a_cancelled_wait_for_a_thread_waits_on() -> None:
    async def main() -> list[str]:
        log: list[str] = []
        worker = Worker("w")
        task = asyncio.ensure_future(worker.call(log.append, "written"))
        await asyncio.sleep(0.0001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        worker.close()
        return log

    assert {tuple(run_sim(main, seed)) for seed in range(50)} <= {("written",), ()}
    assert any(run_sim(main, seed) for seed in range(50))


# -- what it finds -----------------------------------------------------------------------------


async def stuck() -> None:
    async def waits_in_vain() -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(waits_in_vain(), name="the-writer")
    await finish(task)


def test_a_deadlock_names_the_tasks_and_where_they_wait() -> None:
    with pytest.raises(SimDeadlock) as caught:
        run_sim(stuck, 42)
    text = str(caught.value)
    assert "seed 42" in text
    assert "the-writer" in text
    assert "waits_in_vain (test_simloop.py:" in text
    assert "see_through (threads.py:" in text


def test_a_livelock_is_found() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SimLivelock, match=r"not done after 500 steps \(seed 3\)"):
        run_sim(main, 3, max_steps=500)


def test_a_task_left_behind_is_a_leak() -> None:
    async def main() -> None:
        kept[:] = [asyncio.create_task(asyncio.sleep(1), name="forgotten")]

    with pytest.raises(SimLeak, match="forgotten"):
        run_sim(main)


def test_a_task_left_behind_by_a_failing_main_is_a_leak_too() -> None:
    async def main() -> None:
        kept[:] = [asyncio.create_task(asyncio.sleep(1), name="forgotten")]
        raise OSError("full")

    with pytest.raises(SimLeak, match="forgotten") as caught:
        run_sim(main)
    assert isinstance(caught.value.__cause__, OSError)


kept: list[Any] = []  # a task without a reference may vanish before anybody sees it


def test_an_exception_that_nobody_retrieved_is_a_leak() -> None:
    async def main() -> None:
        asyncio.get_running_loop().create_future().set_exception(OSError("lost"))

    with pytest.raises(SimLeak, match="lost"):
        run_sim(main)


def test_a_callback_that_raises_is_reported() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(0.1)

    with pytest.raises(SimLeak, match="ZeroDivisionError"):
        run_sim(main)


def test_what_main_raises_comes_with_the_seed() -> None:
    async def main() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full") as caught:
        run_sim(main, 7)
    assert caught.value.__notes__ == ["simulated with seed 7"]


def test_a_leftover_that_refuses_to_end_does_not_hang_the_simulation() -> None:
    async def main() -> None:
        async def stubborn() -> None:
            while True:
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    continue

        kept[:] = [asyncio.create_task(stubborn(), name="stubborn")]
        await asyncio.sleep(0)

    with pytest.raises(SimLeak, match="stubborn"):
        run_sim(main)


def test_there_is_no_network() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().sock_accept(None)  # type: ignore[arg-type]

    with pytest.raises(NotImplementedError):
        run_sim(main)


# -- cancellation and eager tasks ---------------------------------------------------------------


def test_cancel_at_reaches_every_await_of_the_main_task() -> None:
    reached = []

    async def main() -> str:
        place = "entry"
        try:
            for place in ("first", "second", "third"):  # noqa: B007 - read in the handler
                await asyncio.sleep(0.1)
            place = "exit"
        except asyncio.CancelledError:
            reached.append(place)
            raise
        return place

    for step in range(2, 5):
        with pytest.raises(asyncio.CancelledError):
            run_sim(main, step, cancel_at=step)
    assert reached == ["first", "second", "third"]
    with pytest.raises(asyncio.CancelledError):
        run_sim(main, cancel_at=1)  # before its first line
    assert run_sim(main, cancel_at=5) == "exit"


def test_the_number_of_steps_of_main_is_known() -> None:
    loop = SimLoop()
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()
    assert loop.main_steps == 2


def test_eager_tasks_where_python_has_them() -> None:
    async def main() -> list[str]:
        log: list[str] = []

        async def child() -> None:
            log.append("child")

        task = asyncio.ensure_future(child())
        log.append("main")
        await task
        return log

    if sys.version_info >= (3, 12):
        assert run_sim(main, eager=True) == ["child", "main"]
    else:
        with pytest.raises(ValueError, match="no eager tasks"):
            run_sim(main, eager=True)
    assert run_sim(main) == ["main", "child"]


# -- anyio ---------------------------------------------------------------------------------------


async def deadline_cancels() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        with anyio.fail_after(5):
            await asyncio.sleep(100)
    assert 5 <= loop.time() < 6


async def deadline_keeps_cancelling_until_it_ends() -> None:
    refused = 0
    with anyio.move_on_after(1):
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                refused += 1
                if refused == 3:
                    raise
    assert refused == 3


async def shield_holds() -> None:
    log = []
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(1)
            log.append("inside")
        await asyncio.sleep(1)
        log.append("never")
    assert log == ["inside"]


async def task_group_cancels_its_siblings() -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise OSError("full")

    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as group:
            group.start_soon(fails)
            group.start_soon(anyio.sleep_forever)


@pytest.mark.parametrize(
    "main",
    [
        deadline_cancels,
        deadline_keeps_cancelling_until_it_ends,
        shield_holds,
        task_group_cancels_its_siblings,
    ],
)
def test_anyio_works_on_it(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    for seed in range(20):
        run_sim(main, seed)


def test_asyncio_timeouts_and_groups_work_on_it() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(100)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(n, n)) for n in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]

    for seed in range(20):
        run_sim(main, seed)
