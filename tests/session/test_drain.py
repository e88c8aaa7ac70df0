"""``session.drain()``: nothing is in flight any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from async_ckpt import MonitoredTrainingSession, SaveError
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Disk, Weights, hang_guard, saver_hook

pytestmark = pytest.mark.loop_flavours


@pytest.mark.asyncio
async def test_without_anything_in_flight_drain_returns(tmp_path: Path) -> None:
    async with hang_guard(), MonitoredTrainingSession() as session:
        await session.drain()
    async with (
        hang_guard(),
        MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights(), initial_save="never")]) as session,
    ):
        await session.drain()


@pytest.mark.asyncio
async def test_drain_waits_for_commit_after_save_report_and_retention(tmp_path: Path) -> None:
    disk, after = Disk(tmp_path), Gate()
    listener = RecordingListener("l", gates={"after_save": after})
    hook = saver_hook(disk, Weights(), save_steps=1, listeners=[listener], max_to_keep=1)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        after.open()
        await session.drain()
        after.close()
        gates = [disk.hold("commit"), after, disk.hold("add"), disk.hold("remove")]
        await session.advance()
        draining = asyncio.create_task(session.drain())
        for gate in gates:
            await gate.reached()
            assert not draining.done()
            gate.open()
        await draining
        assert disk.log[-1] == ("remove", 0)


@pytest.mark.asyncio
async def test_drain_raises_no_error_of_the_save_it_waits_for_which_surfaces_at_the_boundary(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    disk.fail("write")
    async with hang_guard(), MonitoredTrainingSession(hooks=[saver_hook(disk, Weights())]) as session:
        await session.drain()
        assert isinstance(session.errors[0], SaveError)
        with pytest.raises(SaveError):
            await session.advance()


@pytest.mark.asyncio
async def test_a_cancelled_drain_leaves_the_save_alone(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    gate = disk.hold("write")
    async with hang_guard(), MonitoredTrainingSession(hooks=[saver_hook(disk, Weights())]) as session:
        draining = [asyncio.create_task(session.drain()) for _ in range(2)]
        await gate.reached()
        draining[0].cancel()
        await asyncio.wait([draining[0]])
        assert draining[0].cancelled()
        gate.open()
        await draining[1]
        assert ("committed", 0) in disk.log
