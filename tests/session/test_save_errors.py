"""A save fails: what stays, when it is tried again, and where the error surfaces."""

from __future__ import annotations

import asyncio
import errno
import itertools
import warnings
from typing import Any

import numpy as np
import pytest

from async_ckpt import ListenerError, MonitoredTrainingSession, SaveError, UnsupportedLeafError
from async_ckpt.events import CheckpointDeleted, SaveFailed, SaveRequested, SaveSkipped, SaveUnknown
from async_ckpt.testing import FakeClock, RecordingListener
from tests.session.support import (
    SlowStore,
    advance,
    disk_error,
    events_of,
    saver_on,
    soon,
    training,
    until,
    weights,
)

QUIET = {"final_save": "never"}


def saved(store: SlowStore) -> list[int | None]:
    return [step for what, step in store.done if what == "commit"]


def tried(session: MonitoredTrainingSession) -> list[int]:
    """The steps whose saves are begun from now on; grows."""
    steps: list[int] = []
    session.subscribe(lambda e: steps.append(e.step) if isinstance(e, SaveRequested) else None)
    return steps


async def through(session: MonitoredTrainingSession, steps: int) -> list[BaseException]:
    """Steps with nothing in flight behind each; the errors that surfaced at their boundaries."""
    surfaced: list[BaseException] = []
    for _ in range(steps):
        try:
            await soon(session.advance())
        except (SaveError, ListenerError, UnsupportedLeafError) as error:
            surfaced.append(error)
        await soon(session.drain())
    return surfaced


# -- what a failure leaves -------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.loop_flavours
@pytest.mark.parametrize("operation", ["begin", "write", "commit"])
async def test_a_failed_save_has_an_event_no_after_save_and_leaves_older_checkpoints_alone(
    operation: str,
) -> None:
    store, listener = SlowStore(), RecordingListener("A")
    async with training(store, listeners=[listener], session_options=QUIET) as session:
        failures = events_of(session, SaveFailed)
        assert await through(session, 2) == []
        gate = store.hold(operation, 4)
        store.fail(operation, 4)
        await advance(session, 2)
        gate.open()
        await soon(session.drain())
        assert sorted(store.place.steps) == [2]
        assert [(event.step, event.directory) for event in failures] == [(4, store.location)]
        assert failures[0].reason
        with pytest.raises(SaveError) as caught:
            await session.advance()
    assert (caught.value.step, caught.value.outcome) == (4, "failed")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert caught.value.path
    assert [step for _, phase, step in listener.log if phase == "after_save"] == [2, 5]
    async with saver_on(SlowStore(store.place)) as saver:
        assert (await saver.verify(2)).step == 2


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_the_error_surfaces_exactly_once() -> None:
    store = SlowStore()
    async with training(store) as session:
        store.fail("write", 2)
        surfaced = await through(session, 6)
        assert len(surfaced) == 1
        assert session.errors == tuple(surfaced)
    assert session.errors == tuple(surfaced)


@pytest.mark.asyncio
async def test_an_error_nobody_met_at_a_boundary_leaves_at_the_exit() -> None:
    store = SlowStore()
    with pytest.raises(SaveError) as caught:
        async with training(store, session_options=QUIET) as session:
            store.fail("write", 2)
            await advance(session, 2)
    assert session.errors == (caught.value,)


@pytest.mark.asyncio
async def test_an_error_of_the_final_save_leaves_at_the_exit_behind_every_end() -> None:
    store, listener = SlowStore(), RecordingListener("A")
    with pytest.raises(SaveError) as caught:
        async with training(store, listeners=[listener]) as session:
            await advance(session, 1)
            store.fail("commit", 1)
    assert caught.value.step == 1
    assert listener.log[-2:] == [("A", "before_save", 1), ("A", "end", 1)]
    assert store.place.steps == {}


