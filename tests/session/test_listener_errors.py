"""A callback fails: who is still called, what is still saved, and what leaves where."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, ListenerError, MonitoredTrainingSession
from async_ckpt.events import ListenerSlow
from async_ckpt.testing import Gate, RecordingListener
from tests.session.support import SlowStore, advance, events_of, saver_on, soon, training, weights

Log = list[tuple[str, str, int | None]]

ERRORS = [ValueError("bad"), asyncio.CancelledError("of its own"), StopIteration("end of input")]


def saved(store: SlowStore) -> list[int | None]:
    return [step for what, step in store.done if what == "commit"]


def trio(log: Log, **raise_in: Any) -> list[RecordingListener]:
    """A, B, C on one log; B raises."""
    return [
        RecordingListener("A", log),
        RecordingListener("B", log, raise_in=raise_in),
        RecordingListener("C", log),
    ]


def calls(log: Log, phase: str) -> list[tuple[str, int | None]]:
    return [(name, step) for name, called, step in log if called == phase]


# -- the phases that prepare -----------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_first_error_ends_begin_and_those_that_began_get_their_end() -> None:
    log: Log = []
    error = ValueError("bad")
    listeners = trio(log, begin=error)
    with pytest.raises(ListenerError) as caught:
        async with training(SlowStore(), listeners=listeners):
            pytest.fail("the session was entered")
    (failure,) = caught.value.errors
    assert (failure.listener, failure.phase, failure.step, failure.exception) == (
        listeners[1],
        "begin",
        None,
        error,
    )
    assert caught.value.__cause__ is error
    assert log == [("A", "begin", None), ("B", "begin", None), ("A", "end", 0)]


@pytest.mark.asyncio
async def test_an_error_in_begin_of_a_later_hook_still_gives_the_earlier_hooks_their_end() -> None:
    log: Log = []
    async with saver_on(SlowStore()) as one, saver_on(SlowStore()) as other:
        hooks = [
            CheckpointSaverHook(one, weights(), save_steps=1, listeners=[RecordingListener("Z", log)]),
            CheckpointSaverHook(other, weights(), save_steps=1, listeners=trio(log, begin=ValueError("bad"))),
        ]
        with pytest.raises(ListenerError):
            await MonitoredTrainingSession(hooks=hooks).__aenter__()
    assert calls(log, "end") == [("Z", 0), ("A", 0)]


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_the_first_error_ends_before_save_and_nothing_is_saved_by_that_hook() -> None:
    log: Log = []
    stores = SlowStore(), SlowStore()
    error = ValueError("bad")
    async with saver_on(stores[0]) as one, saver_on(stores[1]) as other:
        listeners = trio(log, before_save={1: error})
        hooks = [
            CheckpointSaverHook(one, weights(), save_steps=2, initial_save="never", listeners=listeners),
            CheckpointSaverHook(
                other,
                weights(),
                save_steps=2,
                initial_save="never",
                listeners=[RecordingListener("D", log)],
            ),
        ]
        async with MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
            await advance(session, 1)
            with pytest.raises(ListenerError) as caught:
                await session.advance()
            assert session.global_step == 2
            await soon(session.drain())
            # The other hook's save is none of its business.
            assert (saved(stores[0]), saved(stores[1])) == ([], [2])
            assert calls(log, "before_save") == [("A", 2), ("B", 2), ("D", 2)]
            assert calls(log, "after_save") == [("D", 2)]
    (failure,) = caught.value.errors
    assert (failure.listener, failure.phase, failure.step, failure.exception) == (
        listeners[1],
        "before_save",
        2,
        error,
    )
    assert caught.value.__cause__ is error
    assert (caught.value.phase, caught.value.step) == ("before_save", 2)
    assert calls(log, "end") == [("A", 2), ("B", 2), ("C", 2), ("D", 2)]


@pytest.mark.asyncio
async def test_an_error_of_before_save_at_the_initial_save_leaves_at_the_entry() -> None:
    log: Log = []
    store = SlowStore()
    with pytest.raises(ListenerError):
        async with training(store, initial_save="fresh", listeners=trio(log, before_save=ValueError("bad"))):
            pytest.fail("the session was entered")
    assert saved(store) == []
    assert calls(log, "end") == [("A", 0), ("B", 0), ("C", 0)]


@pytest.mark.asyncio
async def test_an_error_of_before_save_at_the_final_save_leaves_at_the_exit() -> None:
    log: Log = []
    store = SlowStore()
    with pytest.raises(ListenerError) as caught:
        async with training(
            store, save_steps=9, listeners=trio(log, before_save=ValueError("bad"))
        ) as session:
            await advance(session, 3)
    assert (caught.value.phase, caught.value.step) == ("before_save", 3)
    assert saved(store) == []
    assert calls(log, "before_save") == [("A", 3), ("B", 3)]
    assert calls(log, "end") == [("A", 3), ("B", 3), ("C", 3)]


# -- the phases that report ------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_an_error_of_after_save_reaches_everyone_and_leaves_at_the_next_boundary() -> None:
    log: Log = []
    store = SlowStore()
    error = ValueError("bad")
    async with training(store, listeners=trio(log, after_save={1: error})) as session:
        await advance(session, 2)
        await soon(session.drain())
        assert calls(log, "after_save") == [("A", 2), ("B", 2), ("C", 2)]
        assert session.errors[0].__cause__ is error
        with pytest.raises(ListenerError) as caught:
            await session.advance()
        assert caught.value is session.errors[0]
        # The step that met the error was counted, and the checkpoint is as durable as before.
        assert session.global_step == 3
        await advance(session, 1)
    assert caught.value.__cause__ is error
    assert (caught.value.phase, caught.value.step) == ("after_save", 2)
    assert saved(store) == [2, 4]
    assert len(session.errors) == 1


@pytest.mark.asyncio
async def test_several_errors_of_one_phase_leave_as_one_with_a_group_as_cause() -> None:
    errors = [ValueError("first"), KeyError("second")]
    listeners = [RecordingListener(str(e), raise_in={"after_save": {1: e}}) for e in errors]
    async with training(SlowStore(), listeners=listeners) as session:
        await advance(session, 2)
        await soon(session.drain())
        with pytest.raises(ListenerError) as caught:
            await session.advance()
    assert [failure.listener for failure in caught.value.errors] == listeners
    assert [failure.exception for failure in caught.value.errors] == errors
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert list(cause.exceptions) == errors


@pytest.mark.asyncio
async def test_an_error_of_after_save_at_the_final_save_leaves_at_the_exit() -> None:
    log: Log = []
    store = SlowStore()
    with pytest.raises(ListenerError) as caught:
        async with training(store, listeners=trio(log, after_save=ValueError("bad"))) as session:
            await advance(session, 1)
    assert (caught.value.phase, caught.value.step) == ("after_save", 1)
    assert saved(store) == [1]
    assert calls(log, "end") == [("A", 1), ("B", 1), ("C", 1)]


@pytest.mark.asyncio
async def test_an_error_of_end_reaches_everyone_and_leaves_at_the_exit() -> None:
    log: Log = []
    error = ValueError("bad")
    with pytest.raises(ListenerError) as caught:
        async with training(SlowStore(), listeners=trio(log, end=error)) as session:
            await advance(session, 1)
    assert (caught.value.phase, caught.value.step, caught.value.__cause__) == ("end", 1, error)
    assert calls(log, "end") == [("A", 1), ("B", 1), ("C", 1)]


@pytest.mark.asyncio
async def test_errors_of_end_become_notes_of_the_exception_that_leaves_the_block() -> None:
    log: Log = []
    mistake = LookupError("of the training")
    with pytest.raises(LookupError) as caught:
        async with training(SlowStore(), listeners=trio(log, end=ValueError("bad"))) as session:
            await advance(session, 1)
            raise mistake
    assert caught.value is mistake
    assert any("bad" in note for note in mistake.__notes__)
    assert [type(error) for error in session.errors] == [ListenerError]
    assert calls(log, "end") == [("A", 1), ("B", 1), ("C", 1)]


@pytest.mark.asyncio
async def test_a_vote_beside_an_error_still_counts() -> None:
    listeners = [
        RecordingListener("A", raise_in={"after_save": {1: ValueError("bad")}}),
        RecordingListener("B", vote_at=(2,)),
    ]
    async with training(SlowStore(), listeners=listeners) as session:
        await advance(session, 2)
        await soon(session.drain())
        with pytest.raises(ListenerError):
            await session.advance()
        assert session.should_stop()


# -- what is raised --------------------------------------------------------------------------


def plain(phase: str, error: BaseException, log: Log) -> Any:
    """A listener with one plain method that raises the first time."""

    class Plain:
        def _raise(self, *_: Any) -> None:
            log.append(("P", phase, None))
            if len(log) == 1:
                raise error

    listener = Plain()
    setattr(listener, phase, listener._raise)
    return listener


def coroutine(phase: str, error: BaseException, log: Log) -> Any:
    """The same with a coroutine method."""
    return RecordingListener("P", log, raise_in={phase: {1: error}})


@pytest.mark.asyncio
@pytest.mark.loop_flavours
@pytest.mark.parametrize("make", [plain, coroutine])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("phase", ["begin", "before_save", "after_save", "end"])
async def test_whatever_a_callback_raises_is_its_own_error_and_never_ends_the_run(
    make: Any, error: BaseException, phase: str
) -> None:
    """No class means "end of input", and a CancelledError that nobody sent cancels nobody."""
    with pytest.raises(ListenerError) as caught:
        async with training(SlowStore(), save_steps=1, listeners=[make(phase, error, [])]) as session:
            for _ in range(3):
                await advance(session, 1)
                await soon(session.drain())
    (failure,) = caught.value.errors
    assert failure.phase == phase
    assert caught.value.__cause__ is failure.exception
    # Python itself turns a StopIteration that leaves a coroutine into a RuntimeError, with it as cause.
    assert error in (failure.exception, failure.exception.__cause__)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.asyncio
@pytest.mark.loop_flavours
@pytest.mark.parametrize("on_listener_error", ["raise", "log"])
@pytest.mark.parametrize("make", [plain, coroutine])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("phase", ["begin", "before_save", "after_save", "end"])
async def test_keyboard_interrupt_and_system_exit_of_a_callback_leave_as_themselves(
    phase: str, error: BaseException, make: Any, on_listener_error: str
) -> None:
    log: Log = []
    with pytest.raises(type(error)) as caught:
        async with training(
            SlowStore(),
            save_steps=1,
            on_listener_error=on_listener_error,
            listeners=[RecordingListener("Z", log), make(phase, error, [])],
        ) as session:
            for _ in range(3):
                await advance(session, 1)
                await soon(session.drain())
    assert caught.value is error
    assert [name for name, _ in calls(log, "end")] == ["Z"]


# -- on_listener_error="log" -----------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("phase", ["before_save", "after_save", "end"])
async def test_log_logs_with_traceback_and_the_rest_goes_on_and_the_save_is_taken(
    phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: Log = []
    store = SlowStore()
    error = ValueError("bad")
    with caplog.at_level(logging.WARNING, "async_ckpt"):
        async with training(store, on_listener_error="log", listeners=trio(log, **{phase: error})) as session:
            await advance(session, 2)
    assert saved(store) == [2]
    assert calls(log, phase) == [("A", 2), ("B", 2), ("C", 2)]
    assert calls(log, "after_save") == [("A", 2), ("B", 2), ("C", 2)]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert session.errors == ()


@pytest.mark.asyncio
async def test_log_a_listener_whose_begin_failed_gets_no_further_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: Log = []
    store = SlowStore()

    class Stateful(RecordingListener):
        def state_dict(self) -> Any:
            self.log.append((self.name, "state_dict", None))
            return {"best": 1}

        def load_state_dict(self, state: Any) -> None:
            self.log.append((self.name, "load_state_dict", None))

    async with training(SlowStore(store.place), listeners=[Stateful("B")]) as session:
        await advance(session, 2)
    listeners = [
        RecordingListener("A", log),
        Stateful("B", log, raise_in={"begin": ValueError("bad")}),
        RecordingListener("C", log),
    ]
    with caplog.at_level(logging.ERROR, "async_ckpt"):
        async with training(store, on_listener_error="log", listeners=listeners) as session:
            await advance(session, 2)
    assert saved(store) == [4]
    assert [phase for name, phase, _ in log if name == "B"] == ["begin"]
    for phase in ("before_save", "after_save", "end"):
        assert calls(log, phase) == [("A", 4), ("C", 4)]
    assert len(caplog.records) == 1


# -- listener_timeout_secs -------------------------------------------------------------------


class Hangs(CheckpointSaverListener):
    """Waits in ``after_save`` for what never comes."""

    name = "hangs"

    def __init__(self) -> None:
        self.cleaned_up = False

    async def after_save(self, session: Any, step: int) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned_up = True
        return True


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_a_coroutine_past_the_limit_is_cancelled_cleans_up_and_counts_as_failed() -> None:
    store = SlowStore()
    hangs, other = Hangs(), RecordingListener("other")
    async with training(
        store, listeners=[hangs, other], listener_timeout_secs=0.02, session_options={"final_save": "never"}
    ) as session:
        await advance(session, 2)
        await soon(session.drain())
        with pytest.raises(ListenerError) as caught:
            await session.advance()
    (failure,) = caught.value.errors
    assert (failure.listener, failure.phase, failure.step) == (hangs, "after_save", 2)
    assert isinstance(failure.exception, TimeoutError)
    assert hangs.cleaned_up
    assert other.calls["after_save"] == 1
    assert session.votes == ()
    assert saved(store) == [2]


@pytest.mark.asyncio
async def test_a_coroutine_that_swallows_its_cancellation_counts_as_failed_all_the_same() -> None:
    class Stubborn(CheckpointSaverListener):
        async def after_save(self, session: Any, step: int) -> bool:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return True
            return False

    async with training(
        SlowStore(),
        listeners=[Stubborn()],
        listener_timeout_secs=0.02,
        session_options={"final_save": "never"},
    ) as session:
        await advance(session, 2)
        await soon(session.drain())
        with pytest.raises(ListenerError) as caught:
            await session.advance()
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert session.votes == ()


@pytest.mark.asyncio
async def test_a_timeout_error_of_the_callbacks_own_is_told_as_it_is() -> None:
    error = TimeoutError("of a web service")
    listener = RecordingListener("A", raise_in={"after_save": {1: error}})
    async with training(SlowStore(), listeners=[listener], listener_timeout_secs=60) as session:
        await advance(session, 2)
        await soon(session.drain())
        with pytest.raises(ListenerError) as caught:
            await session.advance()
    assert caught.value.__cause__ is error


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_a_plain_function_past_the_limit_is_reported_and_waited_for() -> None:
    store = SlowStore()
    release = threading.Event()
    done: list[int] = []

    class Slow:
        name = "slow"

        def before_save(self, session: Any, step: int) -> None:
            assert release.wait(20)
            done.append(step)

    async with training(store, listeners=[Slow()], listener_timeout_secs=0.02) as session:
        reports = events_of(session, ListenerSlow)
        session.subscribe(lambda event: release.set() if isinstance(event, ListenerSlow) else None)
        await advance(session, 2)
        assert done == [2]
        assert [(e.listener, e.phase, e.step, e.seconds) for e in reports] == [
            ("slow", "before_save", 2, 0.02)
        ]
    assert saved(store) == [2]
    assert session.errors == ()


@pytest.mark.asyncio
async def test_the_limit_counts_the_callback_alone_and_not_its_place_in_the_queue() -> None:
    """B waits behind A, which is slow and within nobody's limit; B itself is quick."""
    store = SlowStore()
    gate = Gate()
    async with saver_on(store) as one, saver_on(SlowStore()) as other:
        hooks = [
            CheckpointSaverHook(
                one,
                weights(),
                save_steps=2,
                initial_save="never",
                listeners=[RecordingListener("A", gates={"after_save": gate})],
            ),
            CheckpointSaverHook(
                other,
                weights(),
                save_steps=2,
                initial_save="never",
                blocking=True,
                listener_timeout_secs=0.02,
                listeners=[RecordingListener("B")],
            ),
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            await advance(session, 2)
            await soon(gate.reached())
            passed = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.05, passed.set_result, None)
            await passed
            gate.open()
            await soon(session.drain())
        assert session.errors == ()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1"])
def test_a_limit_has_to_be_a_positive_number(value: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="listener_timeout_secs"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=1, listener_timeout_secs=value)
