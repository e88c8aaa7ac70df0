"""``session.mutating()`` and overlapping copies: what is saved is what was there before the change."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import Checkpoint, MonitoredTrainingSession, ProtocolError, SessionRunHook, StepRun
from async_ckpt.saver import writing
from async_ckpt.state import staging
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds every copy of the state at its beginning until it is opened."""
    gate, stage = Gate(), staging.stage

    async def held(*args: Any, **kwargs: Any) -> Any:
        await gate()
        return await stage(*args, **kwargs)

    monkeypatch.setattr(writing, "stage", held)
    return gate


def overlapping(where: Path, state: Any, **options: Any) -> Any:
    options = {"save_steps": 1, "initial_save": "never", **options}
    return saver_hook(where, state, staging="overlap", **options)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _nothing() -> None:
    return None


@pytest.mark.asyncio
async def test_the_step_goes_on_beside_the_copy_and_a_change_waits_for_it(
    tmp_path: Path, copies: Gate
) -> None:
    weights = Weights()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)], final_save="never") as session,
    ):
        async with session.mutating():
            weights.train()
        await session.advance()  # takes the save of step 1, whose copy is held
        await copies.reached()

        async def change() -> None:
            async with session.mutating():
                weights.train()

        changing = asyncio.create_task(change())
        await turns()
        assert weights.tree["at"] == [1]
        copies.open()
        await changing
        assert weights.tree["at"] == [2]
        await session.drain()
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_a_plain_with_in_the_trainer_thread_waits_for_the_copy(tmp_path: Path, copies: Gate) -> None:
    weights, log = Weights(), []
    about_to_change = threading.Event()

    def step() -> None:
        log.append("computes")
        about_to_change.set()
        with session.mutating():
            weights.train()
            log.append("changed")

    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)], final_save="never") as session,
    ):
        await session.run(step, mutates=False)
        await copies.reached()
        second = asyncio.create_task(session.run(step, mutates=False))
        about_to_change.clear()
        while not about_to_change.is_set():
            await asyncio.sleep(0)
        await turns()
        # The second step computes beside the copy of the first, and waits where it changes the state.
        assert log == ["computes", "changed", "computes"]
        copies.open()
        await second
        assert log[-1] == "changed"
        await session.drain()
    assert await saved_values(tmp_path) == {1: 1, 2: 2}


@pytest.mark.asyncio
@pytest.mark.parametrize("asked_for", [False, True], ids=["never", "made and not entered"])
async def test_until_it_has_been_entered_the_copy_ends_within_the_boundary(
    tmp_path: Path, copies: Gate, asked_for: bool
) -> None:
    weights = Weights()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)], final_save="never") as session,
    ):
        if asked_for:
            session.mutating()
        weights.train()
        stepping = asyncio.create_task(session.advance())
        await copies.reached()
        await turns()
        assert not stepping.done()
        copies.open()
        await stepping


@pytest.mark.asyncio
async def test_with_staging_copy_the_copy_always_ends_within_the_boundary(
    tmp_path: Path, copies: Gate
) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, save_steps=1, initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        async with session.mutating():
            weights.train()
        stepping = asyncio.create_task(session.run(_nothing, mutates=False))
        await copies.reached()
        await turns()
        assert not stepping.done()
        copies.open()
        await stepping


@pytest.mark.asyncio
async def test_a_step_that_does_not_say_where_it_changes_the_state_waits_for_the_copy(
    tmp_path: Path, copies: Gate
) -> None:
    weights = Weights()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)], final_save="never") as session,
    ):
        async with session.mutating():
            weights.train()
        await session.run(_nothing)
        await copies.reached()
        second = asyncio.create_task(session.run(weights.train))
        await turns()
        assert weights.tree["at"] == [1]
        copies.open()
        await second
        await session.drain()
    assert await saved_values(tmp_path) == {1: 1, 2: 2}


