"""A session that starts below existing checkpoints: the abandoned lineage is kept, and counts no more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, LatestN, MonitoredTrainingSession, Saver
from async_ckpt.events import CheckpointsAbandoned, SaveStaged
from async_ckpt.testing import RecordingListener
from tests.session.lives import Log, flip_byte, listed, live, new_state, tensor_file, train

pytestmark = pytest.mark.asyncio


def abandoned(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.startswith(".abandoned"))


async def again(directory: Path, steps: int, **more: Any) -> Log:
    log, state = Log(), new_state(-1.0)
    hook = CheckpointSaverHook(directory, state, **{"save_steps": 1, **more})
    session = MonitoredTrainingSession(hooks=[hook])
    session.subscribe(log)
    async with session:
        await train(session, state, steps)
    return log


async def test_checkpoints_above_the_start_are_renamed_before_the_first_save(tmp_path: Path) -> None:
    await live(tmp_path, 4)
    log = await again(tmp_path, 1, restore=2)
    assert await listed(tmp_path) == [0, 1, 2, 3]
    assert [name.split("-")[2][:8] for name in abandoned(tmp_path)] == ["00000003", "00000004"]
    (event,) = log.of(CheckpointsAbandoned)
    assert (event.directory, event.steps) == (str(tmp_path), (3, 4))
    assert log.events.index(event) < log.events.index(log.of(SaveStaged)[0])


async def test_an_abandoned_checkpoint_is_kept_whole(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    inside = sorted(os.listdir(tmp_path / "step-00000003"))
    await again(tmp_path, 2, restore=1)
    kept = next(name for name in abandoned(tmp_path) if "00000003" in name)
    assert sorted(os.listdir(tmp_path / kept)) == inside
    saved_anew = await restored(tmp_path, 3)
    np.testing.assert_array_equal(saved_anew["w"], np.full(4, 3.0))


async def restored(directory: Path, step: int) -> Any:
    async with Saver(directory) as saver:
        return (await saver.restore(step)).state


async def test_as_long_as_nothing_is_saved_nothing_is_renamed(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    await again(tmp_path, 0, restore=1)
    assert await listed(tmp_path) == [0, 1, 2, 3]
    assert abandoned(tmp_path) == []


async def test_an_abandoned_checkpoint_is_never_resumed_from(tmp_path: Path) -> None:
    await live(tmp_path, 5)
    await again(tmp_path, 1, restore=2)
    state = new_state()
    async with MonitoredTrainingSession(
        hooks=[CheckpointSaverHook(tmp_path, state, save_steps=1)]
    ) as session:
        assert session.global_step == 3


async def test_retention_does_not_count_abandoned_ones(tmp_path: Path) -> None:
    await live(tmp_path, 6, max_to_keep=None)
    await again(tmp_path, 1, restore=3, keep=LatestN(3))
    assert await listed(tmp_path) == [2, 3, 4]
    assert len(abandoned(tmp_path)) == 3


async def test_after_a_fall_back_the_damaged_ones_are_put_aside_not_deleted(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    flip_byte(tensor_file(tmp_path, 3))
    with pytest.warns(RuntimeWarning, match="passed over"):
        log = await again(tmp_path, 1)
    assert log.of(CheckpointsAbandoned)[0].steps == (3,)
    assert len(abandoned(tmp_path)) == 1
    assert await listed(tmp_path) == [0, 1, 2, 3]


async def test_a_fresh_start_abandons_what_the_directory_held(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    log = await again(tmp_path, 1, restore=None)
    assert log.of(CheckpointsAbandoned)[0].steps == (1, 2)
    assert await listed(tmp_path) == [0, 1]
    np.testing.assert_array_equal((await restored(tmp_path, 0))["w"], np.full(4, -1.0))


async def test_two_lineages_of_the_same_step_are_both_kept(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    await again(tmp_path, 1, restore=1)
    await again(tmp_path, 1, restore=1)
    assert len(abandoned(tmp_path)) == 2


async def test_a_refused_state_abandons_nothing(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    state: dict[str, Any] = new_state()
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, restore=1)
    with pytest.raises(Exception, match="cannot save"):
        async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
            state["oops"] = object()
            await session.advance()
    assert await listed(tmp_path) == [0, 1, 2, 3]
    assert abandoned(tmp_path) == []


async def test_saving_a_step_that_exists_replaces_it(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    state = new_state()
    listener = RecordingListener("l")
    hook = CheckpointSaverHook(tmp_path, state, save_steps=5, initial_save="always", listeners=[listener])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        session.metrics["again"] = 1.0
    assert ("l", "after_save", 2) in listener.log
    assert await listed(tmp_path) == [0, 1, 2]
    assert not [name for name in os.listdir(tmp_path) if name.startswith((".trash", ".tmp"))]
