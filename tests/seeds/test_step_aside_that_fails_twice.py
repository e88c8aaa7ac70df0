"""Where names cannot be exchanged, a checkpoint that made way for one that could not come has its name again.

Found by the tier ``errno``: with two renames failing the older checkpoint was out of sight until the next
writer came, and the save was called ``failed``, which promises that older ones are untouched.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from async_ckpt import SaveError, Saver
from async_ckpt.storage import posix

REAL = posix.rename


@pytest.mark.asyncio
@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_the_older_checkpoint_comes_back(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = failing

    def rename(source: str, target: str, directory: int) -> None:
        nonlocal left
        if ".trash-replaced-" not in target and left:
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        REAL(source, target, directory)

    async with Saver(tmp_path) as saver:
        await saver.save({"x": "old"}, 1)
        monkeypatch.setattr(posix, "exchange", lambda *_: False)
        monkeypatch.setattr(posix, "rename", rename)
        with pytest.raises(SaveError, match="Input/output error") as caught:
            await saver.save({"x": "new"}, 1)
        assert caught.value.outcome == ("failed" if failing == 1 else "unknown")
        assert [checkpoint.step for checkpoint in await saver.checkpoints()] == ([] if failing == 3 else [1])
    async with Saver(tmp_path) as saver:
        await saver.open()
        assert (await saver.restore(1)).state == {"x": "old"}
