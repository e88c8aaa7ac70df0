"""A directory that was made and whose name never got to the disk is not taken for one that lasts.

Found by the tier ``order`` with a failing fsync: the second attempt found the directory there, and
acknowledged checkpoints and pins below a name that a power cut could take away.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from async_ckpt import SaveError, Saver
from async_ckpt.storage import posix

REAL = posix.fsync


def failing_once(monkeypatch: pytest.MonkeyPatch, where: Path) -> list[Path]:
    """Let the first fsync of ``where`` fail; gives the list of all that worked since."""
    worked: list[Path] = []
    failed: list[Path] = []

    def fsync(fd: int) -> None:
        place = Path(f"/proc/self/fd/{fd}").readlink()
        if place == where.resolve() and not failed:
            failed.append(place)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        REAL(fd)
        worked.append(place)

    monkeypatch.setattr(posix, "fsync", fsync)
    return worked


@pytest.mark.asyncio
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_an_ancestor_whose_fsync_failed_is_synced_by_the_next_attempt(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"][depth]
    worked = failing_once(monkeypatch, above)
    async with Saver(tmp_path / "a" / "b" / "runs") as saver:
        with pytest.raises(SaveError, match="Input/output error"):
            await saver.save({"x": 1}, 1)
        await saver.save({"x": 1}, 2)
    assert above.resolve() in worked


@pytest.mark.asyncio
async def test_an_ancestor_that_was_made_by_a_process_that_died_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    worked = failing_once(monkeypatch, tmp_path / "nowhere")
    async with Saver(tmp_path / "a" / "runs") as saver:
        await saver.save({"x": 1}, 1)
    assert tmp_path.resolve() in worked


@pytest.mark.asyncio
async def test_a_pin_lasts_though_the_directory_of_pins_was_made_by_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(tmp_path / "runs") as saver:
        await saver.save({"x": 1}, 1)
        worked = failing_once(monkeypatch, tmp_path / "runs")
        with pytest.raises(SaveError, match="Input/output error"):
            await saver.pin(1)
        await saver.pin(1)
    assert (tmp_path / "runs").resolve() in worked


@pytest.mark.asyncio
async def test_a_parent_that_cannot_be_looked_into_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = posix.open_directory

    def refused(name: str, directory: int | None = None) -> int:
        if name == str(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return real(name, directory)

    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(posix, "open_directory", refused)
    async with Saver(tmp_path / "runs") as saver:
        await saver.save({"x": 1}, 1)
