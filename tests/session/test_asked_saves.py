"""Saves on demand, where several things come together: two hooks, callers that leave, steps that fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    ListenerError,
    MonitoredTrainingSession,
    ProtocolError,
    Saver,
    events,
)
from async_ckpt.testing import Gate
from tests.session.disk import hang_guard

pytestmark = pytest.mark.loop_flavours


async def nothing() -> None:
    """A step that changes nothing."""


class Gated:
    def __init__(self) -> None:
        self.gate = Gate()

    async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
        await self.gate()
        session.report({"score": 1.0})


class Refusing:
    def __init__(self, why: str) -> None:
        self.why = why

    async def before_save(self, _session: Any, _step: int) -> None:
        raise ValueError(self.why)


def hook(directory: Path, *listeners: object, save_steps: int = 100, **options: Any) -> CheckpointSaverHook:
    state = options.pop("state", {"w": np.zeros(3)})
    return CheckpointSaverHook(
        directory, state, save_steps=save_steps, initial_save="never", listeners=listeners, **options
    )


async def stored(directory: Path) -> dict[int, Any]:
    async with Saver(directory) as saver:
        return {c.step: (await saver.restore(c.step)).state for c in await saver.checkpoints()}


@pytest.mark.asyncio
async def test_a_caller_that_leaves_a_save_of_two_hooks_leaves_no_error_behind(tmp_path: Path) -> None:
    slow = Gated()
    async with hang_guard():
        hooks = [hook(tmp_path / "a", slow), hook(tmp_path / "b", slow)]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            await session.run(nothing)
            caller = asyncio.create_task(session.save())
            await slow.gate.reached()
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)
            slow.gate.open()
            await session.drain()
            await session.run(nothing)
    assert session.errors == ()


@pytest.mark.asyncio
async def test_every_hook_that_failed_is_heard_of(tmp_path: Path) -> None:
    async with hang_guard():
        hooks = [hook(tmp_path / "a", Refusing("first")), hook(tmp_path / "b", Refusing("second"))]
        async with MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
            await session.run(nothing)
            with pytest.raises(ListenerError, match="first") as caught:
                await session.save()
    assert any("second" in note for note in caught.value.__notes__)
    assert len(session.errors) == 1


@pytest.mark.asyncio
async def test_a_step_cancelled_in_the_middle_is_not_saved_as_a_step(tmp_path: Path) -> None:
    state = {"a": np.zeros(1), "b": np.zeros(1)}
    middle = asyncio.Event()

    async def whole() -> None:
        state["a"] += 1
        state["b"] += 1

    async def half() -> None:
        state["a"] += 1
        middle.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with MonitoredTrainingSession(hooks=[hook(tmp_path, state=state, save_steps=1)]) as session:
            await session.run(whole)
            await session.drain()
            step = asyncio.create_task(session.run(half))
            await middle.wait()
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
            with pytest.raises(ProtocolError, match="no boundary"):
                await session.save()

    async with hang_guard():
        await main()
    assert {step: (float(s["a"][0]), float(s["b"][0])) for step, s in (await stored(tmp_path)).items()} == {
        1: (1.0, 1.0)
    }


@pytest.mark.asyncio
async def test_a_final_save_left_out_after_a_cancelled_step_is_said_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()
    skipped: list[events.Event] = []

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    async with hang_guard(), MonitoredTrainingSession(hooks=[hook(tmp_path)]) as session:
        session.subscribe(lambda e: skipped.append(e) if isinstance(e, events.SaveSkipped) else None)
        await session.run(nothing)
        step = asyncio.create_task(session.run(endless))
        await started.wait()
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
    assert await stored(tmp_path) == {}
    assert "the final save is left out" in caplog.text
    assert [e.reason for e in skipped if isinstance(e, events.SaveSkipped)] == ["interrupted"]


@pytest.mark.asyncio
async def test_a_request_that_came_too_late_for_the_boundary_is_served_behind_it(tmp_path: Path) -> None:
    slow = Gated()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[hook(tmp_path, slow, save_steps=1, blocking=True)]) as session,
    ):
        step = asyncio.create_task(session.run(nothing))
        await slow.gate.reached()
        caller = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        slow.gate.open()
        await step
        checkpoint = await caller
    assert not isinstance(checkpoint, tuple)
    assert checkpoint.step == 1


@pytest.mark.asyncio
async def test_a_step_whose_after_save_still_runs_is_returned_when_that_is_over(tmp_path: Path) -> None:
    slow = Gated()
    hooks = [hook(tmp_path, slow, save_steps=1)]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks) as session:
        await session.run(nothing)
        await slow.gate.reached()
        caller = asyncio.create_task(session.save())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not caller.done()
        slow.gate.open()
        checkpoint = await caller
    assert not isinstance(checkpoint, tuple)
    assert checkpoint.metrics == {"score": 1.0}


@pytest.mark.asyncio
async def test_the_session_says_what_it_passed_over(tmp_path: Path) -> None:
    async with MonitoredTrainingSession(hooks=[hook(tmp_path, save_steps=1)]) as session:
        await session.run(nothing)
        await session.run(nothing)
    manifest = tmp_path / "step-00000002" / "manifest.json"
    data = bytearray(manifest.read_bytes())
    data[50] ^= 1
    manifest.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="passed over"):
        async with MonitoredTrainingSession(hooks=[hook(tmp_path)], final_save="never") as session:
            assert session.restored is not None
            assert [skipped.step for skipped in session.restored.skipped] == [2]


@pytest.mark.asyncio
async def test_the_saved_state_of_an_owed_report_is_read_only_too(tmp_path: Path) -> None:
    writeable: list[bool] = []

    class Looks:
        async def after_save(self, session: MonitoredTrainingSession, _step: int) -> None:
            writeable.append((await session.saved_state())["w"].flags.writeable)

    async with MonitoredTrainingSession(hooks=[hook(tmp_path, Looks(), save_steps=1)]) as session:
        await session.run(nothing)
    (tmp_path / "step-00000001" / "report.json").unlink()
    async with MonitoredTrainingSession(hooks=[hook(tmp_path, Looks())]):
        pass
    assert writeable == [False, False]