@pytest.mark.asyncio
async def test_the_final_save_tries_once_more_what_failed_at_the_last_step() -> None:
    """Only after a failed attempt may a step repeat."""
    store, listener = SlowStore(), RecordingListener("A")
    with pytest.raises(SaveError) as caught:
        async with training(store, listeners=[listener]) as session:
            store.fail("write", 2)
            await advance(session, 2)
    assert caught.value.step == 2
    assert saved(store) == [2]
    assert listener.log[1:] == [
        ("A", "before_save", 2),
        ("A", "before_save", 2),
        ("A", "after_save", 2),
        ("A", "end", 2),
    ]


@pytest.mark.asyncio
async def test_errors_of_saves_become_notes_of_the_exception_that_leaves_the_block() -> None:
    store = SlowStore()
    mistake = LookupError("of the training")
    with pytest.raises(LookupError) as caught:
        async with training(store) as session:
            store.fail("write", 2)
            await advance(session, 2)
            raise mistake
    assert caught.value is mistake
    assert len(mistake.__notes__) == 1
    assert "step-00000002" in mistake.__notes__[0]
    assert [type(error) for error in session.errors] == [SaveError]


@pytest.mark.asyncio
async def test_the_other_hooks_of_the_round_are_saved_and_reported() -> None:
    from async_ckpt import CheckpointSaverHook

    broken, sound = SlowStore(), SlowStore()
    log: list[tuple[str, str, int | None]] = []
    async with saver_on(broken) as one, saver_on(sound) as other:
        hooks = [
            CheckpointSaverHook(
                saver,
                weights(),
                save_steps=2,
                initial_save="never",
                listeners=[RecordingListener(name, log)],
            )
            for saver, name in ((one, "A"), (other, "B"))
        ]
        async with MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
            gate = broken.hold("write", 2)
            broken.fail("write", 2)
            await advance(session, 2)
            gate.open()
            await soon(session.drain())
            assert [(name, phase) for name, phase, step in log if step == 2] == [
                ("A", "before_save"),
                ("B", "before_save"),
                ("B", "after_save"),
            ]
            with pytest.raises(SaveError):
                await session.advance()
    assert saved(sound) == [2]


@pytest.mark.asyncio
async def test_a_leaf_that_cannot_be_saved_is_named_and_nothing_is_written() -> None:
    store = SlowStore()
    state: dict[str, Any] = {"model": {"w": np.zeros(2)}, "hook": object}
    async with training(store, state=lambda: state, session_options=QUIET) as session:
        await advance(session, 1)
        with pytest.raises(UnsupportedLeafError) as caught:
            await session.advance()
        assert caught.value.path == "hook"
        state["hook"] = 1
        assert await through(session, 1) == []
    assert saved(store) == [3]


# -- trying again ----------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.loop_flavours
@pytest.mark.parametrize("operation", ["begin", "write", "commit"])
async def test_a_failed_save_is_due_again_after_1_2_and_4_boundaries(operation: str) -> None:
    store = SlowStore()
    async with training(store, save_steps=20, session_options=QUIET) as session:
        steps = tried(session)
        store.fail(operation, times=4)
        surfaced = await through(session, 38)
        # 20 fails; then after 1, 2 and 4 boundaries; then 8 would be 35, and that one holds.
        assert steps == [20, 21, 23, 27, 35]
        assert [error.step for error in surfaced if isinstance(error, SaveError)] == steps[:4]
        assert saved(store) == [35]
        # A save that was made ends the series, and the grid counts from the last step the trigger took.
        assert await through(session, 3) == []
    assert steps == [20, 21, 23, 27, 35, 40]


@pytest.mark.asyncio
async def test_a_failed_save_is_due_again_at_most_one_interval_later() -> None:
    store = SlowStore()
    async with training(store, save_steps=3, session_options=QUIET) as session:
        steps = tried(session)
        store.fail("write", times=4)
        await through(session, 13)
        gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
        assert max(gaps) <= 3
        assert steps[0] == 3
    assert saved(store) != []


@pytest.mark.asyncio
async def test_a_failed_save_by_time_is_due_again_at_the_next_boundary_whatever_the_clock_says() -> None:
    clock, store = FakeClock(), SlowStore()
    async with training(
        store, save_secs=10, session_options={"clock": clock, "final_save": "never"}
    ) as session:
        steps = tried(session)
        store.fail("write", times=2)
        clock.advance(10)
        surfaced = await through(session, 5)
        assert steps == [1, 2, 4]
        assert len(surfaced) == 2
    assert saved(store) == [4]


