"""Leaving: cleanly, with an error, too late; what is saved, who is called, which error goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Literal

import pytest

from async_ckpt import (
    CheckpointSaverHook,
    DirectoryLockedError,
    ListenerError,
    MonitoredTrainingSession,
    ProtocolError,
    SaveError,
    Saver,
    SessionRunHook,
    StepRun,
)
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Disk, Weights, hang_guard, others_ended, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours

FinalSave = Literal["clean", "never", "always"]


def phases(listener: RecordingListener) -> list[tuple[str, int | None]]:
    return [(phase, step) for _, phase, step in listener.log]


# -- which final save --------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("final_save", ["clean", "never", "always"])
async def test_a_clean_exit_saves_the_last_step_unless_told_never_to(
    tmp_path: Path, final_save: FinalSave
) -> None:
    weights, listener = Weights(), RecordingListener("l")
    hook = saver_hook(tmp_path, weights, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save=final_save) as session:
        await session.run(weights.train)
    assert await saved_values(tmp_path) == ({} if final_save == "never" else {1: 1})
    saved = [] if final_save == "never" else [("before_save", 1), ("after_save", 1)]
    assert phases(listener) == [("begin", None), *saved, ("end", 1)]


@pytest.mark.asyncio
async def test_the_final_round_leaves_out_hooks_whose_last_step_is_durable(tmp_path: Path) -> None:
    one, two = RecordingListener("one"), RecordingListener("two")
    hooks = [
        saver_hook(tmp_path / "a", Weights(), save_steps=1, listeners=[one], initial_save="never"),
        saver_hook(tmp_path / "b", Weights(), listeners=[two], initial_save="never"),
    ]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks) as session:
        await session.advance()
    for listener in (one, two):
        assert phases(listener)[1:] == [("before_save", 1), ("after_save", 1), ("end", 1)]


@pytest.mark.asyncio
async def test_a_final_save_in_flight_is_waited_for_and_not_taken_twice(tmp_path: Path) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    async with hang_guard():
        hook = saver_hook(disk, Weights(), save_steps=1, listeners=[listener], initial_save="never")
        gate = disk.hold("commit")

        async def life() -> None:
            async with MonitoredTrainingSession(hooks=[hook]) as session:
                await session.advance()

        living = asyncio.create_task(life())
        await gate.reached()
        gate.open()
        await living
    assert [entry for entry in disk.log if entry[0] == "begin"] == [("begin", 1)]


@pytest.mark.asyncio
@pytest.mark.parametrize("final_save", ["clean", "never", "always"])
async def test_after_an_exception_at_a_boundary_only_always_saves(
    tmp_path: Path, final_save: FinalSave
) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")
    error = LookupError("between steps")
    async with hang_guard():
        with pytest.raises(LookupError) as caught:
            async with MonitoredTrainingSession(hooks=[hook], final_save=final_save) as session:
                await session.run(weights.train)
                raise error
    assert caught.value is error
    assert await saved_values(tmp_path) == ({1: 1} if final_save == "always" else {})


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
@pytest.mark.parametrize("final_save", ["clean", "never", "always"])
async def test_after_an_exception_in_a_step_nothing_is_saved(
    tmp_path: Path, final_save: FinalSave, plain: bool
) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")

    def half() -> None:
        weights.train()
        raise LookupError

    async def half_too() -> None:
        half()

    async with hang_guard():
        with pytest.raises(LookupError):
            async with MonitoredTrainingSession(hooks=[hook], final_save=final_save) as session:
                await session.run(weights.train)
                await session.run(half if plain else half_too)
    assert await saved_values(tmp_path) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("caught_by_the_user", [True, False])
@pytest.mark.parametrize("final_save", ["clean", "never", "always"])
async def test_after_a_failed_check_nothing_is_saved(
    tmp_path: Path, final_save: FinalSave, caught_by_the_user: bool
) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, save_steps=1, initial_save="never")

    class Refuses(SessionRunHook):
        async def check(self, run: StepRun) -> None:
            if run.step == 2:
                raise ArithmeticError("nan")

    async def life() -> None:
        async with MonitoredTrainingSession(hooks=[hook, Refuses()], final_save=final_save) as session:
            await session.run(weights.train)
            try:
                await session.run(weights.train)
            except ArithmeticError:
                if not caught_by_the_user:
                    raise

    async with hang_guard():
        if caught_by_the_user:
            await life()
        else:
            with pytest.raises(ArithmeticError):
                await life()
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_after_an_exception_of_after_run_always_saves(tmp_path: Path) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")

    class Fails(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            raise LookupError

    async with hang_guard():
        with pytest.raises(LookupError):
            async with MonitoredTrainingSession(hooks=[Fails(), hook], final_save="always") as session:
                await session.run(weights.train)
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_an_error_while_entering_saves_nothing_not_even_always(tmp_path: Path) -> None:
    class Fails(SessionRunHook):
        async def after_create_session(self, session: MonitoredTrainingSession) -> None:
            raise LookupError

    listener = RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    with pytest.raises(LookupError):
        async with MonitoredTrainingSession(hooks=[hook, Fails()], final_save="always"):
            raise AssertionError
    assert phases(listener) == [("begin", None), ("end", 0)]
    assert await saved_values(tmp_path) == {}


# -- which error -------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_leaving_with_an_error_completes_the_round_in_flight_and_the_same_object_goes_on(
    tmp_path: Path, error: BaseException
) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    gate = disk.hold("write")

    async def open_later() -> None:
        await gate.reached()
        gate.open()

    async with hang_guard():
        opening = asyncio.create_task(open_later())
        with pytest.raises(type(error)) as caught:
            async with MonitoredTrainingSession(hooks=[saver_hook(disk, Weights(), listeners=[listener])]):
                raise error
        await opening
    assert caught.value is error
    assert phases(listener) == [("begin", None), ("before_save", 0), ("after_save", 0), ("end", 0)]
    assert await saved_values(tmp_path) == {0: 0}


@pytest.mark.asyncio
async def test_later_errors_become_notes_of_the_first_and_stand_in_errors(tmp_path: Path) -> None:
    first = ValueError("first")
    listener = RecordingListener("l", raise_in={"after_save": OSError("second"), "end": OSError("third")})
    async with hang_guard():
        with pytest.raises(ValueError, match="first") as caught:
            async with MonitoredTrainingSession(
                hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])]
            ) as session:
                raise first
    assert caught.value is first
    notes = "\n".join(first.__notes__)
    assert "second" in notes
    assert "third" in notes
    assert [type(error) for error in session.errors] == [ListenerError, ListenerError]
    assert [error.phase for error in session.errors if isinstance(error, ListenerError)] == [
        "after_save",
        "end",
    ]


@pytest.mark.asyncio
async def test_without_an_error_the_oldest_late_one_leaves_with_the_others_as_notes(tmp_path: Path) -> None:
    listener = RecordingListener("l", raise_in={"after_save": OSError("second"), "end": OSError("third")})
    async with hang_guard():
        with pytest.raises(ListenerError, match="second") as caught:
            async with MonitoredTrainingSession(
                hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])]
            ) as session:
                pass
    assert caught.value is session.errors[0]
    assert "third" in "\n".join(caught.value.__notes__)


@pytest.mark.asyncio
async def test_a_final_save_that_fails_leaves_at_the_exit_and_end_is_called(tmp_path: Path) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    disk.fail("write")
    hook = saver_hook(disk, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard():
        with pytest.raises(SaveError) as caught:
            async with MonitoredTrainingSession(hooks=[hook]) as session:
                await session.advance()
    assert caught.value.step == 1
    assert phases(listener) == [("begin", None), ("before_save", 1), ("end", 1)]


@pytest.mark.asyncio
async def test_an_error_that_was_raised_at_a_boundary_is_not_raised_again(tmp_path: Path) -> None:
    listener = RecordingListener("l", raise_in={"after_save": {1: OSError("evaluation")}})
    async with hang_guard():
        async with MonitoredTrainingSession(
            hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])]
        ) as session:
            await session.drain()
            with pytest.raises(ListenerError):
                await session.advance()
        assert len(session.errors) == 1


@pytest.mark.asyncio
async def test_one_end_that_fails_keeps_nobody_else_from_theirs(tmp_path: Path) -> None:
    log: list[tuple[str, str, int | None]] = []
    ends: list[str] = []

    class Hook(SessionRunHook):
        def __init__(self, name: str) -> None:
            self.name = name

        async def end(self, session: MonitoredTrainingSession) -> None:
            ends.append(self.name)
            raise OSError(self.name)

    listeners = [
        RecordingListener("a", log, raise_in={"end": ValueError("a")}),
        RecordingListener("b", log, raise_in={"end": ValueError("b")}),
        RecordingListener("c", log),
    ]
    saver = saver_hook(tmp_path, Weights(), listeners=listeners, initial_save="never")
    async with hang_guard():
        with pytest.raises(OSError, match="one") as caught:
            async with MonitoredTrainingSession(
                hooks=[Hook("one"), saver, Hook("two")], final_save="never"
            ) as session:
                pass
    assert ends == ["one", "two"]
    assert [name for name, phase, _ in log if phase == "end"] == ["a", "b", "c"]
    assert caught.value is session.errors[0]
    kinds = [type(error) for error in session.errors]
    assert kinds == [OSError, ListenerError, OSError]
    assert isinstance(session.errors[1], ListenerError)
    assert [failure.listener for failure in session.errors[1].errors] == listeners[:2]


@pytest.mark.asyncio
async def test_only_hooks_whose_begin_returned_get_end() -> None:
    log: list[str] = []

    class Hook(SessionRunHook):
        def __init__(self, name: str) -> None:
            self.name = name

        async def begin(self) -> None:
            log.append(f"begin {self.name}")
            if self.name == "b":
                raise LookupError

        async def end(self, session: MonitoredTrainingSession) -> None:
            log.append(f"end {self.name}")

    with pytest.raises(LookupError):
        async with MonitoredTrainingSession(hooks=[Hook("a"), Hook("b"), Hook("c")]):
            raise AssertionError
    assert log == ["begin a", "begin b", "end a"]


# -- aclose, never entered, entered twice ------------------------------------------------------------


@pytest.mark.asyncio
async def test_aclose_is_a_clean_exit_and_a_second_one_does_nothing(tmp_path: Path) -> None:
    weights, listener = Weights(), RecordingListener("l")
    hook = saver_hook(tmp_path, weights, listeners=[listener], initial_save="never")
    async with hang_guard():
        session = await MonitoredTrainingSession(hooks=[hook]).__aenter__()
        await session.run(weights.train)
        await session.aclose()
        await session.aclose()
        with pytest.raises(ProtocolError):
            await session.run(weights.train)
    assert await saved_values(tmp_path) == {1: 1}
    assert phases(listener) == [("begin", None), ("before_save", 1), ("after_save", 1), ("end", 1)]


@pytest.mark.asyncio
async def test_aclose_inside_the_block_makes_its_end_do_nothing(tmp_path: Path) -> None:
    listener = RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.aclose()
        assert session.should_stop()
    assert [phase for phase, _ in phases(listener)].count("end") == 1


@pytest.mark.asyncio
async def test_two_acloses_at_once_are_one_close_and_both_wait_for_it(tmp_path: Path) -> None:
    gate = Gate()
    listener = RecordingListener("l", gates={"end": gate})
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])]) as session,
    ):
        closing = [asyncio.create_task(session.aclose()) for _ in range(2)]
        await gate.reached()
        await asyncio.sleep(0)
        assert not any(task.done() for task in closing)
        gate.open()
        await asyncio.gather(*closing)
    assert [phase for phase, _ in phases(listener)].count("end") == 1


@pytest.mark.asyncio
async def test_aclose_from_another_task_lets_the_step_come_to_its_boundary(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()

    async def step() -> str:
        await gate()
        weights.train()
        return "done"

    hook = saver_hook(tmp_path, weights, initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        running = asyncio.create_task(session.run(step))
        await gate.reached()
        closing = asyncio.create_task(session.aclose())
        for _ in range(5):
            await asyncio.sleep(0)
        gate.open()
        assert await running == "done"
        await closing
        assert session.global_step == 1
        with pytest.raises(ProtocolError):
            await session.advance()
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_a_session_that_was_never_entered_has_nothing_to_close(tmp_path: Path) -> None:
    listener = RecordingListener("l")
    session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path / "run", Weights(), listeners=[listener])])
    await session.aclose()
    await session.aclose()
    assert listener.log == []
    assert not (tmp_path / "run").exists()
    with pytest.raises(ProtocolError, match="once"):
        await session.__aenter__()


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["inside", "after"])
async def test_entering_twice_is_refused_and_disturbs_nothing(tmp_path: Path, where: str) -> None:
    listener = RecordingListener("l")
    async with hang_guard():
        session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])])
        async with session:
            if where == "inside":
                with pytest.raises(ProtocolError, match="once"):
                    await session.__aenter__()
            await session.advance()
        if where == "after":
            with pytest.raises(ProtocolError, match="once"):
                await session.__aenter__()
    assert [phase for phase, _ in phases(listener)].count("end") == 1


@pytest.mark.asyncio
async def test_a_saver_given_to_the_hook_stays_open(tmp_path: Path) -> None:
    async with hang_guard(), Saver(tmp_path) as saver:
        hook = CheckpointSaverHook(saver, Weights().tree, save_steps=1)
        async with MonitoredTrainingSession(hooks=[hook]) as session:
            await session.advance()
        assert [checkpoint.step for checkpoint in await saver.checkpoints()] == [0, 1]
        await saver.save(Weights().tree, 2)


# -- the grace period --------------------------------------------------------------------------------

GRACE = 0.05  # of the loop's clock; nothing here waits for it but the sessions themselves


@pytest.mark.asyncio
@pytest.mark.parametrize("phase", ["after_save", "end"])
async def test_a_coroutine_callback_still_running_is_abandoned_named_and_everyone_elses_end_called(
    tmp_path: Path, phase: str
) -> None:
    log: list[tuple[str, str, int | None]] = []
    gate = Gate()
    hangs = RecordingListener("hangs", log, gates={phase: gate}, log_exits=True)
    other = RecordingListener("other", log)
    ends: list[str] = []

    class Last(SessionRunHook):
        async def end(self, session: MonitoredTrainingSession) -> None:
            ends.append("hook")

    hook = saver_hook(tmp_path, Weights(), listeners=[hangs, other])
    async with hang_guard():
        with pytest.raises(ListenerError, match=f"hangs.{phase} was still running") as caught:
            async with MonitoredTrainingSession(hooks=[hook, Last()], grace_secs=GRACE) as session:
                if phase == "after_save":
                    await gate.reached()
                else:
                    await session.drain()
    assert caught.value.errors[0].listener is hangs
    assert caught.value.phase == phase
    assert isinstance(caught.value.errors[0].exception, TimeoutError)
    # The coroutine was cancelled: its cleanup ran.
    assert ("hangs", "/" + phase, 0) in log
    assert ("other", "end", 0) in log
    assert log.count(("hangs", "end", 0)) == 1
    assert ends == ["hook"]


@pytest.mark.asyncio
async def test_a_hooks_end_still_running_is_abandoned_and_named() -> None:
    ends = []

    class Hangs(SessionRunHook):
        async def end(self, session: MonitoredTrainingSession) -> None:
            await asyncio.Event().wait()

    class Last(SessionRunHook):
        async def end(self, session: MonitoredTrainingSession) -> None:
            ends.append("last")

    async with hang_guard():
        with pytest.raises(TimeoutError, match=r"Hangs\.end was still running"):
            async with MonitoredTrainingSession(hooks=[Hangs(), Last()], grace_secs=GRACE):
                pass
    assert ends == ["last"]


@pytest.mark.asyncio
async def test_a_callback_in_a_thread_is_abandoned_and_the_others_do_not_wait_for_its_thread(
    tmp_path: Path,
) -> None:
    go, log = threading.Event(), []

    class Hangs:
        name = "hangs"

        def end(self, session: Any, step: int) -> None:
            go.wait(60)
            log.append("hangs")

    class Other:
        def end(self, session: Any, step: int) -> None:
            log.append("other")

    hook = saver_hook(tmp_path, Weights(), listeners=[Hangs(), Other()])
    try:
        async with hang_guard():
            with pytest.raises(ListenerError, match=r"hangs\.end was still running"):
                async with MonitoredTrainingSession(hooks=[hook], grace_secs=GRACE) as session:
                    await session.drain()
        assert log == ["other"]
    finally:
        go.set()
    async with hang_guard():
        await others_ended()
    assert log == ["other", "hangs"]


@pytest.mark.asyncio
async def test_a_coroutine_that_ignores_its_cancellation_holds_nobody_up(tmp_path: Path) -> None:
    go, over = asyncio.Event(), asyncio.Event()

    class Stubborn:
        async def end(self, session: Any, step: int) -> None:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            over.set()

    other = RecordingListener("other")
    hook = saver_hook(tmp_path, Weights(), listeners=[Stubborn(), other])
    async with hang_guard():
        with pytest.raises(ListenerError, match="still running"):
            async with MonitoredTrainingSession(hooks=[hook], grace_secs=GRACE) as session:
                await session.drain()
        assert phases(other)[-1] == ("end", 0)
        assert not over.is_set()
        go.set()
        await over.wait()
        await others_ended()


@pytest.mark.asyncio
async def test_a_thread_still_writing_keeps_lock_and_temporary_directory_and_the_exit_says_so(
    tmp_path: Path,
) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    came, go = disk.hold_thread()
    # Large enough for a thread of its own.
    hook = saver_hook(disk, Weights(300_000), listeners=[listener])
    async with hang_guard():
        try:
            with pytest.raises(SaveError) as caught:
                async with MonitoredTrainingSession(hooks=[hook], grace_secs=GRACE) as session:
                    while not came.is_set():
                        await asyncio.sleep(0)
            assert caught.value.step == 0
            assert session.errors == (caught.value,)
            assert phases(listener) == [("begin", None), ("before_save", 0), ("end", 0)]
            assert list(tmp_path.glob(".tmp-step-00000000-*"))
            async with Saver(tmp_path) as other:
                with pytest.raises(DirectoryLockedError):
                    await other.open()
        finally:
            go.set()
        # Once the thread is through, the lock is given back and nothing is left of the attempt.
        await others_ended()
        assert not disk.is_open
        async with Saver(tmp_path) as other:
            await other.open()
        # Nobody tells a session that has ended anything more.
        assert session.errors == (caught.value,)
    assert not list(tmp_path.glob("*step*"))


@pytest.mark.asyncio
async def test_a_commit_still_under_way_is_an_error_of_the_exit(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    gate = disk.hold("commit")
    async with hang_guard():
        with pytest.raises(SaveError) as caught:
            async with MonitoredTrainingSession(hooks=[saver_hook(disk, Weights())], grace_secs=GRACE):
                await gate.reached()
        assert caught.value.step == 0
        gate.open()
        await others_ended()
        assert not disk.is_open


@pytest.mark.asyncio
async def test_a_step_of_another_task_that_never_ends_does_not_hang_the_exit(tmp_path: Path) -> None:
    gate, listener = Gate(), RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    async with hang_guard():
        with pytest.raises(TimeoutError, match="step"):
            async with MonitoredTrainingSession(hooks=[hook], grace_secs=GRACE) as session:
                await session.drain()
                running = asyncio.create_task(session.run(gate))
                await gate.reached()
        assert phases(listener)[-1] == ("end", 0)
        gate.open()
        await asyncio.wait([running])
        assert isinstance(running.exception(), ProtocolError)


@pytest.mark.asyncio
async def test_a_hanging_callback_keeps_the_error_that_leaves_and_becomes_its_note(tmp_path: Path) -> None:
    error = ValueError("mine")
    hook = saver_hook(tmp_path, Weights(), listeners=[RecordingListener("hangs", gates={"end": Gate()})])
    async with hang_guard():
        with pytest.raises(ValueError, match="mine") as caught:
            async with MonitoredTrainingSession(hooks=[hook], grace_secs=GRACE) as session:
                await session.drain()
                raise error
    assert caught.value is error
    assert "hangs.end was still running" in "\n".join(error.__notes__)


@pytest.mark.asyncio
@pytest.mark.parametrize("grace", [-1, float("nan"), True])
async def test_a_grace_period_that_is_none_is_refused(grace: float) -> None:
    with pytest.raises(ValueError, match="grace_secs"):
        MonitoredTrainingSession(grace_secs=grace)


@pytest.mark.asyncio
async def test_a_final_save_of_that_name_does_not_exist() -> None:
    with pytest.raises(ValueError, match="final_save"):
        MonitoredTrainingSession(final_save="sometimes")  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_in_your_own_loop_an_exception_of_the_body_is_not_at_a_boundary(tmp_path: Path) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")
    async with hang_guard():
        with pytest.raises(ZeroDivisionError):
            async with MonitoredTrainingSession(hooks=[hook], final_save="always") as session:
                weights.train()
                await session.advance()
                weights.train()
                raise ZeroDivisionError
    assert await saved_values(tmp_path) == {}


@pytest.mark.asyncio
async def test_without_a_grace_period_an_exit_with_nothing_to_wait_for_is_no_error(tmp_path: Path) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")
    session = MonitoredTrainingSession(hooks=[hook], final_save="never", grace_secs=0)
    async with hang_guard(), session:
        await session.advance()
    assert session.errors == ()
