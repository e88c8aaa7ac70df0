"""Steps behind which nothing has to be looked at: cheap, and never a step longer than that is so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import (
    CheckpointSaverHook,
    ListenerError,
    MonitoredTrainingSession,
    ProtocolError,
    SessionRunHook,
    SessionStopped,
    StepRun,
    StopAtStepHook,
)
from async_ckpt.testing import FakeClock, Gate, RecordingListener
from tests.session.disk import Disk, Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours

Step = Callable[[], Awaitable[Any]]


async def nothing() -> None:
    """A step that does nothing."""


def stepper(session: MonitoredTrainingSession, how: str) -> Step:
    return session.advance if how == "advance" else lambda: session.run(nothing)


def session_of(*hooks: SessionRunHook, **options: Any) -> MonitoredTrainingSession:
    return MonitoredTrainingSession(hooks=hooks, final_save="never", **options)


def rare(where: Path, **options: Any) -> CheckpointSaverHook:
    return saver_hook(where, Weights(), initial_save="never", **options)


async def quiet(session: MonitoredTrainingSession, step: Step) -> None:
    """Steps until nobody has anything for a boundary, as a training loop mostly is."""
    for _ in range(3):
        await step()
    assert session._host.quiet_until > session.global_step + 1


# -- what ends the quiet ---------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_an_error_of_background_work_surfaces_at_the_very_next_boundary(
    tmp_path: Path, how: str
) -> None:
    error = OSError("in the background")
    async with session_of(rare(tmp_path)) as session:
        step = stepper(session, how)
        await quiet(session, step)
        session._host.fail(error)
        with pytest.raises(OSError, match="in the background") as caught:
            await step()
        assert caught.value is error
        assert session.global_step == 4
        await quiet(session, step)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_warning_is_issued_at_the_very_next_boundary_in_the_callers_frame(
    tmp_path: Path, how: str
) -> None:
    async with session_of(rare(tmp_path)) as session:
        step = stepper(session, how)
        await quiet(session, step)
        session._host.warn("look at this")
        with pytest.warns(RuntimeWarning, match="look at this") as caught:
            if how == "advance":
                await session.advance()
            else:
                await session.run(nothing)
        assert [warning.filename for warning in caught] == [__file__]
        await quiet(session, step)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
@pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
async def test_after_a_stop_request_no_further_step_is_counted(
    tmp_path: Path, how: str, thread: bool
) -> None:
    async with session_of(rare(tmp_path)) as session:
        step = stepper(session, how)
        await quiet(session, step)
        if thread:
            asking = threading.Thread(target=session.request_stop, args=("enough",))
            asking.start()
            asking.join()
            await asyncio.sleep(0)
        else:
            session.request_stop("enough")
        assert session.should_stop()
        with pytest.raises(SessionStopped):
            await step()
        assert session.global_step == 3


@pytest.mark.asyncio
async def test_a_request_of_another_task_is_served_at_the_very_next_advance(tmp_path: Path) -> None:
    async with hang_guard(), session_of(rare(tmp_path)) as session:
        await quiet(session, session.advance)
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        assert not saving.done()
        await session.advance()
        saved: Any = await saving
        assert saved.step == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_vote_that_came_meanwhile_stops_at_the_very_next_boundary(tmp_path: Path, how: str) -> None:
    gate = Gate()
    listener = RecordingListener("l", gates={"after_save": gate}, vote_at=[0])
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    async with hang_guard(), session_of(hook) as session:
        step = stepper(session, how)
        await gate.reached()
        await quiet(session, step)
        gate.open()
        await session.drain()
        assert not session.should_stop()
        await step()
        assert session.should_stop()
        assert session.global_step == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_an_error_of_a_callback_surfaces_at_the_very_next_boundary(tmp_path: Path, how: str) -> None:
    gate = Gate()
    listener = RecordingListener("l", gates={"after_save": gate}, raise_in={"after_save": ValueError("bad")})
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    async with hang_guard(), session_of(hook) as session:
        step = stepper(session, how)
        await gate.reached()
        await quiet(session, step)
        gate.open()
        await session.drain()
        with pytest.raises(ListenerError):
            await step()
        assert session.global_step == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_no_step_is_counted_once_the_session_is_being_closed(tmp_path: Path, how: str) -> None:
    gate = Gate()
    hook = rare(tmp_path, listeners=[RecordingListener("l", gates={"end": gate})])
    async with hang_guard(), session_of(hook) as session:
        step = stepper(session, how)
        await quiet(session, step)
        closing = asyncio.create_task(session.aclose())
        await gate.reached()
        with pytest.raises(ProtocolError, match="open session"):
            await step()
        assert session.global_step == 3
        gate.open()
        await closing
        with pytest.raises(ProtocolError, match="open session"):
            await step()


# -- what a step leaves behind it ------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_the_second_of_two_errors_surfaces_at_the_second_boundary(tmp_path: Path, how: str) -> None:
    async with session_of(rare(tmp_path)) as session:
        step = stepper(session, how)
        await quiet(session, step)
        session._host.fail(OSError("first"))
        session._host.fail(OSError("second"))
        for message in ("first", "second"):
            with pytest.raises(OSError, match=message):
                await step()
        assert session.global_step == 5
        await quiet(session, step)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_vote_decided_during_a_step_that_fails_stops_at_the_next_boundary(
    tmp_path: Path, how: str
) -> None:
    gate, disk = Gate(), Disk(tmp_path)
    report = disk.hold("add")
    listener = RecordingListener("l", gates={"after_save": gate}, vote_at=[0])
    async with hang_guard(), session_of(saver_hook(disk, Weights(), listeners=[listener])) as session:
        await gate.reached()
        await quiet(session, session.advance)

        async def fails() -> None:
            gate.open()
            # From here to the end of the report nothing happens that a boundary would be told of.
            await report.reached()
            raise LookupError

        with pytest.raises(LookupError):
            await session.run(fails)
        assert not session.should_stop()
        await stepper(session, how)()
        assert session.should_stop()
        report.open()


@pytest.mark.asyncio
async def test_a_request_made_during_a_step_that_fails_is_served_at_the_next_boundary(
    tmp_path: Path,
) -> None:
    async with hang_guard(), session_of(rare(tmp_path)) as session:
        await quiet(session, session.advance)
        go = asyncio.Event()

        async def fails() -> None:
            await go.wait()
            raise LookupError

        running = asyncio.create_task(session.run(fails))
        await asyncio.sleep(0)
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(LookupError):
            await running
        await session.advance()
        saved: Any = await saving
        assert saved.step == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_step_that_ends_when_the_session_is_being_closed_is_the_last(
    tmp_path: Path, how: str
) -> None:
    go = asyncio.Event()
    async with hang_guard(), session_of(rare(tmp_path)) as session:
        await quiet(session, session.advance)

        async def two_steps() -> None:
            await session.run(go.wait)
            await stepper(session, how)()

        stepping = asyncio.create_task(two_steps())
        await asyncio.sleep(0)
        closing = asyncio.create_task(session.aclose())
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(ProtocolError, match="open session"):
            await stepping
        await closing
        assert session.global_step == 4


@pytest.mark.asyncio
async def test_a_state_bound_to_a_thread_is_read_on_the_loop_once_the_caller_steps_there(
    tmp_path: Path,
) -> None:
    weights, where = Weights(), []

    def read() -> Any:
        where.append(threading.get_ident())
        return weights.tree

    hook = CheckpointSaverHook(tmp_path, read, load=lambda tree: None, save_steps=1000, initial_save="never")
    async with hang_guard(), session_of(hook) as session:
        await quiet(session, lambda: session.run(int))
        await session.save()
        await quiet(session, lambda: session.run(int))
        await session.advance()
        await session.save()
    assert where[0] != threading.get_ident()
    assert where[1] == threading.get_ident()


# -- what is refused, is refused in the middle of the quiet ----------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
@pytest.mark.parametrize("steps", [0, -3, True, 2.5, None, "1"])
async def test_steps_below_one_or_no_integers_are_refused(tmp_path: Path, how: str, steps: Any) -> None:
    async with session_of(rare(tmp_path)) as session:
        await quiet(session, stepper(session, how))
        with pytest.raises(ValueError, match="steps"):
            await (session.advance(steps) if how == "advance" else session.run(nothing, steps=steps))
        assert session.global_step == 3
        await quiet(session, stepper(session, how))


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_step_inside_a_step_function_is_refused(tmp_path: Path, how: str) -> None:
    async with session_of(rare(tmp_path)) as session:
        await quiet(session, session.advance)

        async def nested() -> None:
            await stepper(session, how)()

        with pytest.raises(ProtocolError, match="inside the step function"):
            await session.run(nested)
        assert session.global_step == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_step_beside_another_one_is_refused(tmp_path: Path, how: str) -> None:
    go = asyncio.Event()
    async with hang_guard(), session_of(rare(tmp_path)) as session:
        await quiet(session, session.advance)
        running = asyncio.create_task(session.run(go.wait))
        await asyncio.sleep(0)
        with pytest.raises(ProtocolError, match="another step"):
            await stepper(session, how)()
        go.set()
        await running
        assert session.global_step == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_step_inside_mutating_is_refused(tmp_path: Path, how: str) -> None:
    async with session_of(rare(tmp_path)) as session:
        step = stepper(session, how)
        await quiet(session, step)
        async with session.mutating():
            with pytest.raises(ProtocolError, match=r"mutating\(\)"):
                await step()
        assert session.global_step == 3
        await quiet(session, step)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_step_inside_a_callback_is_refused(tmp_path: Path, how: str) -> None:
    gate, refused = Gate(), asyncio.Event()

    class Stepping:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            await gate()
            with pytest.raises(ProtocolError, match="after_save"):
                await stepper(session, how)()
            refused.set()

    hook = saver_hook(tmp_path, Weights(), listeners=[Stepping()])
    async with hang_guard(), session_of(hook) as session:
        await gate.reached()
        await quiet(session, session.advance)
        gate.open()
        await refused.wait()
        assert session.global_step == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_task_that_a_callback_left_behind_may_step(tmp_path: Path, how: str) -> None:
    go = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    class Leaving:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            async def later() -> None:
                await go.wait()
                await stepper(session, how)()

            left.append(asyncio.create_task(later()))

    hook = saver_hook(tmp_path, Weights(), listeners=[Leaving()])
    async with hang_guard(), session_of(hook) as session:
        await session.drain()
        await quiet(session, session.advance)
        go.set()
        await left[0]
        assert session.global_step == 4


# -- what is due, is due ---------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_the_grid_is_met_exactly_with_quiet_steps_between(tmp_path: Path, how: str) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, save_steps=7, initial_save="never", max_to_keep=None)
    async with session_of(hook) as session:
        step = stepper(session, how)
        for _ in range(30):
            weights.train()
            await step()
        await session.drain()
    assert await saved_values(tmp_path) == {7: 7, 14: 14, 21: 21, 28: 28}


@pytest.mark.asyncio
async def test_a_step_that_crosses_the_due_point_is_not_quiet(tmp_path: Path) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, save_steps=10, initial_save="never")
    async with session_of(hook) as session:
        await quiet(session, session.advance)
        for _ in range(20):
            weights.train()
        await session.advance(17)
        await session.drain()
    assert await saved_values(tmp_path) == {20: 20}


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
@pytest.mark.parametrize("hooked", [False, True], ids=["alone", "beside a hook"])
async def test_the_time_is_read_at_every_boundary_of_a_hook_that_goes_by_it(
    tmp_path: Path, how: str, hooked: bool
) -> None:
    clock, weights = FakeClock(), Weights()
    hook = saver_hook(tmp_path, weights, save_secs=10, initial_save="never", max_to_keep=None)
    others = [StopAtStepHook(1000)] if hooked else []
    async with session_of(hook, *others, clock=clock) as session:
        step = stepper(session, how)
        for number in range(1, 8):
            clock.advance(4)  # at 4 s, 8 s, 12 s and so on: due at 12 s, and again 10 s later
            weights.train()
            await step()
            await session.drain()
            assert session.global_step == number
    assert await saved_values(tmp_path) == {3: 3, 6: 6}


@pytest.mark.asyncio
async def test_time_that_passes_in_a_hook_before_the_saver_hook_counts_at_this_boundary(
    tmp_path: Path,
) -> None:
    clock, weights = FakeClock(), Weights()

    class Slow(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            clock.advance(10)

    hook = saver_hook(tmp_path, weights, save_secs=10, initial_save="never")
    async with session_of(Slow(), hook, clock=clock) as session:
        weights.train()
        await session.advance()
        await session.drain()
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_with_two_saver_hooks_the_nearer_due_point_counts(tmp_path: Path) -> None:
    hooks = [
        saver_hook(tmp_path / name, weights := Weights(), save_steps=steps, initial_save="never")
        for name, steps in (("rare", 1000), ("often", 5))
    ]
    del weights
    async with session_of(*hooks) as session:
        for _ in range(5):
            await session.advance()
        await session.drain()
        assert [hook.saver.location for hook in hooks if await hook.saver.latest()] == [
            str(tmp_path / "often")
        ]


@pytest.mark.asyncio
async def test_quiet_steps_count_for_an_iteration(tmp_path: Path) -> None:
    async with session_of(rare(tmp_path)) as session:
        seen = []
        async for step in session:
            seen.append(step)
            if step == 6:
                break
            await session.advance()
        assert seen == [0, 1, 2, 3, 4, 5, 6]
        with pytest.raises(ProtocolError, match="has to call"):
            async for _ in session:
                pass


@pytest.mark.asyncio
async def test_a_quiet_step_cancelled_in_its_turn_is_counted_and_at_a_boundary(tmp_path: Path) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")
    with pytest.raises(asyncio.CancelledError):
        async with MonitoredTrainingSession(hooks=[hook], final_save="always") as session:
            for _ in range(3):
                weights.train()
                await session.advance()
            weights.train()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await session.advance()
    assert await saved_values(tmp_path) == {4: 4}


@pytest.mark.asyncio
async def test_an_error_behind_a_quiet_step_belongs_to_no_boundary(tmp_path: Path) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")
    with pytest.raises(LookupError):
        async with MonitoredTrainingSession(hooks=[hook], final_save="always") as session:
            for _ in range(3):
                weights.train()
                await session.advance()
            weights.train()
            raise LookupError
    assert await saved_values(tmp_path) == {}


# -- hooks -----------------------------------------------------------------------------------


class Quiet(SessionRunHook):
    """A hook with nothing of its own to do at steps."""


@pytest.mark.asyncio
async def test_a_hook_that_does_nothing_at_steps_leaves_them_quiet(tmp_path: Path) -> None:
    async with session_of(Quiet(), rare(tmp_path)) as session:
        await quiet(session, session.advance)
        assert not session._boundary.hooked


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["before_run", "check", "after_run"])
@pytest.mark.parametrize("when", ["before the session", "in begin"])
async def test_a_method_given_to_one_hook_alone_is_called(method: str, when: str) -> None:
    called: list[str] = []

    async def note(run: StepRun) -> None:
        called.append(f"{method} {run.step}")

    class Late(Quiet):
        async def begin(self) -> None:
            setattr(self, method, note)

    hook = Late() if when == "in begin" else Quiet()
    if when != "in begin":
        setattr(hook, method, note)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await session.advance()
        await session.run(nothing)
    assert called == [f"{method} {step}" for step in ([0, 1] if method == "before_run" else [1, 2])]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["advance", "run"])
async def test_a_stop_that_a_hook_asks_for_in_its_place_is_published_at_this_boundary(how: str) -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(5)]) as session:
        step = stepper(session, how)
        for _ in range(5):
            assert not session.should_stop()
            await step()
        assert session.should_stop()


@pytest.mark.asyncio
async def test_hooks_that_are_equal_are_called_each() -> None:
    called: list[int] = []

    class Alike(SessionRunHook):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        async def after_run(self, run: StepRun) -> None:
            called.append(id(self))

    hooks = [Alike(), Alike()]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        await session.advance()
    assert called == [id(hook) for hook in hooks]
