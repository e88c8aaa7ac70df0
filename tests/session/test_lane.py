"""The serial lane: one callback at a time, in the order of asking, outcomes as values."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from async_ckpt import MonitoredTrainingSession
from async_ckpt.runtime.lane import Inside, Lane, current_call, is_coroutine_function
from async_ckpt.system.threads import Worker
from async_ckpt.testing import Gate, RecordingListener
from tests.session.support import SlowStore, advance, soon, training, until

pytestmark = pytest.mark.loop_flavours


@contextlib.asynccontextmanager
async def open_lane() -> AsyncIterator[Lane]:
    lane = Lane()
    try:
        yield lane
    finally:
        lane.close()


def mark(what: str = "A.before_save") -> Inside:
    return Inside(what, object())


# -- turns -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_calls_run_one_after_the_other_in_the_order_in_which_they_were_asked_for() -> None:
    log: list[str] = []
    gate = Gate()

    async def call(name: str) -> None:
        log.append(name)
        await gate()
        log.append(f"/{name}")

    async with open_lane() as lane:
        tasks = [asyncio.create_task(lane.call(call, name, inside=mark(name))) for name in "ABC"]
        await soon(gate.reached())
        assert log == ["A"]
        gate.open()
        await soon(asyncio.gather(*tasks))
    assert log == ["A", "/A", "B", "/B", "C", "/C"]


@pytest.mark.asyncio
async def test_a_plain_function_and_a_coroutine_function_share_the_lane() -> None:
    log: list[str] = []
    opened = threading.Event()
    inside_thread = asyncio.Event()
    loop = asyncio.get_running_loop()

    def plain() -> None:
        log.append("plain")
        loop.call_soon_threadsafe(inside_thread.set)
        assert opened.wait(20)
        log.append("/plain")

    async def coroutine() -> None:
        log.append("coroutine")

    async with open_lane() as lane:
        first = asyncio.create_task(lane.call(plain, inside=mark()))
        second = asyncio.create_task(lane.call(coroutine, inside=mark()))
        await soon(inside_thread.wait())
        assert log == ["plain"]
        opened.set()
        await soon(asyncio.gather(first, second))
    assert log == ["plain", "/plain", "coroutine"]


# -- outcomes --------------------------------------------------------------------------------


def raises(error: BaseException) -> None:
    raise error


async def raises_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.asyncio
@pytest.mark.parametrize("fn", [raises, raises_later])
@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_callback_raises_comes_back_as_a_value(fn: Any, error: BaseException) -> None:
    async with open_lane() as lane:
        outcome = await soon(lane.call(fn, error, inside=mark()))
        assert outcome.error is error
        # and the lane goes on
        assert (await soon(lane.call(lambda: 7, inside=mark()))).value == 7


@pytest.mark.asyncio
async def test_what_convert_raises_is_the_outcome_too() -> None:
    def convert(_: Any) -> Any:
        raise LookupError

    async with open_lane() as lane:
        outcome = await soon(lane.call(lambda: 1, inside=mark(), convert=convert))
    assert isinstance(outcome.error, LookupError)


@pytest.mark.asyncio
async def test_a_callback_that_cancels_its_own_task_is_its_own_error() -> None:
    async def cancels() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with open_lane() as lane:
        outcome = await soon(lane.call(cancels, inside=mark()))
    assert isinstance(outcome.error, asyncio.CancelledError)


@pytest.mark.asyncio
async def test_a_callback_that_cancels_its_own_task_and_ends_at_once_is_no_hang() -> None:
    async def cancels() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 1

    async with open_lane() as lane:
        outcome = await soon(lane.call(cancels, inside=mark()))
    assert outcome.value == 1 or isinstance(outcome.error, asyncio.CancelledError)


@pytest.mark.asyncio
async def test_a_callback_cancelled_by_somebody_else_is_an_error_even_before_its_first_step() -> None:
    gate = Gate()

    async def cancelled() -> None:
        await gate()

    async with open_lane() as lane:
        call = asyncio.create_task(lane.call(cancelled, inside=mark("A.end")))
        while not (tasks := [t for t in asyncio.all_tasks() if t.get_name() == "async_ckpt A.end"]):
            await asyncio.sleep(0)
        tasks[0].cancel()
        outcome = await soon(call)
        assert isinstance(outcome.error, asyncio.CancelledError)
        assert (await soon(lane.call(lambda: 7, inside=mark()))).value == 7


@pytest.mark.asyncio
async def test_context_variables_set_in_a_callback_stay_in_it() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def sets() -> str:
        before = variable.get()
        variable.set("set")
        return before

    async with open_lane() as lane:
        assert (await soon(lane.call(sets, inside=mark()))).value == "unset"
        assert (await soon(lane.call(sets, inside=mark()))).value == "unset"
    assert variable.get() == "unset"


@pytest.mark.asyncio
async def test_cancelling_the_task_of_a_callback_that_is_over_disturbs_nobody() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def keeps() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)

    async with open_lane() as lane:
        for _ in range(3):
            outcome = await soon(lane.call(keeps, inside=mark()))
            assert outcome.error is None
            for task in tasks:
                task.cancel()
    assert len({id(task) for task in tasks}) == 3


@pytest.mark.asyncio
async def test_a_call_takes_two_turns_of_the_loop() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def nothing() -> None: ...

    async with open_lane() as lane:
        counting = asyncio.create_task(other())
        await asyncio.sleep(0)
        before = turns
        for _ in range(10):
            await lane.call(nothing, inside=mark())
        assert turns - before <= 20
        counting.cancel()
        await asyncio.wait([counting])


def test_coroutine_functions_are_told_apart_by_what_they_are_not_by_what_they_return() -> None:
    class Later:
        async def __call__(self) -> None: ...

    class Now:
        def __call__(self) -> None: ...

    async def later() -> None: ...

    class Listener:
        async def later(self) -> None: ...

        @classmethod
        async def of_the_class(cls) -> None: ...

        @staticmethod
        async def of_nobody() -> None: ...

        def now(self) -> None: ...

    listener = Listener()
    assert is_coroutine_function(listener.later)
    assert is_coroutine_function(listener.of_the_class)
    assert is_coroutine_function(listener.of_nobody)
    assert is_coroutine_function(functools.partial(listener.later))
    assert not is_coroutine_function(listener.now)
    assert is_coroutine_function(later)
    assert is_coroutine_function(functools.partial(later))
    assert is_coroutine_function(Later())
    assert not is_coroutine_function(Now())
    assert not is_coroutine_function(lambda: later())


# -- abandoning ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_abandoned_coroutine_is_cancelled_and_the_next_call_gets_its_turn() -> None:
    gate = Gate()
    cancelled: list[bool] = []

    async def hangs() -> None:
        try:
            await gate()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with open_lane() as lane:
        inside = mark("hangs.end")
        call = asyncio.create_task(lane.call(hangs, inside=inside))
        await soon(gate.reached())
        assert lane.abandon() is inside
        outcome = await soon(call)
        assert isinstance(outcome.error, TimeoutError)
        assert "hangs.end" in str(outcome.error)
        assert (await soon(lane.call(lambda: 7, inside=mark()))).value == 7
    assert cancelled == [True]


@pytest.mark.asyncio
async def test_an_abandoned_coroutine_that_goes_on_is_not_collected_as_garbage() -> None:
    waiting: list[weakref.ref[asyncio.Future[None]]] = []
    ended: list[bool] = []
    gate = Gate()

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await gate()
        alone = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(alone))
        await alone
        ended.append(True)

    async with open_lane() as lane:
        call = asyncio.create_task(lane.call(stubborn, inside=mark()))
        await soon(gate.reached())
        lane.abandon()
        assert isinstance((await soon(call)).error, TimeoutError)
        await until(lambda: waiting)
        del call
        gc.collect()
        alone = waiting[0]()
        assert alone is not None
        alone.set_result(None)
        await until(lambda: ended)


@pytest.mark.asyncio
async def test_an_abandoned_plain_function_keeps_its_thread_and_the_next_one_gets_another() -> None:
    opened = threading.Event()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    threads: list[threading.Thread] = []

    def hangs() -> None:
        threads.append(threading.current_thread())
        loop.call_soon_threadsafe(reached.set)
        assert opened.wait(20)

    async with open_lane() as lane:
        call = asyncio.create_task(lane.call(hangs, inside=mark()))
        await soon(reached.wait())
        lane.abandon()
        assert isinstance((await soon(call)).error, TimeoutError)
        await soon(lane.call(lambda: threads.append(threading.current_thread()), inside=mark()))
        assert threads[0] is not threads[1]
        opened.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.asyncio
async def test_with_nothing_running_there_is_nothing_to_abandon() -> None:
    async with open_lane() as lane:
        assert lane.abandon() is None
        await soon(lane.call(lambda: 7, inside=mark()))
        assert lane.abandon() is None


# -- inside a callback -----------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [False, True])
async def test_the_mark_holds_while_the_callback_runs_and_no_longer(plain: bool) -> None:
    seen: list[Inside | None] = []

    def look() -> None:
        seen.append(current_call.get())
        assert inside.active

    async def look_later() -> None:
        look()

    inside = mark()
    async with open_lane() as lane:
        await soon(lane.call(look if plain else look_later, inside=inside))
    assert seen == [inside]
    assert not inside.active
    assert current_call.get() is None


@pytest.mark.asyncio
@pytest.mark.parametrize("phase", ["before_save", "after_save"])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_callback_may_ask_for_a_stop_and_read(phase: str, plain: bool) -> None:
    seen: list[Any] = []

    def ask(session: MonitoredTrainingSession, step: int) -> None:
        seen.append((session.global_step, session.votes, session.should_stop()))
        session.request_stop("enough")

    async def ask_later(session: MonitoredTrainingSession, step: int) -> None:
        ask(session, step)

    class Listener:
        pass

    listener = Listener()
    setattr(listener, phase, ask if plain else ask_later)
    options = {"final_save": "never"}
    async with training(SlowStore(), listeners=[listener], session_options=options) as session:
        await advance(session, 2)
        await soon(session.drain())
        await until(lambda: session._stopping.flag.decided)
        while not session.should_stop():
            await advance(session, 1)
        assert session.stop_reason == "enough"
        assert session.global_step <= 3
    assert seen == [(2, (), False)]


@pytest.mark.asyncio
async def test_a_cancelled_step_does_not_cancel_the_callback_it_waits_for() -> None:
    gate = Gate()
    listener = RecordingListener("A", gates={"before_save": gate}, log_exits=True)
    store = SlowStore()
    options = {"final_save": "never"}
    async with training(store, save_steps=1, listeners=[listener], session_options=options) as session:
        step = asyncio.create_task(session.advance())
        await soon(gate.reached())
        step.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not step.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await soon(step)
        assert listener.log[2:] == [("A", "before_save", 1), ("A", "/before_save", 1)]
        await soon(session.drain())
    assert store.done == []


@pytest.mark.asyncio
@pytest.mark.parametrize("begun", [True, False])
async def test_a_plain_function_is_called_once_although_memory_lacked_behind_its_start(
    monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    calls: list[int] = []
    submit = Worker.submit
    tried: list[bool] = []

    def lacking(worker: Worker, fn: Any, /, *args: Any) -> Any:
        if tried:
            return submit(worker, fn, *args)
        tried.append(True)
        held = threading.Event()
        if not begun:
            submit(worker, held.wait)
            asyncio.get_running_loop().call_soon(held.set)
        submit(worker, fn, *args)
        while begun and not calls:
            pass
        raise MemoryError

    monkeypatch.setattr(Worker, "submit", lacking)
    async with open_lane() as lane:
        outcome = await soon(lane.call(calls.append, 1, inside=mark()))
        assert (outcome.error is None) is not begun
        await soon(lane.call(int, inside=mark()))
    assert calls == [1]