@pytest.mark.asyncio
async def test_callbacks_and_hooks_after_the_savers_wait_for_running_copies(
    tmp_path: Path, copies: Gate
) -> None:
    """Whatever may change the state comes after the copies that are taken of it."""
    weights, log = Weights(), []
    last = saver_hook(tmp_path / "b", Weights(), initial_save="never")

    class Changes(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            log.append("after_run")
            weights.tree["model"]["w"][...] = -1.0

    async with (
        hang_guard(),
        MonitoredTrainingSession(
            hooks=[overlapping(tmp_path / "a", weights), Changes(), last],
            final_save="never",
        ) as session,
    ):
        stepping = asyncio.create_task(session.run(weights.train, mutates=False))
        await copies.reached()
        await turns()
        assert (stepping.done(), log) == (False, [])
        copies.open()
        await stepping
        assert log == ["after_run"]
        await session.drain()
    assert await saved_values(tmp_path / "a") == {1: 1}


@pytest.mark.asyncio
async def test_a_before_save_waits_for_the_copy_of_a_hook_before_it(tmp_path: Path, copies: Gate) -> None:
    weights, listener = Weights(), RecordingListener("second")
    hooks = [overlapping(tmp_path / "a", weights), overlapping(tmp_path / "b", weights, listeners=[listener])]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
        stepping = asyncio.create_task(session.run(weights.train, mutates=False))
        await copies.reached()
        await turns()
        assert listener.calls["before_save"] == 0
        copies.open()
        await stepping
        await session.drain()
        assert listener.calls["before_save"] == 1


@pytest.mark.asyncio
async def test_no_copy_starts_inside_and_what_is_changed_there_is_in_the_save_that_waited(
    tmp_path: Path, copies: Gate
) -> None:
    weights = Weights()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)], final_save="never") as session,
    ):
        saving_task = asyncio.create_task(asyncio.sleep(0))  # started outside the block, so not inside it
        await saving_task
        start = asyncio.Event()

        async def save() -> Any:
            await start.wait()
            return await session.save()

        saving = asyncio.create_task(save())
        await asyncio.sleep(0)
        copies.open()
        async with session.mutating():
            weights.tree["at"][0] = 1
            start.set()
            await turns()
            weights.tree["model"]["w"][...] = 1
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        state = (await session._places[0].runner.saver.restore(0)).state  # type: ignore[union-attr]
        assert set(state["model"]["w"].tolist()) == {1.0}
        assert weights.tree["at"] == [1]


@pytest.mark.asyncio
async def test_advance_run_and_save_inside_are_refused(tmp_path: Path) -> None:
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, Weights())]) as session,
    ):
        async with session.mutating():
            for call in (session.advance, lambda: session.run(_nothing), session.save):
                with pytest.raises(ProtocolError, match="mutating"):
                    await call()
            assert session.global_step == 0
        await session.advance()
        await session.save()
        assert session.global_step == 1


@pytest.mark.asyncio
async def test_nested_blocks_are_one_block_until_the_outer_one_ends(tmp_path: Path) -> None:
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, Weights())]) as session,
    ):
        async with session.mutating():
            async with session.mutating():
                pass
            with pytest.raises(ProtocolError):
                await session.advance()
        await session.advance()


@pytest.mark.asyncio
async def test_tasks_started_inside_are_free_once_the_block_is_left(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        await session.advance()

    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, Weights())]) as session,
    ):
        async with session.mutating():
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        go.set()
        await task
        assert session.global_step == 1


@pytest.mark.asyncio
async def test_a_plain_with_on_the_loop_is_refused(tmp_path: Path) -> None:
    async with MonitoredTrainingSession(hooks=[overlapping(tmp_path, Weights())]) as session:
        with pytest.raises(ProtocolError, match="async with"), session.mutating():
            raise AssertionError
        await session.advance()


@pytest.mark.asyncio
async def test_an_error_inside_leaves_and_the_gate_is_open_again(tmp_path: Path) -> None:
    weights = Weights()

    def step() -> None:
        with session.mutating():
            raise LookupError

    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)]) as session,
    ):
        with pytest.raises(LookupError):
            async with session.mutating():
                raise LookupError
        with pytest.raises(LookupError):
            await session.run(step, mutates=False)
        await session.run(weights.train)
        await session.drain()
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_cancelled_while_waiting_it_leaves_every_gate_as_it_was(tmp_path: Path, copies: Gate) -> None:
    weights = Weights()
    hooks = [overlapping(tmp_path / "a", Weights(), save_steps=1000), overlapping(tmp_path / "b", weights)]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks, final_save="never") as session:

        async def change() -> None:
            async with session.mutating():
                raise AssertionError

        await session.run(weights.train, mutates=False)
        await copies.reached()
        changing = asyncio.create_task(change())
        await turns()
        changing.cancel()
        await asyncio.wait([changing])
        assert changing.cancelled()
        copies.open()
        async with session.mutating():
            pass
        await session.save()


@pytest.mark.asyncio
async def test_cancelling_the_step_leaves_the_copy_that_runs_beside_it_alone(
    tmp_path: Path, copies: Gate
) -> None:
    weights = Weights()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[overlapping(tmp_path, weights)], final_save="never") as session,
    ):
        await session.run(weights.train, mutates=False)
        await copies.reached()
        second = asyncio.create_task(session.run(weights.train))
        await turns()
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        # It waited for the copy and never began.
        assert (weights.tree["at"], session.global_step) == ([1], 1)
        copies.open()
        await session.drain()
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_many_overlapping_steps_save_every_step_whole(tmp_path: Path) -> None:
    weights = Weights(200_000)

    def step() -> None:
        with session.mutating():
            weights.train()

    hook = overlapping(tmp_path, weights, max_to_keep=None)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        for _ in range(12):
            await session.run(step, mutates=False)
    assert await saved_values(tmp_path) == {step: step for step in range(1, 13)}
