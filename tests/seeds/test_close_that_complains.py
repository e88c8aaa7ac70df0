"""An error of ``close`` where nothing was written changes no outcome, and no error leaves a file open.

Found by the tier ``errno``: such an error after the rename made a durable checkpoint a failed save, left
other descriptors open, and came out as a bare ``OSError``; a failed ``fstat`` left the file open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from async_ckpt import RestoreError, SaveError, Saver


def opened(below: Path) -> list[str]:
    """Files below a directory that this process has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except FileNotFoundError:
            continue  # the one that lists them
        if target.startswith(f"{below}/"):
            found.append(target)
    return found


def complaining(call: Callable[..., object], chosen: Callable[[Path], bool]) -> Callable[..., object]:
    """The same call, which fails for chosen files: ``close`` after it has closed."""

    def failing(fd: int, *more: object) -> object:
        try:
            place = Path(f"/proc/self/fd/{fd}").readlink()
        except OSError:
            return call(fd, *more)
        if not chosen(place):
            return call(fd, *more)
        if call.__name__ == "close":
            call(fd, *more)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return failing


@pytest.mark.asyncio
async def test_a_close_after_the_rename_does_not_make_a_durable_save_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(tmp_path / "runs") as saver:
        monkeypatch.setattr(os, "close", complaining(os.close, lambda place: place.name == "step-00000001"))
        await saver.save({"x": 1}, 1)
        assert [checkpoint.step for checkpoint in await saver.checkpoints()] == [1]
    assert opened(tmp_path) == []


@pytest.mark.asyncio
async def test_a_close_of_what_was_only_read_says_nothing_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(tmp_path / "runs") as saver:
        await saver.save({"x": 1}, 1)
        monkeypatch.setattr(os, "close", complaining(os.close, lambda place: tmp_path in place.parents))
        assert (await saver.restore()).state == {"x": 1}
        await saver._add_report(1, metrics={"loss": 1.0})
        assert (await saver.verify(1)).report_error is None
    assert opened(tmp_path) == []


@pytest.mark.asyncio
async def test_a_failed_discard_is_the_error_of_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(tmp_path / "runs") as saver:
        await saver.open()
        monkeypatch.setattr(os, "close", complaining(os.close, lambda place: ".tmp-" in str(place)))
        monkeypatch.setattr(os, "fsync", complaining(os.fsync, lambda place: ".tmp-" in str(place)))
        with pytest.raises(SaveError, match="Input/output error"):
            await saver.save({"x": 1}, 1)
    assert opened(tmp_path) == []


@pytest.mark.asyncio
async def test_a_file_that_cannot_be_looked_at_is_not_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(tmp_path / "runs") as saver:
        await saver.save({"x": 1}, 1)
        monkeypatch.setattr(os, "fstat", complaining(os.fstat, lambda place: place.name == "manifest.json"))
        with pytest.raises(RestoreError):
            await saver.restore(1)
    assert opened(tmp_path) == []
