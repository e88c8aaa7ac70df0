"""``reuse_unchanged``: files in which nothing changed are linked, and every checkpoint stays complete."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import DamagedCheckpointError, SaveError
from async_ckpt.saver import Saver
from async_ckpt.storage import posix
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.memory import MemoryStore

from .conftest import Faults, assert_same

pytestmark = pytest.mark.asyncio

MIB = 2**20


def state(head: float, size: int = 1000) -> dict[str, Any]:
    return {"backbone": {"w": np.arange(9.0 * size)}, "head": {"w": np.full(size, head)}, "step": head}


def inode(directory: Path, step: int, group: str) -> int:
    return (directory / f"step-{step:08d}" / f"{group}-00001-of-00001.safetensors").stat().st_ino


async def test_frozen_groups_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    pwrite = posix.pwrite

    def counted(fd: int, data: memoryview, offset: int) -> int:
        count = pwrite(fd, data, offset)
        if count >= MIB:
            written.append(count)
        return count

    monkeypatch.setattr(posix, "pwrite", counted)
    size = MIB // 8 * 2
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        first = saver.start_save(state(1.0, size), 1)
        whole = (await first).bytes
        assert first.reused_bytes == 0
        assert sum(written) == whole
        written.clear()
        second = saver.start_save(state(2.0, size), 2)
        assert (await second).bytes == whole
        assert second.reused_bytes > 0.85 * whole
        assert sum(written) == whole - second.reused_bytes
        assert second.progress.bytes_done == second.progress.bytes_total == whole
    assert inode(tmp_path, 1, "backbone") == inode(tmp_path, 2, "backbone")
    assert inode(tmp_path, 1, "head") != inode(tmp_path, 2, "head")


async def test_each_checkpoint_is_complete_without_the_others(make_store: Any) -> None:
    async with Saver(make_store(), reuse_unchanged=True, max_to_keep=1) as saver:
        for step in range(1, 6):
            await saver.save(state(float(step)), step)
        assert [found.step for found in await saver.checkpoints()] == [5]
        await saver.verify(5)
        assert_same((await saver.restore()).state, state(5.0))


async def test_a_change_of_one_byte_is_written(tmp_path: Path) -> None:
    live = state(1.0)
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(live, 1)
        live["backbone"]["w"][5000] = np.nextafter(live["backbone"]["w"][5000], 1e9)
        await saver.save(live, 2)
        assert inode(tmp_path, 1, "backbone") != inode(tmp_path, 2, "backbone")
        assert_same((await saver.restore(2)).state, live)
        assert_same((await saver.restore(1)).state, state(1.0))


async def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        async with Saver(tmp_path, reuse_unchanged=True) as saver:
            await saver.save(state(float(step)), step)
    assert len({inode(tmp_path, step, "backbone") for step in (1, 2, 3)}) == 1


async def test_a_damaged_newest_checkpoint_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
    (tmp_path / "step-00000002").mkdir()
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(3.0), 3)
    assert inode(tmp_path, 1, "backbone") == inode(tmp_path, 3, "backbone")


async def test_a_file_that_shrank_behind_our_back_is_written_again(tmp_path: Path) -> None:
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        os.truncate(tmp_path / "step-00000001" / "backbone-00001-of-00001.safetensors", 4096)
        await saver.save(state(2.0), 2)
        await saver.verify(2)
        with pytest.raises(DamagedCheckpointError):
            await saver.verify(1)


async def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret"
    async with Saver(run, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        file = run / "step-00000001" / "backbone-00001-of-00001.safetensors"
        file.rename(secret)
        file.symlink_to(secret)
        await saver.save(state(2.0), 2)
        await saver.verify(2)
    copied = run / "step-00000002" / "backbone-00001-of-00001.safetensors"
    assert not copied.is_symlink()
    assert copied.stat().st_ino != secret.stat().st_ino


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOENT])
async def test_where_files_cannot_be_linked_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(posix, "link", refused)
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        pending = saver.start_save(state(2.0), 2)
        await pending
        assert pending.reused_bytes == 0
        await saver.verify(2)


async def test_the_checkpoint_before_may_be_gone(tmp_path: Path) -> None:
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        await saver.delete(1)
        await saver.save(state(2.0), 2)
        await saver.verify(2)


async def test_another_structure_is_written_whole(tmp_path: Path) -> None:
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        other = {**state(1.0), "backbone": {"v": np.arange(9000.0)}}
        pending = saver.start_save(other, 2)
        await pending
        assert inode(tmp_path, 1, "backbone") != inode(tmp_path, 2, "backbone")
        assert_same((await saver.restore(2)).state, other)


async def test_after_a_failed_commit_nothing_is_taken_for_granted(
    memory: MemoryStore, faults: Faults
) -> None:
    async with Saver(memory, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        live = state(2.0)
        live["backbone"]["w"][0] = 7.0
        faults.fail("commit", OSError(errno.EIO, "broken"))
        with pytest.raises(SaveError):
            # Step 1 again: what lies there is still the old one.
            await saver.save(live, 1)
        faults.fail("commit", None)
        await saver.save(live, 2)
        await saver.verify(2)
        assert_same((await saver.restore(2)).state, live)


async def test_a_link_that_fails_after_the_fact_fails_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(tmp_path, reuse_unchanged=True) as saver:
        await saver.save(state(1.0), 1)
        link, fsync = posix.link, posix.fsync
        linked: list[str] = []

        def noted(name: str, source: int, target: int) -> None:
            link(name, source, target)
            linked.append(name)

        def fails(fd: int) -> None:
            if linked:
                raise OSError(errno.EIO, "Input/output error")
            fsync(fd)

        with monkeypatch.context() as patched:
            patched.setattr(posix, "link", noted)
            patched.setattr(posix, "fsync", fails)
            with pytest.raises(SaveError, match="Input/output error"):
                await saver.save(state(2.0), 2)
        assert [found.step for found in await saver.checkpoints()] == [1]
        await saver.save(state(3.0), 3)
        await saver.verify(3)


async def test_files_made_in_a_window_are_linked_too(tmp_path: Path) -> None:
    live = {"backbone": {"w": np.arange(2.0 * MIB)}, "head": {"w": np.zeros(1000)}}
    async with Saver(tmp_path, reuse_unchanged=True, staging_bytes=MIB) as saver:
        await saver.save(live, 1)
        live["head"]["w"][:] = 1.0
        pending = saver.start_save(live, 2)
        await pending.staged()
        await pending
        assert pending.reused_bytes > 16 * MIB
        assert inode(tmp_path, 1, "backbone") == inode(tmp_path, 2, "backbone")
        assert_same((await saver.restore(2)).state, live)


async def test_a_store_links_only_what_is_there(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    async with Saver(store) as saver:
        await saver.save(state(1.0), 1)
        attempt = await store.begin(2)
        name = "backbone-00001-of-00001.safetensors"
        size = (tmp_path / "step-00000001" / name).stat().st_size
        assert not await store.link(attempt, 9, name, size)
        assert not await store.link(attempt, 1, "other-00001-of-00001.safetensors", size)
        assert not await store.link(attempt, 1, name, size + 1)
        assert not list((tmp_path / f".tmp-step-00000002-{attempt}").iterdir())
        assert await store.link(attempt, 1, name, size)
        await store.discard(attempt)
        await saver.verify(1)