@pytest.mark.asyncio
async def test_a_failed_save_by_predicate_is_tried_again_without_asking() -> None:
    store = SlowStore()
    async with training(
        store, save_when=lambda session: session.global_step == 2, session_options=QUIET
    ) as session:
        store.fail("write", times=1)
        assert len(await through(session, 5)) == 1
    assert saved(store) == [3]


@pytest.mark.asyncio
async def test_a_failed_initial_save_is_tried_again_behind_the_first_step() -> None:
    store = SlowStore()
    store.fail("write", 0)
    async with training(store, save_steps=10, initial_save="fresh", session_options=QUIET) as session:
        await soon(session.drain())
        assert len(await through(session, 3)) == 1
    assert saved(store) == [1]


@pytest.mark.asyncio
async def test_boundaries_are_counted_from_the_one_behind_which_the_save_failed() -> None:
    store = SlowStore()
    async with training(store, save_steps=10, session_options=QUIET) as session:
        steps = tried(session)
        gate = store.hold("write", 10)
        store.fail("write", 10)
        await advance(session, 15)
        gate.open()
        await soon(session.drain())
        assert len(await through(session, 2)) == 1
        assert steps == [10, 16]


@pytest.mark.asyncio
@pytest.mark.loop_flavours
@pytest.mark.parametrize("when_busy", ["wait", "skip", "coalesce"])
async def test_a_second_attempt_in_flight_is_not_due_again_at_every_boundary(when_busy: str) -> None:
    """Otherwise it would hold the step, drop a save nobody wanted, or be taken twice."""
    store = SlowStore()
    async with training(store, save_steps=10, when_busy=when_busy, session_options=QUIET) as session:
        steps, skips = tried(session), events_of(session, SaveSkipped)
        store.fail("write", 10)
        assert await through(session, 10) == []
        gate = store.hold("write", 11)
        with pytest.raises(SaveError):
            await session.advance()
        await soon(gate.reached())
        await advance(session, 3)
        assert session.global_step == 14
        gate.open()
        await soon(session.drain())
        await advance(session, 2)
        await soon(session.drain())
        assert steps == [10, 11]
        assert skips == []
    assert saved(store) == [11]


@pytest.mark.asyncio
async def test_a_failed_before_save_is_tried_again_as_well() -> None:
    store = SlowStore()
    listener = RecordingListener("A", raise_in={"before_save": {1: ValueError("1"), 2: ValueError("2")}})
    async with training(store, save_steps=10, listeners=[listener], session_options=QUIET) as session:
        surfaced = await through(session, 15)
        assert [type(error) for error in surfaced] == [ListenerError, ListenerError]
    assert [step for _, phase, step in listener.log if phase == "before_save"] == [10, 11, 13]
    assert saved(store) == [13]


@pytest.mark.asyncio
async def test_steps_grow_over_failed_attempts_and_after_save_is_for_the_durable_one_only() -> None:
    store, listener = SlowStore(), RecordingListener("A")
    async with training(store, save_steps=5, listeners=[listener], session_options=QUIET) as session:
        store.fail("commit", times=2)
        await through(session, 9)
    assert [(phase, step) for _, phase, step in listener.log] == [
        ("begin", None),
        ("before_save", 5),
        ("before_save", 6),
        ("before_save", 8),
        ("after_save", 8),
        ("end", 9),
    ]


# -- on_save_error ---------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_warn_gives_a_warning_at_the_boundary_and_no_error() -> None:
    store = SlowStore()
    async with training(store, on_save_error="warn") as session:
        failures = events_of(session, SaveFailed)
        gate = store.hold("write", 2)
        store.fail("write", 2)
        await advance(session, 2)
        gate.open()
        await soon(session.drain())
        with pytest.warns(RuntimeWarning, match="step-00000002") as caught:
            await session.advance()
        assert len(caught) == 1
        await soon(session.drain())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await advance(session, 2)
        assert len(failures) == 1
    assert session.errors == ()
    assert saved(store) == [3, 4, 5]


