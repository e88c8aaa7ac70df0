"""``is_chief=False``: everyone restores, one writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, NoCheckpointError, SessionRunHook
from async_ckpt.testing import RecordingListener
from tests.session.lives import live, names, new_state, train

pytestmark = pytest.mark.asyncio


class Noted(SessionRunHook):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def begin(self) -> None:
        self.log.append(f"{self.name}.begin")

    async def after_create_session(self, session: MonitoredTrainingSession) -> None:
        self.log.append(f"{self.name}.after_create_session")

    async def after_run(self, run: Any) -> None:
        self.log.append(f"{self.name}.after_run")

    async def end(self, session: MonitoredTrainingSession) -> None:
        self.log.append(f"{self.name}.end")


async def test_chief_only_hooks_come_first_for_the_chief(tmp_path: Path) -> None:
    log: list[str] = []
    async with MonitoredTrainingSession(
        hooks=[Noted("everyone", log)], chief_only_hooks=[Noted("chief", log)]
    ) as session:
        assert session.is_chief
        await session.advance()
    assert log == [
        "chief.begin", "everyone.begin", "chief.after_create_session", "everyone.after_create_session",
        "chief.after_run", "everyone.after_run", "chief.end", "everyone.end",
    ]  # fmt: skip


async def test_a_worker_drops_the_chiefs_hooks(tmp_path: Path) -> None:
    log: list[str] = []
    async with MonitoredTrainingSession(
        hooks=[Noted("everyone", log)], chief_only_hooks=[Noted("chief", log)], is_chief=False
    ) as session:
        await session.advance()
    assert log == [f"everyone.{phase}" for phase in ("begin", "after_create_session", "after_run", "end")]


async def test_a_worker_restores_and_never_saves(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    state, listener = new_state(), RecordingListener("l")
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, listeners=[listener])
    before = set(names(tmp_path))
    async with MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=False) as session:
        assert session.global_step == 2
        np.testing.assert_array_equal(state["w"], np.full(4, 2.0))
        await train(session, state, 3)
        assert await session.save() == ()
    assert session.global_step == 5
    assert set(names(tmp_path)) - {".pins"} == before
    assert listener.log == []


async def test_workers_restore_beside_a_chief_that_holds_the_lock(tmp_path: Path) -> None:
    await live(tmp_path, 1)
    mine = new_state()
    async with MonitoredTrainingSession(chief_only_hooks=[CheckpointSaverHook(tmp_path, mine, save_steps=1)]):
        for _ in range(2):
            state = new_state()
            hook = CheckpointSaverHook(tmp_path, state, save_steps=1)
            async with MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=False) as session:
                assert session.global_step == 1


async def test_a_worker_makes_no_directory_and_no_lock(tmp_path: Path) -> None:
    hook = CheckpointSaverHook(tmp_path / "run", new_state(), save_steps=1)
    async with MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=False) as session:
        await session.advance()
    assert not (tmp_path / "run").exists()


async def test_a_worker_takes_explicit_steps_and_refuses_missing_ones_as_the_chief_does(
    tmp_path: Path,
) -> None:
    await live(tmp_path, 3)
    hook = CheckpointSaverHook(tmp_path, new_state(), save_steps=1, restore=2)
    async with MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=False) as session:
        assert session.global_step == 2
    missing = CheckpointSaverHook(tmp_path, new_state(), save_steps=1, restore=9)
    with pytest.raises(NoCheckpointError):
        async with MonitoredTrainingSession(chief_only_hooks=[missing], is_chief=False):
            pytest.fail("not reached")


class Schedule(SessionRunHook):
    def __init__(self) -> None:
        self.rate = 1.0

    async def after_run(self, run: Any) -> None:
        self.rate /= 2

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rate = state["rate"]


async def test_the_hooks_of_a_worker_get_their_states_back_as_the_chiefs_do(tmp_path: Path) -> None:
    for chief in (True, False):
        state, schedule = new_state(), Schedule()
        hook = CheckpointSaverHook(tmp_path, state, save_steps=1)
        async with MonitoredTrainingSession(
            hooks=[schedule], chief_only_hooks=[hook], is_chief=chief
        ) as session:
            assert schedule.rate == (1.0 if chief else 0.5), "as it was at the saver hook's place"
            await train(session, state, 2)


async def test_a_worker_reads_from_a_directory_it_cannot_write_to(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a directory read-only")
    await live(tmp_path / "run", 2)
    from tests.session.mounts import read_only

    with read_only(tmp_path / "run"):
        state = new_state()
        hook = CheckpointSaverHook(tmp_path / "run", state, save_steps=1)
        async with MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=False) as session:
            assert session.global_step == 2
