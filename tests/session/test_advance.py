"""``session.advance()``: my own loop has done a step."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import MonitoredTrainingSession, ProtocolError, SessionRunHook, StepRun
from async_ckpt.testing import RecordingListener
from tests.session.disk import Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours


class Recorder(SessionRunHook):
    def __init__(self) -> None:
        self.log: list[str] = []

    async def before_run(self, run: StepRun) -> None:
        self.log.append(f"before_run {run.step}+{run.steps} {run.result}")

    async def check(self, run: StepRun) -> None:
        self.log.append(f"check {run.step}")

    async def after_run(self, run: StepRun) -> None:
        self.log.append(f"after_run {run.step}")


@pytest.mark.asyncio
async def test_advance_calls_every_before_run_then_keeps_the_boundary() -> None:
    recorder = Recorder()
    async with MonitoredTrainingSession(hooks=[recorder]) as session:
        await session.advance(3)
        assert session.global_step == 3
    assert recorder.log == ["before_run 0+3 None", "check 3", "after_run 3"]


@pytest.mark.asyncio
@pytest.mark.parametrize("hooks", [[], [Recorder]], ids=["bare", "hook"])
async def test_a_quiet_advance_yields_to_the_loop_exactly_once(hooks: list[type[Recorder]]) -> None:
    turns = 0
    async with MonitoredTrainingSession(hooks=[hook() for hook in hooks]) as session:

        async def other() -> None:
            nonlocal turns
            while turns < 1000:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        before = turns
        for _ in range(10):
            await session.advance()
        assert turns - before == 10
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.asyncio
async def test_a_quiet_advance_with_a_saver_hook_yields_exactly_once(tmp_path: Path) -> None:
    hook = saver_hook(tmp_path, Weights(), initial_save="never")
    async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while turns < 1000:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        before = turns
        for _ in range(10):
            await session.advance()
        assert turns - before == 10
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", [0, -3, False, 2.5, None])
async def test_steps_below_one_are_refused(steps: Any) -> None:
    recorder = Recorder()
    async with MonitoredTrainingSession(hooks=[recorder]) as session:
        with pytest.raises(ValueError, match="steps"):
            await session.advance(steps)
        assert (session.global_step, recorder.log) == (0, [])


@pytest.mark.asyncio
async def test_several_due_points_crossed_give_one_save_and_the_grid_goes_on_from_there(
    tmp_path: Path,
) -> None:
    weights, log = Weights(), RecordingListener("l")
    hook = saver_hook(
        tmp_path, weights, save_steps=10, listeners=[log], initial_save="never", max_to_keep=None
    )
    async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        for steps in (25, 9, 1):
            for _ in range(steps):
                weights.train()
            await session.advance(steps)
            await session.drain()
    assert [step for _, phase, step in log.log if phase == "before_save"] == [25, 35]
    assert await saved_values(tmp_path) == {25: 25, 35: 35}


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["before_run", "check", "after_run"])
async def test_an_error_of_a_hook_leaves_advance_as_the_same_object(where: str) -> None:
    error = OSError("of the hook")

    class Failing(SessionRunHook):
        pass

    async def fail(run: StepRun) -> None:
        raise error

    hook, last = Failing(), Recorder()
    setattr(hook, where, fail)
    async with MonitoredTrainingSession(hooks=[hook, last]) as session:
        with pytest.raises(OSError, match="of the hook") as caught:
            await session.advance()
        assert caught.value is error
        # Before the step it is as if it had not been asked for; behind it the step is done.
        assert session.global_step == (0 if where == "before_run" else 1)
    assert (
        last.log
        == {
            "before_run": [],
            "check": ["before_run 0+1 None"],
            "after_run": ["before_run 0+1 None", "check 1"],
        }[where]
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["run", "advance"])
async def test_an_error_of_background_work_surfaces_at_the_next_boundary_and_only_once(
    tmp_path: Path, how: str
) -> None:
    listener = RecordingListener("l", raise_in={"after_save": {1: ValueError("evaluation")}})
    hook = saver_hook(tmp_path, Weights(), save_steps=1000, listeners=[listener])

    async def step() -> None:
        return None

    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        await session.drain()
        with pytest.raises(Exception, match="evaluation") as caught:
            await (session.run(step) if how == "run" else session.advance())
        assert session.global_step == 1
        assert session.errors == (caught.value,)
        await (session.run(step) if how == "run" else session.advance())
        assert session.global_step == 2


@pytest.mark.asyncio
async def test_advance_beside_a_running_step_is_refused() -> None:
    go = asyncio.Event()
    async with hang_guard(), MonitoredTrainingSession() as session:
        running = asyncio.create_task(session.run(go.wait))
        await asyncio.sleep(0)
        with pytest.raises(ProtocolError, match="another step"):
            await session.advance()
        go.set()
        await running
        assert session.global_step == 1
