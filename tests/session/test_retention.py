"""Retention end to end: policies rank by what ``after_save`` reported about that very checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from async_ckpt import (
    BestN,
    CheckpointSaverHook,
    CheckpointSaverListener,
    EveryNHours,
    EveryNSteps,
    LatestN,
    MonitoredTrainingSession,
    Saver,
)
from async_ckpt.events import CheckpointDeleted
from async_ckpt.testing import FakeClock
from tests.session.lives import Log, flip_byte, listed, live, new_state, tensor_file, train

pytestmark = pytest.mark.asyncio

ACCURACY = {0: 0.0, 1: 0.9, 2: 0.2, 3: 0.8, 4: 0.1, 5: 0.3, 6: 0.95, 7: 0.4}


class Evaluate(CheckpointSaverListener):
    name = "evaluate"

    async def after_save(self, session: Any, global_step_value: int) -> None:
        session.report({"accuracy": ACCURACY[global_step_value]})


async def run(directory: Path, steps: int, **hook: Any) -> Log:
    state, log = new_state(), Log()
    saver_hook = CheckpointSaverHook(directory, state, save_steps=1, **hook)
    session = MonitoredTrainingSession(hooks=[saver_hook])
    session.subscribe(log)
    async with session:
        await train(session, state, steps)
    return log


async def test_best_by_accuracy_ranks_by_the_report_of_that_very_checkpoint(tmp_path: Path) -> None:
    log = await run(tmp_path, 7, listeners=[Evaluate()], keep=BestN(2, metric="accuracy"))
    assert await listed(tmp_path) == [1, 6, 7], "the two best, and the newest, which is never deleted"
    assert sorted(event.step for event in log.of(CheckpointDeleted)) == [0, 2, 3, 4, 5]


async def test_the_reported_metric_wins_over_the_one_of_the_save(tmp_path: Path) -> None:
    state = new_state()
    hook = CheckpointSaverHook(
        tmp_path, state, save_steps=1, listeners=[Evaluate()], keep=BestN(1, metric="accuracy")
    )
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        for step in range(1, 6):
            session.metrics["accuracy"] = float(step)
            await train(session, state, 1)
    assert await listed(tmp_path) == [1, 5]


async def test_several_policies_are_united(tmp_path: Path) -> None:
    await run(
        tmp_path, 7, listeners=[Evaluate()], keep=[BestN(1, metric="accuracy"), LatestN(2), EveryNSteps(4)]
    )
    assert await listed(tmp_path) == [0, 4, 6, 7]


async def test_lowest_loss_is_kept_by_metrics_set_in_the_loop(tmp_path: Path) -> None:
    state = new_state()
    hook = CheckpointSaverHook(
        tmp_path, state, save_steps=1, initial_save="never", keep=BestN(1, metric="loss", mode="min")
    )
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        for loss in (3.0, 1.0, 2.0, 4.0):
            session.metrics["loss"] = loss
            await train(session, state, 1)
    assert await listed(tmp_path) == [2, 4]


async def test_max_to_keep_is_five_and_nought_or_none_keep_all(tmp_path: Path) -> None:
    await run(tmp_path / "default", 7)
    assert await listed(tmp_path / "default") == [3, 4, 5, 6, 7]
    for name, value in (("none", None), ("nought", 0)):
        await run(tmp_path / name, 7, max_to_keep=value)
        assert await listed(tmp_path / name) == list(range(8))


async def test_hours_are_those_of_the_session_clock(tmp_path: Path) -> None:
    clock, state = FakeClock(), new_state()
    hook = CheckpointSaverHook(
        tmp_path, state, save_steps=1, initial_save="never", keep=[EveryNHours(1), LatestN(1)]
    )
    async with MonitoredTrainingSession(hooks=[hook], clock=clock) as session:
        for _ in range(7):
            await train(session, state, 1)
            await session.drain()
            clock.advance(1800)
    assert await listed(tmp_path) == [1, 3, 5, 7]


async def test_excess_is_trimmed_at_once(tmp_path: Path) -> None:
    await run(tmp_path, 7, max_to_keep=None)
    log = await run(tmp_path, 1, max_to_keep=2)
    assert {event.step for event in log.of(CheckpointDeleted)} == set(range(7))
    assert await listed(tmp_path) == [7, 8], "7 is what was restored from, and among the newest two anyway"


async def test_the_one_restored_from_stays_however_many_follow(tmp_path: Path) -> None:
    await run(tmp_path, 2)
    await run(tmp_path, 5, max_to_keep=1)
    assert await listed(tmp_path) == [2, 7]


async def test_a_damaged_checkpoint_does_not_count(tmp_path: Path) -> None:
    await run(tmp_path, 3, max_to_keep=None)
    for step in (1, 2):
        (tmp_path / f"step-{step:08d}" / "manifest.json").write_bytes(b"{}")
    await run(tmp_path, 1, max_to_keep=3)
    assert await listed(tmp_path) == [0, 3, 4]


async def test_a_pinned_checkpoint_is_not_deleted(tmp_path: Path) -> None:
    await run(tmp_path, 2)
    async with Saver(tmp_path) as saver:
        await saver.pin(1)
    await run(tmp_path, 4, max_to_keep=1)
    assert await listed(tmp_path) == [1, 2, 6]


async def test_retention_comes_behind_after_save_so_what_it_looks_at_is_there(tmp_path: Path) -> None:
    there: list[bool] = []

    class Looks(CheckpointSaverListener):
        async def after_save(self, session: Any, global_step_value: int) -> None:
            before = tmp_path / f"step-{global_step_value - 1:08d}"
            there.append(before.exists() or global_step_value == 0)

    await live(tmp_path, 3, listeners=[Looks()], max_to_keep=1)
    assert there == [True] * 4
    assert await listed(tmp_path) == [3]


async def test_an_older_one_goes_only_when_the_newer_one_is_durable(tmp_path: Path) -> None:
    """A save that fails deletes nothing."""
    await run(tmp_path, 1, max_to_keep=1)
    state: dict[str, Any] = new_state()
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, max_to_keep=1, on_save_error="warn")
    with pytest.warns(RuntimeWarning):
        async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
            state["bad"] = object()
            await session.advance()
    assert await listed(tmp_path) == [1]


async def test_damage_found_later_leaves_the_older_ones_to_resume_from(tmp_path: Path) -> None:
    await run(tmp_path, 4, max_to_keep=2)
    flip_byte(tensor_file(tmp_path, 4))
    state = new_state()
    with pytest.warns(RuntimeWarning, match="step 4"):
        async with MonitoredTrainingSession(
            hooks=[CheckpointSaverHook(tmp_path, state, save_steps=1)], final_save="never"
        ) as session:
            assert session.global_step == 3
