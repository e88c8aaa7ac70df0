"""Others act between any two of our steps, and not every file system can do everything."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

from async_ckpt.errors import DirectoryLockedError, NoCheckpointError, RestoreError, SaveError
from async_ckpt.storage import bulk, lock, pins, posix
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import LARGE, aligned, load, names, save


def raiser(code: int) -> object:
    def call(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.asyncio
async def test_a_lock_file_removed_between_open_and_lock_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = lock.try_lock, list[int]()

    def removed_first(fd: int) -> bool:
        calls.append(fd)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        elif len(calls) == 2:
            (tmp_path / ".lock").rename(tmp_path / "elsewhere")
            (tmp_path / ".lock").touch()
        return real(fd)

    store, other = LocalStore(tmp_path), LocalStore(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(lock, "try_lock", removed_first)
        await store.open()
    assert len(calls) == 3
    with pytest.raises(DirectoryLockedError):
        await other.open()
    await store.aclose()
    await other.aclose()


@pytest.mark.asyncio
async def test_a_file_system_without_locks_is_named_and_still_read(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, b"x")
    other = LocalStore(store.location)
    monkeypatch.setattr(fcntl, "flock", raiser(errno.ENOTSUP))
    with pytest.raises(SaveError, match="not supported"):
        await other.open()
    async with other.lease(1):
        assert await load(other, 1) == b"x"
    assert names(Path(store.location) / ".pins") == []
    monkeypatch.setattr(fcntl, "flock", raiser(errno.EIO))
    with pytest.raises(RestoreError, match="Input/output"):
        async with other.lease(1):
            pass
    await other.aclose()


@pytest.mark.asyncio
async def test_a_lease_that_was_swept_between_open_and_lock_is_taken_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1)
    real, place, calls = fcntl.flock, Path(store.location) / ".pins", list[str]()

    def swept_first(fd: int, kind: int) -> None:
        if kind == fcntl.LOCK_SH:
            calls.extend(names(place))
            if len(calls) == 1:
                (place / calls[0]).unlink()
        real(fd, kind)

    monkeypatch.setattr(fcntl, "flock", swept_first)
    async with store.lease(1):
        assert await store.pinned() == {1}
        assert names(place) == calls[1:]
        (place / "lease-step-00000001-dead").touch()
        assert await store.pinned() == {1}
        assert names(place) == calls[1:], "the dead one goes, the live one stays"
    assert await store.pinned() == set()


@pytest.mark.asyncio
async def test_a_full_disk_can_still_be_read(tmpfs: Path) -> None:
    store = LocalStore(tmpfs)
    await store.open()
    await save(store, 1, b"x")
    await store.aclose()
    with pytest.raises(OSError, match="No space left"):
        for number in range(60):
            (tmpfs / f"filler-{number}").touch()
    async with store.lease(1):
        assert await load(store, 1) == b"x"
    with pytest.raises(SaveError, match="No space left"):
        await store.pin(1)
    await store.aclose()


@pytest.mark.asyncio
async def test_a_place_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "absent")
    assert await store.steps() == []
    assert await store.pinned() == set()
    await store.unpin(1)
    for doing in (store.pin(1), store.size(1, "x"), store.read(1, "x", limit=1)):
        with pytest.raises(NoCheckpointError):
            await doing
    with pytest.raises(NoCheckpointError):
        async with store.lease(1):
            pass
    assert names(tmp_path) == []
    await store.aclose()


@pytest.mark.asyncio
async def test_a_checkpoint_that_goes_while_it_is_leased_is_read_to_its_end(store: LocalStore) -> None:
    await save(store, 1, b"data")
    async with store.lease(1):
        assert await store.read(1, "x.safetensors", limit=9) == b"data"
        shutil.rmtree(store.location)
        assert await store.read(1, "x.safetensors", limit=9) == b"data"


@pytest.mark.asyncio
async def test_two_readers_of_one_step_do_not_close_each_other_s_files(store: LocalStore) -> None:
    await save(store, 1, bytes(LARGE))

    async def read(times: int) -> None:
        for _ in range(times):
            async with store.lease(1):
                assert len(await load(store, 1)) == LARGE

    await asyncio.gather(*(read(4) for _ in range(4)), *(load(store, 1) for _ in range(8)))
    assert await store.pinned() == set()


@pytest.mark.asyncio
async def test_a_listing_is_durable_or_an_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await save(store, 1)
    with monkeypatch.context() as patched:
        patched.setattr(posix, "fsync", raiser(errno.EINVAL))
        assert await store.steps() == [1]
        patched.setattr(posix, "fsync", raiser(errno.EIO))
        with pytest.raises(RestoreError, match="Input/output error") as caught:
            await store.steps()
    assert caught.value.path == store.location


@pytest.mark.asyncio
async def test_a_lack_of_descriptors_is_not_called_damage(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1)
    with monkeypatch.context() as patched:
        patched.setattr(posix, "open_file", raiser(errno.EMFILE))
        with pytest.raises(RestoreError, match="Too many open files") as caught:
            await store.size(1, "x.safetensors")
        assert type(caught.value) is RestoreError
    real = posix.open_directory

    def no_steps(name: str, directory: int | None = None) -> int:
        if directory is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(name)

    with monkeypatch.context() as patched:
        patched.setattr(posix, "open_directory", no_steps)
        with pytest.raises(RestoreError, match="Too many open files") as caught:
            await store.size(1, "x.safetensors")
        assert type(caught.value) is RestoreError
        with pytest.raises(SaveError, match="Too many open files"):
            await store.begin(2)
    await save(store, 2)


@pytest.mark.asyncio
async def test_rubbish_that_cannot_be_looked_for_waits(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await save(store, 1, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(pins, "leased", raiser(errno.EIO))
        await save(store, 1, b"new")
        await store._crew.idle()
    assert "cannot look for rubbish" in caplog.text
    assert await load(store, 1) == b"new"
    assert len(names(store.location, ".trash-step-00000001-")) == 1
    await store.aclose()
    await store.open()
    assert names(store.location, ".trash-") == []


@pytest.mark.asyncio
async def test_a_system_without_our_favourite_calls_does_it_the_long_way(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "_renameat2", None)
    monkeypatch.setattr(bulk, "_fallocate", None)
    monkeypatch.setattr(bulk, "_O_DIRECT", 0)
    for data in (aligned(LARGE), b"second"):
        await save(store, 1, data)
        assert await load(store, 1) == data


@pytest.mark.asyncio
async def test_a_refused_exchange_is_done_the_long_way_and_a_failed_one_fails(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(code: int) -> object:
        def renameat2(*_: object) -> int:
            posix.ctypes.set_errno(code)  # type: ignore[attr-defined]
            return -1

        return renameat2

    await save(store, 1, b"old")
    monkeypatch.setattr(posix, "_renameat2", answers(errno.EIO))
    with pytest.raises(SaveError, match="Input/output error"):
        await save(store, 1, b"failed")
    assert await load(store, 1) == b"old"
    monkeypatch.setattr(posix, "_renameat2", answers(errno.EINVAL))
    await save(store, 1, b"new")
    assert await load(store, 1) == b"new"


@pytest.mark.asyncio
async def test_nobody_waits_for_the_files_of_what_was_removed_but_the_next_attempt(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1)
    came, go, remove_tree = threading.Event(), threading.Event(), posix.remove_tree

    def held(name: str, directory: int) -> None:
        came.set()
        assert go.wait(30)
        remove_tree(name, directory)

    monkeypatch.setattr(posix, "remove_tree", held)
    assert await store.remove(1) is True
    assert await store.steps() == []
    beginning = asyncio.ensure_future(store.begin(2))
    while not came.is_set():
        await asyncio.sleep(0)
    assert not beginning.done()
    go.set()
    await store.discard(await beginning)
    assert names(store.location, ".trash-") == []