@pytest.mark.asyncio
async def test_warn_at_the_exit_is_a_warning_too() -> None:
    store = SlowStore()
    store.fail("write", 1)

    async def life() -> tuple[BaseException, ...]:
        async with training(store, on_save_error="warn") as session:
            await advance(session, 1)
        return session.errors

    with pytest.warns(RuntimeWarning, match="step-00000001"):
        errors = await life()
    assert errors == ()


@pytest.mark.asyncio
async def test_warn_does_not_cover_the_errors_of_listeners() -> None:
    listener = RecordingListener("A", raise_in={"before_save": {1: ValueError("bad")}})
    async with training(SlowStore(), listeners=[listener], on_save_error="warn") as session:
        await advance(session, 1)
        with pytest.raises(ListenerError):
            await session.advance()


@pytest.mark.asyncio
@pytest.mark.parametrize("on_save_error", ["raise", "warn"])
async def test_who_asked_for_a_save_gets_its_error_and_no_boundary_repeats_it(on_save_error: str) -> None:
    store = SlowStore()
    async with training(store, save_steps=10, on_save_error=on_save_error) as session:
        await advance(session, 1)
        store.fail("write", 1)
        with pytest.raises(SaveError) as caught:
            await soon(session.save())
        assert caught.value.step == 1
        await advance(session, 2)
    assert saved(store) == [2, 3]


@pytest.mark.asyncio
async def test_an_error_of_the_report_surfaces_and_the_checkpoint_stays() -> None:
    store = SlowStore()
    async with training(store, listeners=[RecordingListener("A")]) as session:
        store.fail("add", 2)
        await advance(session, 2)
        await soon(session.drain())
        with pytest.raises(SaveError):
            await session.advance()
    assert saved(store) == [2, 3]
    assert sorted(store.place.steps) == [2, 3]


# -- unknown ---------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_an_error_after_the_rename_is_unknown_not_acknowledged_and_nothing_is_deleted_on_it() -> None:
    store, listener = SlowStore(), RecordingListener("A")
    async with saver_on(store, max_to_keep=1) as saver:
        from async_ckpt import CheckpointSaverHook

        hook = CheckpointSaverHook(saver, weights(), save_steps=5, initial_save="never", listeners=[listener])
        async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
            unknown, failed = events_of(session, SaveUnknown), events_of(session, SaveFailed)
            deleted = events_of(session, CheckpointDeleted)
            await through(session, 5)
            store.fail("committed", 10, error=disk_error(errno.EIO))
            assert await through(session, 5) == []
            assert [event.step for event in unknown] == [10]
            assert failed == []
            # The older checkpoint is all that is certain.
            assert deleted == []
            assert 5 in store.place.steps
            with pytest.raises(SaveError) as caught:
                await session.advance()
            assert (caught.value.step, caught.value.outcome) == (10, "unknown")
            await soon(session.drain())
    # Not counted as saved: due again behind the next boundary, and only then the old ones go.
    assert [step for _, phase, step in listener.log if phase == "after_save"] == [5, 11]
    assert 11 in store.place.steps
    assert 5 in [event.step for event in deleted]


@pytest.mark.asyncio
async def test_after_an_unknown_outcome_the_final_save_makes_the_step_certain() -> None:
    store = SlowStore()
    with pytest.raises(SaveError) as caught:
        async with training(store) as session:
            store.fail("committed", 2, error=disk_error(errno.EIO))
            await advance(session, 2)
    assert caught.value.outcome == "unknown"
    assert saved(store) == [2]


# -- a boundary that waits -------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_a_step_that_waits_for_a_round_goes_on_when_that_round_fails() -> None:
    store = SlowStore()
    async with training(store, session_options=QUIET) as session:
        gate = store.hold("write", 2)
        store.fail("write", 2)
        await advance(session, 3)
        step = asyncio.create_task(session.advance())
        await until(lambda: session._scheduler.machine.held is not None)
        gate.open()
        with pytest.raises(SaveError) as caught:
            await soon(step)
        assert caught.value.step == 2
        assert session.global_step == 4
    assert saved(store) == [4]
