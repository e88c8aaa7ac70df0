"""``session.save()``: from whom, when it is taken, what it returns, and who hears of its failure."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any, Literal

import pytest

from async_ckpt import (
    Checkpoint,
    ListenerError,
    MonitoredTrainingSession,
    NanGuardHook,
    ProtocolError,
    SaveError,
    SessionRunHook,
    StepRun,
    UnsupportedLeafError,
)
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Disk, Weights, disk_error, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours


def rounds(listener: RecordingListener) -> list[tuple[str, int | None]]:
    return [(phase, step) for _, phase, step in listener.log if phase in ("before_save", "after_save")]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["run", "advance"])
async def test_the_entering_task_saves_at_once_and_gets_the_checkpoint_after_after_save(
    tmp_path: Path, how: str
) -> None:
    disk, weights, listener = Disk(tmp_path), Weights(), RecordingListener("l")
    hook = saver_hook(disk, weights, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        session.metrics["loss"] = 0.5
        for _ in range(3):
            weights.train()
            await (session.run(lambda: None) if how == "run" else session.advance())
        checkpoint = await session.save()
        assert isinstance(checkpoint, Checkpoint)
        assert (checkpoint.step, dict(checkpoint.metrics)) == (3, {"loss": 0.5})
        assert Path(checkpoint.path).is_dir()
        assert ("committed", 3) in disk.log
        assert rounds(listener) == [("before_save", 3), ("after_save", 3)]
        assert session.global_step == 3
    assert await saved_values(tmp_path) == {3: 3}


@pytest.mark.asyncio
async def test_the_checkpoint_returned_has_the_metrics_reported_about_it(tmp_path: Path) -> None:
    class Evaluates:
        async def after_save(self, session: Any, step: int) -> None:
            session.report({"accuracy": 0.25})

    hook = saver_hook(tmp_path, Weights(), listeners=[Evaluates()], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        session.metrics["loss"] = 1.0
        checkpoint = await session.save()
        assert isinstance(checkpoint, Checkpoint)
        assert dict(checkpoint.metrics) == {"loss": 1.0, "accuracy": 0.25}


@pytest.mark.asyncio
async def test_several_saver_hooks_give_a_tuple_in_hook_order_and_none_an_empty_one(tmp_path: Path) -> None:
    hooks = [saver_hook(tmp_path / name, Weights(), initial_save="never") for name in "ab"]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks) as session:
        saved = await session.save()
        assert isinstance(saved, tuple)
        assert [Path(checkpoint.path).parent.name for checkpoint in saved] == ["a", "b"]
    async with MonitoredTrainingSession() as session:
        assert await session.save() == ()


@pytest.mark.asyncio
async def test_another_task_is_served_at_the_end_of_the_run_under_way(tmp_path: Path) -> None:
    weights, listener, go = Weights(), RecordingListener("l"), asyncio.Event()

    async def step() -> None:
        await go.wait()
        weights.train()

    hook = saver_hook(tmp_path, weights, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        running = asyncio.create_task(session.run(step))
        await asyncio.sleep(0)
        saving = asyncio.create_task(session.save())
        for _ in range(5):
            await asyncio.sleep(0)
        assert rounds(listener) == []
        go.set()
        await running
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_another_task_is_served_at_once_if_no_run_is_under_way(tmp_path: Path) -> None:
    weights = Weights()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[saver_hook(tmp_path, weights, initial_save="never")]) as session,
    ):
        await session.run(weights.train)
        # The entering task does nothing but wait.
        checkpoint = await asyncio.create_task(session.save())
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1


@pytest.mark.asyncio
async def test_in_a_session_driven_by_advance_another_task_waits_for_the_next_advance(tmp_path: Path) -> None:
    weights, listener = Weights(), RecordingListener("l")
    hook = saver_hook(tmp_path, weights, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        weights.train()
        await session.advance()
        saving = asyncio.create_task(session.save())
        for _ in range(20):
            await asyncio.sleep(0)
        assert rounds(listener) == []
        weights.train()
        await session.advance()
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 2
    assert await saved_values(tmp_path) == {2: 2}


@pytest.mark.asyncio
@pytest.mark.parametrize("final_save", ["clean", "never"])
async def test_the_exit_serves_what_is_left(tmp_path: Path, final_save: Literal["clean", "never"]) -> None:
    weights = Weights()
    hook = saver_hook(tmp_path, weights, initial_save="never")
    async with hang_guard():
        async with MonitoredTrainingSession(hooks=[hook], final_save=final_save) as session:
            weights.train()
            await session.advance()
            saving = asyncio.create_task(session.save())
            await asyncio.sleep(0)
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1
    assert await saved_values(tmp_path) == {1: 1}


@pytest.mark.asyncio
async def test_requests_before_one_boundary_share_one_round(tmp_path: Path) -> None:
    disk, weights, listener, go = Disk(tmp_path), Weights(), RecordingListener("l"), asyncio.Event()

    async def step() -> None:
        await go.wait()
        weights.train()

    hook = saver_hook(disk, weights, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        running = asyncio.create_task(session.run(step))
        await asyncio.sleep(0)
        saving = [asyncio.create_task(session.save()) for _ in range(3)]
        await asyncio.sleep(0)
        go.set()
        await running
        saved = await asyncio.gather(*saving)
        assert {checkpoint.step for checkpoint in saved if isinstance(checkpoint, Checkpoint)} == {1}
        assert rounds(listener) == [("before_save", 1), ("after_save", 1)]
    assert [entry for entry in disk.log if entry[0] == "begin"] == [("begin", 1)]


@pytest.mark.asyncio
async def test_requests_of_several_tasks_between_steps_save_the_step_once(tmp_path: Path) -> None:
    listener = RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        saved = await asyncio.gather(*(session.save() for _ in range(3)))
        assert saved[0] == saved[1] == saved[2]
        assert rounds(listener) == [("before_save", 0), ("after_save", 0)]


@pytest.mark.asyncio
async def test_a_step_already_durable_is_returned_without_callbacks(tmp_path: Path) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    hook = saver_hook(disk, Weights(), listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        # The initial save is in flight: it is waited for, and not taken again.
        first = await session.save()
        assert isinstance(first, Checkpoint)
        assert first.step == 0
        again = await session.save()
        assert again == first
        assert rounds(listener) == [("before_save", 0), ("after_save", 0)]
    assert [entry for entry in disk.log if entry[0] == "begin"] == [("begin", 0)]


@pytest.mark.asyncio
async def test_a_step_that_was_restored_is_durable(tmp_path: Path) -> None:
    weights = Weights()
    async with MonitoredTrainingSession(hooks=[saver_hook(tmp_path, weights)]) as session:
        await session.run(weights.train)
    listener = RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        checkpoint = await session.save()
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1
        assert rounds(listener) == []


@pytest.mark.asyncio
async def test_with_one_of_two_hooks_durable_only_the_other_saves(tmp_path: Path) -> None:
    one, two = RecordingListener("one"), RecordingListener("two")
    hooks = [
        saver_hook(tmp_path / "a", Weights(), save_steps=1, listeners=[one], initial_save="never"),
        saver_hook(tmp_path / "b", Weights(), listeners=[two], initial_save="never"),
    ]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks) as session:
        await session.advance()
        await session.drain()
        saved = await session.save()
        assert isinstance(saved, tuple)
        assert [checkpoint.step for checkpoint in saved] == [1, 1]
        assert rounds(one) == rounds(two) == [("before_save", 1), ("after_save", 1)]


@pytest.mark.asyncio
async def test_the_grid_does_not_move(tmp_path: Path) -> None:
    listener = RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), save_steps=4, listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        for _ in range(8):
            await session.advance()
            if session.global_step in (3, 5):
                await session.save()
        await session.drain()
    assert [step for phase, step in rounds(listener) if phase == "before_save"] == [0, 3, 4, 5, 8]


@pytest.mark.asyncio
@pytest.mark.parametrize("when_busy", ["wait", "skip", "coalesce"])
async def test_it_waits_for_the_round_in_flight_whatever_when_busy_says(
    tmp_path: Path, when_busy: Literal["wait", "skip", "coalesce"]
) -> None:
    disk, weights, listener = Disk(tmp_path), Weights(), RecordingListener("l")
    gate = disk.hold("commit")
    hook = saver_hook(disk, weights, listeners=[listener], when_busy=when_busy)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.run(weights.train)
        saving = asyncio.create_task(session.save())
        await gate.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        assert rounds(listener) == [("before_save", 0)]
        gate.open()
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1
    assert rounds(listener) == [("before_save", 0), ("after_save", 0), ("before_save", 1), ("after_save", 1)]


@pytest.mark.asyncio
@pytest.mark.parametrize("when_busy", ["wait", "skip", "coalesce"])
async def test_a_request_during_a_run_waits_for_the_round_in_flight_too(
    tmp_path: Path, when_busy: Literal["wait", "skip", "coalesce"]
) -> None:
    disk, weights, go = Disk(tmp_path), Weights(), asyncio.Event()
    gate = disk.hold("commit")

    async def step() -> None:
        await go.wait()
        weights.train()

    hook = saver_hook(disk, weights, when_busy=when_busy)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        running = asyncio.create_task(session.run(step))
        await gate.reached()
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        go.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        gate.open()
        await running
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("operation", ["begin", "write", "manifest", "commit"])
async def test_a_failure_goes_to_the_asker_and_only_to_the_asker(tmp_path: Path, operation: str) -> None:
    disk, listener = Disk(tmp_path), RecordingListener("l")
    disk.fail(operation)
    hook = saver_hook(disk, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        with pytest.raises(SaveError) as caught:
            await session.save()
        assert caught.value.step == 0
        assert rounds(listener) == [("before_save", 0)]
        # Neither the next boundary nor the exit raises it again.
        await session.advance()
    assert disk.log[-1] == ("add", 1)


@pytest.mark.asyncio
async def test_every_asker_of_a_shared_round_hears_of_its_failure(tmp_path: Path) -> None:
    disk, go = Disk(tmp_path), asyncio.Event()
    disk.fail("write", error=disk_error(errno.EIO))
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[saver_hook(disk, Weights(), initial_save="never")]) as session,
    ):
        running = asyncio.create_task(session.run(go.wait))
        await asyncio.sleep(0)
        saving = [asyncio.create_task(session.save()) for _ in range(2)]
        await asyncio.sleep(0)
        go.set()
        await running
        answers = await asyncio.gather(*saving, return_exceptions=True)
        assert all(isinstance(answer, SaveError) for answer in answers)


@pytest.mark.asyncio
async def test_a_before_save_that_raises_is_the_askers_error(tmp_path: Path) -> None:
    listener = RecordingListener("l", raise_in={"before_save": {1: ValueError("not now")}})
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        with pytest.raises(ListenerError, match="not now"):
            await session.save()
        await session.advance()
    assert session.errors == ()


@pytest.mark.asyncio
async def test_a_state_that_cannot_be_saved_is_the_askers_error(tmp_path: Path) -> None:
    state: dict[str, Any] = {"model": {"w": Weights().tree["model"]["w"]}, "bad": []}
    hook = saver_hook(tmp_path, state, initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        state["bad"].append(object())
        with pytest.raises(UnsupportedLeafError):
            await session.save()
        state["bad"].clear()
        await session.advance()


@pytest.mark.asyncio
async def test_an_after_save_that_raises_leaves_the_checkpoint_durable_and_surfaces_at_the_boundary(
    tmp_path: Path,
) -> None:
    listener = RecordingListener("l", raise_in={"after_save": {1: ValueError("evaluation")}})
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        checkpoint = await session.save()
        assert isinstance(checkpoint, Checkpoint)
        with pytest.raises(ListenerError, match="evaluation"):
            await session.advance()


@pytest.mark.asyncio
async def test_the_save_of_a_cancelled_asker_completes(tmp_path: Path) -> None:
    disk, weights = Disk(tmp_path), Weights()
    gate = disk.hold("write")
    hook = saver_hook(disk, weights, initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.run(weights.train)
        saving = asyncio.create_task(session.save())
        await gate.reached()
        saving.cancel()
        await asyncio.wait([saving])
        assert saving.cancelled()
        gate.open()
        await session.drain()
        assert ("committed", 1) in disk.log


@pytest.mark.asyncio
async def test_a_failure_whose_asker_was_cancelled_surfaces_at_the_boundary(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    gate = disk.hold("write")
    disk.fail("write", error=disk_error(errno.EIO))
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[saver_hook(disk, Weights(), initial_save="never")]) as session,
    ):
        saving = asyncio.create_task(session.save())
        await gate.reached()
        saving.cancel()
        await asyncio.wait([saving])
        gate.open()
        await session.drain()
        with pytest.raises(SaveError):
            await session.advance()


@pytest.mark.asyncio
async def test_a_request_cancelled_before_its_boundary_is_no_request(tmp_path: Path) -> None:
    listener, go = RecordingListener("l"), asyncio.Event()
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        running = asyncio.create_task(session.run(go.wait))
        await asyncio.sleep(0)
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.wait([saving])
        go.set()
        await running
        await session.drain()
    assert rounds(listener) == []


@pytest.mark.asyncio
async def test_an_asker_cancelled_while_it_serves_others_leaves_them_to_be_served(tmp_path: Path) -> None:
    """The request of the second is neither lost nor dragged down by the first one's cancellation."""
    disk, weights, gate = Disk(tmp_path), Weights(), Gate()
    listener = RecordingListener("l", gates={"before_save": gate})
    hook = saver_hook(disk, weights, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.run(weights.train)
        first = asyncio.create_task(session.save())
        await gate.reached()
        second = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        gate.open()
        checkpoint = await second
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 1
        await asyncio.wait([first])
        assert first.cancelled()


@pytest.mark.asyncio
async def test_after_a_failed_check_the_step_cannot_be_saved_and_no_request_is_left_behind(
    tmp_path: Path,
) -> None:
    listener = RecordingListener("l")
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never")
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[hook, NanGuardHook()], final_save="never") as session,
    ):
        with pytest.raises(FloatingPointError):
            await session.run(lambda: float("nan"))
        with pytest.raises(ProtocolError, match="check"):
            await session.save()
        await session.run(lambda: 1.0)
        await session.drain()
        assert rounds(listener) == []
        checkpoint = await session.save()
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 2


