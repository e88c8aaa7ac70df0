"""Two saver hooks whose newest checkpoints differ: the error says where both can go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, RestoreError, Saver


@pytest.mark.asyncio
async def test_the_error_names_the_newest_step_that_every_hook_has(tmp_path: Path) -> None:
    for name, steps in (("a", (2, 4)), ("b", (2,))):
        async with Saver(tmp_path / name) as saver:
            for step in steps:
                await saver.save({"w": np.full(3, step)}, step)

    def hooks(restore: int | str) -> list[CheckpointSaverHook]:
        return [
            CheckpointSaverHook(tmp_path / name, {"w": np.zeros(3, int)}, save_steps=1, restore=restore)
            for name in "ab"
        ]

    with pytest.raises(RestoreError, match="restore=2 is the newest step that every hook has"):
        async with MonitoredTrainingSession(hooks=hooks("latest")):
            pass
    async with MonitoredTrainingSession(hooks=hooks(2), final_save="never") as session:
        assert session.global_step == 2
