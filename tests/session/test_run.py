"""``session.run()``: one step, called once, counted once, its result and its errors as they are."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import MonitoredTrainingSession, ProtocolError, SessionRunHook, StepRun
from tests.session.disk import Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours


@pytest.mark.asyncio
async def test_a_coroutine_function_is_awaited_on_the_loop_and_its_result_returned() -> None:
    where = []

    async def step(a: int, b: str) -> tuple[int, str]:
        await asyncio.sleep(0)
        where.append(threading.get_ident())
        return a, b

    async with MonitoredTrainingSession() as session:
        assert await session.run(step, 1, "two") == (1, "two")
        assert session.global_step == 1
    assert where == [threading.get_ident()]


@pytest.mark.asyncio
async def test_plain_functions_run_in_one_trainer_thread_that_is_not_the_loops() -> None:
    local = threading.local()

    def step(number: int) -> int:
        seen = getattr(local, "seen", 0)
        local.seen = seen + 1
        assert seen == number
        return threading.get_ident()

    async with MonitoredTrainingSession() as session:
        threads = set()
        for number in range(5):
            threads.add(await session.run(step, number))
            # Others that use threads in between change nothing.
            await asyncio.get_running_loop().run_in_executor(None, threading.get_ident)
        assert len(threads) == 1
        assert threads.pop() != threading.get_ident()
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.asyncio
async def test_the_loop_stays_free_while_a_plain_function_computes() -> None:
    go = threading.Event()

    async with hang_guard(), MonitoredTrainingSession() as session:
        running = asyncio.create_task(session.run(go.wait, 30))
        for _ in range(3):
            await asyncio.sleep(0)
        assert session.global_step == 0
        go.set()
        assert await running is True


@pytest.mark.asyncio
async def test_two_sessions_have_a_trainer_thread_each() -> None:
    async with MonitoredTrainingSession() as one, MonitoredTrainingSession() as other:
        assert await one.run(threading.get_ident) != await other.run(threading.get_ident)


class _AsyncCallable:
    async def __call__(self, value: int) -> int:
        await asyncio.sleep(0)
        return value + threading.get_ident() * 0


class _PlainCallable:
    def __call__(self, value: int) -> tuple[int, bool]:
        return value, threading.current_thread() is threading.main_thread()


@pytest.mark.asyncio
async def test_partials_methods_and_callable_objects_are_steps_too() -> None:
    async def coroutine_step(value: int, *, twice: bool) -> int:
        return value * (1 + twice)

    class Model:
        def step(self, value: int) -> tuple[int, bool]:
            return value, threading.current_thread() is threading.main_thread()

        async def astep(self, value: int) -> int:
            return value

    async with MonitoredTrainingSession() as session:
        assert await session.run(functools.partial(coroutine_step, twice=True), 2) == 4
        assert await session.run(functools.partial(_AsyncCallable(), 4)) == 4
        assert await session.run(_AsyncCallable(), 3) == 3
        assert await session.run(_PlainCallable(), 3) == (3, False)
        assert await session.run(Model().step, 5) == (5, False)
        assert await session.run(Model().astep, 6) == 6
        assert await session.run(functools.partial(max, 3), 9) == 9
        assert session.global_step == 7


@pytest.mark.asyncio
async def test_an_awaitable_returned_by_a_plain_function_is_awaited() -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value

    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with MonitoredTrainingSession() as session:
        assert await session.run(lambda value: later(value), 7) == 7
        future.set_result("the future's")
        assert await session.run(lambda: future) == "the future's"
        assert session.global_step == 2


@pytest.mark.asyncio
async def test_the_callers_context_variables_are_seen_by_the_step() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    async def step() -> str:
        return variable.get()

    async with MonitoredTrainingSession() as session:
        assert await session.run(step) == "set"
        assert await session.run(variable.get) == "set"


@pytest.mark.asyncio
async def test_fn_is_called_once_and_the_counter_moves_by_steps_with_one_save(tmp_path: Path) -> None:
    weights, calls = Weights(), []

    def step() -> None:
        calls.append(1)
        for _ in range(7):
            weights.train()

    hook = saver_hook(tmp_path, weights, save_steps=2, initial_save="never")
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await session.run(step, steps=7)
        assert (session.global_step, len(calls)) == (7, 1)
        await session.drain()
    assert await saved_values(tmp_path) == {7: 7}


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
async def test_if_fn_raises_the_same_object_leaves_and_the_counter_does_not_move(
    tmp_path: Path, plain: bool
) -> None:
    error = LookupError("of the step")
    seen: list[str] = []

    class Watching(SessionRunHook):
        async def before_run(self, run: StepRun) -> None:
            seen.append(f"before {run.step}")

        async def check(self, run: StepRun) -> None:
            seen.append(f"check {run.step}")

    def fails() -> None:
        raise error

    async def fails_too() -> None:
        await asyncio.sleep(0)
        raise error

    hook = saver_hook(tmp_path, Weights(), save_steps=1, initial_save="never")
    async with MonitoredTrainingSession(hooks=[hook, Watching()]) as session:
        with pytest.raises(LookupError) as caught:
            await session.run(fails if plain else fails_too)
        assert caught.value is error
        assert session.global_step == 0
        assert seen == ["before 0"]
        # Whoever catches it may go on.
        await session.run(lambda: None)
        assert session.global_step == 1
        assert seen == ["before 0", "before 0", "check 1"]
    assert error not in session.errors


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
async def test_a_stop_iteration_leaves_as_runtime_error_with_it_as_cause(plain: bool) -> None:
    def fails() -> None:
        raise StopIteration("end of input")

    async def fails_too() -> None:
        raise StopIteration("end of input")

    async with hang_guard(), MonitoredTrainingSession() as session:
        with pytest.raises(RuntimeError) as caught:
            await session.run(fails if plain else fails_too)
        assert isinstance(caught.value.__cause__, StopIteration)
        assert caught.value.__cause__.value == "end of input"
        assert session.global_step == 0


@pytest.mark.asyncio
async def test_a_keyboard_interrupt_of_a_plain_step_leaves_as_itself() -> None:
    interrupt = KeyboardInterrupt()

    def step() -> None:
        raise interrupt

    async with MonitoredTrainingSession() as session:
        with pytest.raises(KeyboardInterrupt) as caught:
            await session.run(step)
        assert caught.value is interrupt


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", [0, -1, True, 1.0, "1", None])
async def test_steps_below_one_or_no_integers_are_refused_before_anything_is_done(steps: Any) -> None:
    calls = []
    async with MonitoredTrainingSession() as session:
        with pytest.raises(ValueError, match="steps"):
            await session.run(lambda: calls.append(1), steps=steps)
        assert (calls, session.global_step) == ([], 0)


@pytest.mark.asyncio
async def test_what_cannot_be_called_is_a_type_error() -> None:
    async with MonitoredTrainingSession() as session:
        with pytest.raises(TypeError, match="function"):
            await session.run(None)  # type: ignore[arg-type]
        assert session.global_step == 0


@pytest.mark.asyncio
async def test_a_second_run_beside_the_first_is_refused_and_disturbs_nothing() -> None:
    go, calls = asyncio.Event(), []

    async def step() -> str:
        calls.append("first")
        await go.wait()
        return "done"

    async with hang_guard(), MonitoredTrainingSession() as session:
        first = asyncio.create_task(session.run(step))
        await asyncio.sleep(0)
        with pytest.raises(ProtocolError, match="another step"):
            await session.run(lambda: calls.append("second"))
        with pytest.raises(ProtocolError, match="another step"):
            await session.advance()
        go.set()
        assert await first == "done"
        assert (calls, session.global_step) == (["first"], 1)
        await session.run(lambda: calls.append("third"))
    assert calls == ["first", "third"]


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before", "after"])
async def test_run_outside_the_block_is_refused(when: str) -> None:
    session = MonitoredTrainingSession()
    if when == "after":
        async with session:
            pass
    calls: list[int] = []
    with pytest.raises(ProtocolError, match="open session"):
        await session.run(lambda: calls.append(1))
    with pytest.raises(ProtocolError, match="open session"):
        await session.advance()
    assert calls == []


@pytest.mark.asyncio
async def test_the_boundary_counts_checks_and_only_then_calls_after_run_in_hook_order() -> None:
    log: list[tuple[str, str, int, int, object]] = []

    class Named(SessionRunHook):
        def __init__(self, name: str) -> None:
            self._name = name

        async def before_run(self, run: StepRun) -> None:
            log.append((self._name, "before_run", run.step, run.steps, run.result))

        async def check(self, run: StepRun) -> None:
            log.append((self._name, "check", run.step, run.steps, run.result))

        async def after_run(self, run: StepRun) -> None:
            log.append((self._name, "after_run", run.step, run.steps, run.result))

    async with MonitoredTrainingSession(hooks=[Named("b")], chief_only_hooks=[Named("a")]) as session:
        await session.run(lambda: "loss", steps=3)
    assert log == [
        ("a", "before_run", 0, 3, None),
        ("b", "before_run", 0, 3, None),
        ("a", "check", 3, 3, "loss"),
        ("b", "check", 3, 3, "loss"),
        ("a", "after_run", 3, 3, "loss"),
        ("b", "after_run", 3, 3, "loss"),
    ]


@pytest.mark.asyncio
async def test_a_step_during_which_a_stop_is_asked_for_and_which_fails_leaves_the_session_stopped() -> None:
    """There is no boundary any more at which the request could become known."""
    async with MonitoredTrainingSession() as session:

        def step() -> None:
            session.request_stop("in the step")
            raise ValueError

        with pytest.raises(ValueError):
            await session.run(step)
        assert session.should_stop()
        assert session.stop_reason == "in the step"
