"""``restore=<path>``: begin a new run with the values of another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from async_ckpt import (
    CheckpointSaverHook,
    DamagedCheckpointError,
    MonitoredTrainingSession,
    NoCheckpointError,
)
from async_ckpt.events import CheckpointRejected, CheckpointRestored, SessionBegan
from async_ckpt.testing import RecordingListener
from tests.session.lives import Log, flip_byte, listed, live, new_state, tensor_file, train

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def old(tmp_path: Path) -> Path:
    """Another run with checkpoints 0 to 3, ``w`` being as large as the step."""
    await live(tmp_path / "old", 3)
    return tmp_path / "old"


async def start(directory: Path, source: Any, steps: int = 0, **more: Any) -> tuple[Any, dict[str, Any], Log]:
    state, log = new_state(-1.0), Log()
    hook = CheckpointSaverHook(directory, state, save_steps=1, restore=source, **more)
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    async with session:
        session.metrics["began_at"] = session.global_step
        await train(session, state, steps)
    return session, state, log


async def test_a_path_gives_the_newest_values_and_step_zero(tmp_path: Path, old: Path) -> None:
    session, state, log = await start(tmp_path / "new", old)
    assert session.global_step == 0
    np.testing.assert_array_equal(state["w"], np.full(4, 3.0))
    assert session.restored.step == 3
    assert log.of(SessionBegan)[0].resumed is False
    assert Path(log.of(CheckpointRestored)[0].path).parent == old


async def test_a_text_is_a_path_as_well(tmp_path: Path, old: Path) -> None:
    _, state, _ = await start(tmp_path / "new", str(old))
    np.testing.assert_array_equal(state["w"], np.full(4, 3.0))


async def test_a_step_directory_gives_that_step(tmp_path: Path, old: Path) -> None:
    session, state, _ = await start(tmp_path / "new", old / "step-00000002")
    assert session.global_step == 0
    np.testing.assert_array_equal(state["w"], np.full(4, 2.0))


async def test_the_new_run_saves_its_own_step_zero_and_leaves_the_old_one_alone(
    tmp_path: Path, old: Path
) -> None:
    before = sorted(os.listdir(old))  # reading leaves a directory for leases behind
    await start(tmp_path / "new", old, steps=1)
    assert await listed(tmp_path / "new") == [0, 1]
    assert sorted(set(os.listdir(old)) - {".pins"}) == before


async def test_on_the_next_start_the_own_checkpoints_win(tmp_path: Path, old: Path) -> None:
    await start(tmp_path / "new", old, steps=2)
    session, state, log = await start(tmp_path / "new", old)
    assert session.global_step == 2
    np.testing.assert_array_equal(state["w"], np.full(4, 5.0))
    assert log.of(SessionBegan)[0].resumed is True


async def test_the_listeners_of_the_old_run_hand_nothing_over(tmp_path: Path) -> None:
    class Best(RecordingListener):
        best = 0

        def state_dict(self) -> dict[str, Any]:
            return {"best": self.best}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.best = state["best"]

    veteran = Best("best")
    veteran.best = 7
    await live(tmp_path / "old", 1, listeners=[veteran])
    rookie = Best("best")
    await start(tmp_path / "new", tmp_path / "old", listeners=[rookie])
    assert rookie.best == 0
    assert ("best", "after_save", 1) not in rookie.log


async def test_a_damaged_newest_one_is_passed_over_there_too(tmp_path: Path, old: Path) -> None:
    flip_byte(tensor_file(old, 3))
    with pytest.warns(RuntimeWarning, match="step 3 was passed over"):
        _, state, log = await start(tmp_path / "new", old)
    np.testing.assert_array_equal(state["w"], np.full(4, 2.0))
    assert [event.step for event in log.of(CheckpointRejected)] == [3]


async def test_a_damaged_step_directory_is_an_error(tmp_path: Path, old: Path) -> None:
    flip_byte(tensor_file(old, 3))
    with pytest.raises(DamagedCheckpointError):
        await start(tmp_path / "new", old / "step-00000003")
    assert await listed(tmp_path / "new") == []


@pytest.mark.parametrize("source", ["nowhere", "nowhere/step-00000001", "old/step-00000009"])
async def test_a_source_that_holds_nothing_is_an_error_that_names_it(
    tmp_path: Path, old: Path, source: str
) -> None:
    with pytest.raises(NoCheckpointError) as caught:
        await start(tmp_path / "new", tmp_path / source)
    assert str(tmp_path / source.split("/", maxsplit=1)[0]) in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


async def test_a_running_writer_of_the_old_run_is_not_in_the_way(tmp_path: Path, old: Path) -> None:
    state = new_state()
    hook = CheckpointSaverHook(old, state, save_steps=1)
    async with MonitoredTrainingSession(hooks=[hook]):
        _, new, _ = await start(tmp_path / "new", old)
    np.testing.assert_array_equal(new["w"], np.full(4, 3.0))


async def test_load_gets_the_values_of_the_other_run(tmp_path: Path, old: Path) -> None:
    taken: list[Any] = []
    await start(tmp_path / "new", old, load=taken.append)
    assert [saved["n"] for saved in taken] == [3]


async def test_a_resumed_state_is_not_started_warm_by_a_second_hook_that_shares_it(
    tmp_path: Path, old: Path
) -> None:
    await live(tmp_path / "a", 1)
    state = new_state()
    hooks = [
        CheckpointSaverHook(tmp_path / "a", state, save_steps=1),
        CheckpointSaverHook(tmp_path / "b", state, save_steps=1, restore=old),
    ]
    async with MonitoredTrainingSession(hooks=hooks):
        np.testing.assert_array_equal(state["w"], np.full(4, 1.0))


async def test_a_second_hook_may_start_warm_while_the_first_resumes(tmp_path: Path, old: Path) -> None:
    await live(tmp_path / "a", 2)
    one, two = new_state(), new_state()
    hooks = [
        CheckpointSaverHook(tmp_path / "a", one, save_steps=1),
        CheckpointSaverHook(tmp_path / "b", two, save_steps=1, restore=old),
    ]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        assert session.global_step == 2
        np.testing.assert_array_equal(one["w"], np.full(4, 2.0))
        np.testing.assert_array_equal(two["w"], np.full(4, 3.0))