@pytest.mark.asyncio
async def test_a_request_whose_session_ends_in_an_error_is_told_so(tmp_path: Path) -> None:
    error, go = ValueError("training"), asyncio.Event()
    weights = Weights()

    async def step() -> None:
        await go.wait()
        raise error

    async with hang_guard():
        saving = None
        with pytest.raises(ValueError, match="training") as caught:
            async with MonitoredTrainingSession(
                hooks=[saver_hook(tmp_path, weights, initial_save="never")]
            ) as session:
                running = asyncio.create_task(session.run(step))
                await asyncio.sleep(0)
                saving = asyncio.create_task(session.save())
                await asyncio.sleep(0)
                go.set()
                await running
        assert caught.value is error
        assert saving is not None
        with pytest.raises(ProtocolError, match="ended"):
            await saving
    assert await saved_values(tmp_path) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before", "after"])
async def test_save_outside_the_block_is_refused(tmp_path: Path, when: str) -> None:
    session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights())])
    if when == "after":
        async with session:
            pass
    with pytest.raises(ProtocolError, match="open session"):
        await session.save()
    await session.aclose()


@pytest.mark.asyncio
async def test_save_from_another_task_while_the_session_is_entered_is_refused(tmp_path: Path) -> None:
    gate = Gate()
    listener = RecordingListener("l", gates={"begin": gate})
    session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])])

    async def life() -> None:
        async with session:
            await session.advance()

    async with hang_guard():
        living = asyncio.create_task(life())
        await gate.reached()
        with pytest.raises(ProtocolError):
            await session.save()
        with pytest.raises(ProtocolError):
            await session.advance()
        with pytest.raises(ProtocolError):
            await session.aclose()
        gate.open()
        await living
    assert session.global_step == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("blocking", [True, False])
async def test_votes_of_a_save_on_demand_count(tmp_path: Path, blocking: bool) -> None:
    listener = RecordingListener("l", vote_at=[1])
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never", blocking=blocking)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.advance()
        await session.save()
        assert [vote.step for vote in session.votes] == [1]
        if not blocking:
            await session.advance()
        assert session.should_stop()


@pytest.mark.asyncio
async def test_a_boundary_that_ends_early_leaves_the_request_to_the_next_one(tmp_path: Path) -> None:
    class Fails(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            if run.step == 1:
                raise LookupError

    weights, go = Weights(), asyncio.Event()

    async def step() -> None:
        await go.wait()
        weights.train()

    hooks = [Fails(), saver_hook(tmp_path, weights, initial_save="never")]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks) as session:
        running = asyncio.create_task(session.run(step))
        await asyncio.sleep(0)
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(LookupError):
            await running
        assert not saving.done()
        await session.run(weights.train)
        checkpoint = await saving
        assert isinstance(checkpoint, Checkpoint)
        assert checkpoint.step == 2
    assert await saved_values(tmp_path) == {2: 2}
