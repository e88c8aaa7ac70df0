"""When is a save due: steps, seconds, a predicate, at the start, and several steps at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession
from async_ckpt.testing import FakeClock
from tests.session.support import SlowStore, advance, soon, training, until, weights


def saved(store: SlowStore) -> list[int | None]:
    return [step for what, step in store.done if what == "commit"]


def timed(clock: FakeClock, secs: float = 10, **options: Any) -> dict[str, Any]:
    """Options of a session that saves every ``secs`` seconds and nothing at the exit."""
    return {"save_secs": secs, "session_options": {"clock": clock, "final_save": "never"}, **options}


async def settled_steps(session: MonitoredTrainingSession, steps: int) -> None:
    for _ in range(steps):
        await advance(session, 1)
        await soon(session.drain())


# -- exactly one trigger ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "triggers",
    [
        {},
        {"save_secs": 1, "save_steps": 1},
        {"save_steps": 1, "save_when": bool},
        {"save_secs": 1, "save_when": bool},
        {"save_secs": 1, "save_steps": 1, "save_when": bool},
    ],
    ids=str,
)
def test_exactly_one_trigger_has_to_be_given(triggers: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="exactly one of save_secs, save_steps and save_when"):
        CheckpointSaverHook(tmp_path, weights(), **triggers)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "2"])
@pytest.mark.parametrize("name", ["save_secs", "save_steps"])
def test_zero_negative_and_nan_intervals_are_refused(name: str, value: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=name):
        CheckpointSaverHook(tmp_path, weights(), **{name: value})


def test_half_a_step_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="save_steps"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=2.0)  # type: ignore[arg-type]


def test_a_predicate_has_to_be_a_plain_callable(tmp_path: Any) -> None:
    async def asked(_: Any) -> bool:
        return False

    with pytest.raises(TypeError, match="save_when"):
        CheckpointSaverHook(tmp_path, weights(), save_when=3)  # type: ignore[arg-type]
    # A coroutine is truthy: every boundary would save.
    with pytest.raises(TypeError, match="plain function"):
        CheckpointSaverHook(tmp_path, weights(), save_when=asked)  # type: ignore[arg-type]


# -- save_steps ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_save_steps_is_a_grid_from_the_entry_step() -> None:
    store = SlowStore()
    async with training(store, save_steps=3) as session:
        await advance(session, 10)
    assert saved(store) == [3, 6, 9, 10]


@pytest.mark.asyncio
async def test_several_due_points_crossed_by_one_step_give_one_save_and_the_grid_counts_from_it() -> None:
    store = SlowStore()
    async with training(store, save_steps=2, session_options={"final_save": "never"}) as session:
        await soon(session.advance(7))
        assert session.global_step == 7
        await soon(session.advance())
        await soon(session.drain())
        assert saved(store) == [7]
        await soon(session.advance())
    assert saved(store) == [7, 9]


@pytest.mark.asyncio
async def test_a_function_is_called_once_whatever_steps_says() -> None:
    store = SlowStore()
    calls: list[int] = []
    async with training(store, save_steps=4, session_options={"final_save": "never"}) as session:
        for _ in range(3):
            await soon(session.run(calls.append, 1, steps=3))
    assert len(calls) == 3
    assert saved(store) == [6]


@pytest.mark.asyncio
async def test_a_resumed_run_continues_the_grid_from_the_restored_step() -> None:
    place = SlowStore().place
    async with training(SlowStore(place), save_steps=4) as session:
        await advance(session, 5)
    store = SlowStore(place)
    async with training(store, save_steps=4, session_options={"final_save": "never"}) as session:
        assert session.global_step == 5
        await advance(session, 9)
    assert saved(store) == [9, 13]


@pytest.mark.asyncio
async def test_a_save_on_demand_does_not_move_the_grid() -> None:
    store = SlowStore()
    async with training(store, save_steps=4, session_options={"final_save": "never"}) as session:
        await advance(session, 3)
        await soon(session.save())
        await advance(session, 5)
    assert saved(store) == [3, 4, 8]


# -- initial_save ----------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("initial_save", "new", "resumed"), [("fresh", [0], []), ("always", [0], [2]), ("never", [], [])]
)
async def test_initial_save_saves_the_step_of_entry(
    initial_save: str, new: list[int], resumed: list[int]
) -> None:
    place = SlowStore().place
    first, second = SlowStore(place), SlowStore(place)
    async with training(first, save_steps=2, initial_save=initial_save) as session:
        await soon(session.drain())
        assert saved(first) == new
        await advance(session, 2)
    async with training(second, save_steps=2, initial_save=initial_save) as session:
        assert session.global_step == 2
        await soon(session.drain())
        assert saved(second) == resumed


@pytest.mark.asyncio
async def test_by_default_a_new_run_saves_step_0_and_the_grid_starts_there(tmp_path: Any) -> None:
    hook = CheckpointSaverHook(tmp_path, weights(), save_steps=2)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 3)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000000",
        "step-00000002",
        "step-00000003",
    ]


# -- save_secs -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_save_secs_is_inclusive_and_read_at_boundaries() -> None:
    clock, store = FakeClock(monotonic=500), SlowStore()
    async with training(store, **timed(clock)) as session:
        await settled_steps(session, 1)
        clock.advance(9.5)
        await settled_steps(session, 1)
        assert saved(store) == []
        clock.advance(0.5)
        await settled_steps(session, 2)
        assert saved(store) == [3]
        clock.advance(35)
        await settled_steps(session, 2)
        # Three and a half intervals have passed: one save.
        assert saved(store) == [3, 5]


@pytest.mark.asyncio
async def test_save_secs_follows_the_monotonic_clock_and_not_the_calendar() -> None:
    clock, store = FakeClock(), SlowStore()
    async with training(store, **timed(clock)) as session:
        clock.set_wall(4_000_000_000)
        await settled_steps(session, 1)
        assert saved(store) == []
        clock.set_wall(0)
        clock.advance(10)
        await settled_steps(session, 1)
        assert saved(store) == [2]


@pytest.mark.asyncio
async def test_the_first_interval_counts_from_the_end_of_the_entry() -> None:
    clock, store = FakeClock(), SlowStore()

    class SlowStart(CheckpointSaverListener):
        async def begin(self) -> None:
            clock.advance(100)

    async with training(store, **timed(clock, listeners=[SlowStart()])) as session:
        clock.advance(9)
        await settled_steps(session, 1)
        assert saved(store) == []
        clock.advance(1)
        await settled_steps(session, 1)
        assert saved(store) == [2]


@pytest.mark.asyncio
async def test_an_interval_counts_from_the_end_of_the_boundary_that_saved() -> None:
    clock, store = FakeClock(), SlowStore()

    class SlowSave(CheckpointSaverListener):
        async def before_save(self, session: Any, step: int) -> None:
            clock.advance(50)

    async with training(store, **timed(clock, listeners=[SlowSave()])) as session:
        clock.advance(10)
        await settled_steps(session, 1)
        clock.advance(9)
        await settled_steps(session, 1)
        assert saved(store) == [1]
        clock.advance(1)
        await settled_steps(session, 1)
        assert saved(store) == [1, 3]


@pytest.mark.asyncio
async def test_with_blocking_an_interval_counts_from_behind_the_votes() -> None:
    clock, store = FakeClock(), SlowStore()

    class SlowReport(CheckpointSaverListener):
        async def after_save(self, session: Any, step: int) -> None:
            clock.advance(50)

    async with training(store, **timed(clock, listeners=[SlowReport()], blocking=True)) as session:
        clock.advance(10)
        await settled_steps(session, 1)
        clock.advance(9)
        await settled_steps(session, 1)
        assert saved(store) == [1]
        clock.advance(1)
        await settled_steps(session, 1)
        assert saved(store) == [1, 3]


@pytest.mark.asyncio
async def test_time_spent_waiting_for_the_slot_belongs_to_the_boundary() -> None:
    clock, store = FakeClock(), SlowStore()
    async with training(store, **timed(clock)) as session:
        gate = store.hold("write", 1)
        clock.advance(10)
        await advance(session, 1)
        clock.advance(10)
        step = asyncio.create_task(session.advance())
        await until(lambda: session._scheduler.machine.held is not None)
        clock.advance(60)
        gate.open()
        await soon(step)
        clock.advance(9)
        await settled_steps(session, 1)
        assert saved(store) == [1, 2]
        clock.advance(1)
        await settled_steps(session, 1)
        assert saved(store) == [1, 2, 4]


@pytest.mark.asyncio
async def test_a_save_on_demand_does_not_move_the_interval() -> None:
    clock, store = FakeClock(), SlowStore()
    async with training(store, **timed(clock)) as session:
        clock.advance(6)
        await settled_steps(session, 1)
        await soon(session.save())
        clock.advance(4)
        await settled_steps(session, 1)
        assert saved(store) == [1, 2]


# -- save_when -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_save_when_is_asked_with_the_session_once_at_each_boundary_behind_a_step() -> None:
    store, asked = SlowStore(), []

    def wanted(session: MonitoredTrainingSession) -> bool:
        asked.append((session, session.global_step))
        return session.global_step in (2, 5)

    async with training(store, save_when=wanted, session_options={"final_save": "never"}) as session:
        await advance(session, 6)
        await soon(session.save())
    assert asked == [(session, step) for step in range(1, 7)]
    assert saved(store) == [2, 5, 6]


@pytest.mark.asyncio
async def test_what_save_when_raises_leaves_at_that_boundary() -> None:
    store = SlowStore()
    mistake = LookupError("no such metric")

    def wanted(session: MonitoredTrainingSession) -> bool:
        if session.global_step == 2:
            raise mistake
        return True

    async with training(store, save_when=wanted) as session:
        await advance(session, 1)
        with pytest.raises(LookupError) as caught:
            await session.advance()
        assert caught.value is mistake
        assert session.global_step == 2
        await advance(session, 1)
    assert saved(store) == [1, 3]
