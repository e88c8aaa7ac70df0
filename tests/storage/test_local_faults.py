"""Whatever the disk refuses, the error says so and older checkpoints stay."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from async_ckpt.errors import ProtocolError, RestoreError, SaveError
from async_ckpt.storage import bulk, posix
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import LARGE, Failing, aligned, load, names, never, nothing, put, save


@pytest.mark.asyncio
@pytest.mark.parametrize("at", range(1, 6))
async def test_each_fsync_that_fails_fails_the_save_and_nothing_older(
    at: int, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, b"old")
    failing = Failing(posix.fsync, at, errno.EIO)
    monkeypatch.setattr(posix, "fsync", failing)
    if at == 5:
        await save(store, 2, aligned(LARGE))
        assert failing.uses == 4, "one per file, one for their directory, one for the parent"
        return
    with pytest.raises(SaveError) as caught:
        await save(store, 2, aligned(LARGE))
    assert caught.value.outcome == ("unknown" if at == 4 else "failed")
    assert caught.value.step == 2
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.path is not None
    assert caught.value.path in str(caught.value)
    assert "Input/output error" in str(caught.value)
    assert await load(store, 1) == b"old"
    # After the rename nothing is deleted on the strength of an error.
    assert await store.steps() == ([1, 2] if at == 4 else [1])
    assert names(store.location, ".tmp-") == []
    await save(store, 2, b"again")
    assert await load(store, 2) == b"again"


@pytest.mark.asyncio
async def test_after_a_failed_fsync_the_attempt_is_dead(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = await store.begin(1)
    with monkeypatch.context() as patched:
        patched.setattr(posix, "fsync", Failing(posix.fsync, 1, errno.EIO))
        with pytest.raises(SaveError):
            await put(store, attempt, "x.safetensors", b"x")
    with pytest.raises(ProtocolError):
        await put(store, attempt, "manifest.json", b"{}")
    with pytest.raises(ProtocolError):
        await store.commit(attempt, 1)
    await store.discard(attempt)


@pytest.mark.asyncio
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [False, True])
async def test_a_rename_that_fails_is_failed_and_one_that_worked_is_unknown(
    *, after: bool, again: bool, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if again:
        await save(store, 2, b"old")
    name = "exchange" if again else "rename"
    monkeypatch.setattr(posix, name, Failing(getattr(posix, name), 1, errno.EIO, after=after))
    with pytest.raises(SaveError) as caught:
        await save(store, 2, b"new")
    assert caught.value.outcome == ("unknown" if after else "failed")
    assert await store.steps() == ([2] if after or again else [])
    if after or again:
        assert await load(store, 2) == (b"new" if after else b"old")


@pytest.mark.asyncio
async def test_while_an_exchange_is_unknown_both_checkpoints_stay(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 2, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(posix, "fsync", Failing(posix.fsync, 4, errno.EIO))
        with pytest.raises(SaveError) as caught:
            await save(store, 2, b"new")
    assert caught.value.outcome == "unknown"
    assert await load(store, 2) == b"new"
    (other,) = names(store.location, ".tmp-")
    assert (Path(store.location) / other / "x.safetensors").read_bytes() == b"old"
    await store.aclose()
    with monkeypatch.context() as patched:
        patched.setattr(posix, "fsync", Failing(posix.fsync, 1, errno.EIO))
        with pytest.raises(SaveError):
            await store.open()
    assert names(store.location, ".tmp-") == [other], "it goes once the names are known to last"
    await store.open()
    assert names(store.location, ".tmp-") == []


@pytest.mark.asyncio
async def test_where_names_cannot_be_exchanged_the_old_one_steps_aside(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "exchange", lambda *_: False)
    await save(store, 2, b"old")
    await save(store, 2, b"new")
    assert await load(store, 2) == b"new"
    await store._crew.idle()
    assert names(store.location) == [".lock", "step-00000002"]
    monkeypatch.setattr(posix, "rename", Failing(posix.rename, 2, errno.EIO))
    with pytest.raises(SaveError) as caught:
        await save(store, 2, b"third")
    assert caught.value.outcome == "failed"
    assert await load(store, 2) == b"new"


@pytest.mark.asyncio
async def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    async def opened() -> LocalStore:
        made = LocalStore(tmp_path)
        await made.open()
        return made

    store = await opened()
    await save(store, 2, b"old")
    await store.aclose()
    (tmp_path / "step-00000002").rename(tmp_path / ".trash-replaced-step-00000002-00ff")
    (tmp_path / ".tmp-step-00000002-00ff").mkdir()
    store = await opened()
    assert await load(store, 2) == b"old"
    await store.aclose()
    (tmp_path / ".trash-replaced-step-00000002-00ff").mkdir()
    store = await opened()
    assert await load(store, 2) == b"old"
    assert names(tmp_path) == [".lock", "step-00000002"]
    await store.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [900_000, 2 << 20])
async def test_a_full_disk_is_named_and_its_space_comes_back(size: int, tmpfs: Path) -> None:
    store = LocalStore(tmpfs / "runs")
    await store.open()
    await save(store, 1, bytes(300_000))
    with pytest.raises(SaveError, match="No space left on device") as caught:
        await save(store, 2, aligned(size))
    assert caught.value.path is not None
    assert caught.value.path.endswith("x.safetensors")
    assert caught.value.outcome == "failed"
    assert await store.steps() == [1]
    await save(store, 3, bytes(600_000))
    assert await store.steps() == [1, 3]
    with pytest.raises(SaveError, match="No space left on device"):
        await store.add(3, "report.json", bytes(400_000))
    assert names(tmpfs / "runs" / "step-00000003") == ["manifest.json", "x.safetensors"]
    await store.aclose()


def remount_read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)


@pytest.mark.asyncio
async def test_a_read_only_disk_is_named_and_still_read(tmpfs: Path) -> None:
    store = LocalStore(tmpfs / "runs")
    await store.open()
    await save(store, 1, b"x")
    await store.aclose()
    remount_read_only(tmpfs)
    with pytest.raises(SaveError, match="Read-only file system") as caught:
        await store.open()
    assert caught.value.path == store.location
    async with store.lease(1):
        assert await load(store, 1) == b"x"
    assert await store.steps() == [1]
    with pytest.raises(SaveError, match="Read-only file system"):
        await store.pin(1)
    other = LocalStore(tmpfs / "another" / "place")
    with pytest.raises(SaveError, match="Read-only file system"):
        await other.open()
    await other.aclose()
    await store.aclose()


@pytest.mark.asyncio
async def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for path in (file, file / "below" / "it"):
        store = LocalStore(path)
        with pytest.raises(SaveError, match="Not a directory") as caught:
            await store.open()
        assert caught.value.path == str(path)
        with pytest.raises(RestoreError, match="Not a directory"):
            await store.steps()
        await store.aclose()
    assert file.read_text() == "precious"


@pytest.mark.asyncio
async def test_short_writes_are_continued_at_the_right_place(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = posix.pwrite
    data = aligned(LARGE)
    for most in (1 << 20, 12_345, 1_000_003):
        monkeypatch.setattr(posix, "pwrite", lambda fd, part, at, most=most: real(fd, part[:most], at))
        seen: list[int] = []
        attempt = await store.begin(1)
        await store.write(attempt, "x.safetensors", data, progress=seen.append, stopped=never)
        assert seen == sorted(set(seen))
        assert seen[-1] == LARGE
        await put(store, attempt, "manifest.json", b"{}")
        await store.commit(attempt, 1)
        assert await load(store, 1) == data


@pytest.mark.asyncio
async def test_a_device_that_takes_nothing_is_an_error_and_not_a_loop(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "pwrite", lambda *_: 0)
    with pytest.raises(SaveError, match="accepts no bytes"):
        await save(store, 1, aligned(LARGE))
    assert await store.steps() == []


@pytest.mark.asyncio
async def test_direct_writes_that_are_refused_at_the_first_write_go_through_the_cache(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, data = posix.pwrite, aligned(LARGE)
    refused: list[int] = []

    def picky(fd: int, part: memoryview, at: int) -> int:
        if Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").split("flags:")[1].split()[0][-5] in "4567":
            refused.append(at)
            raise OSError(errno.EINVAL, "no direct writes here")
        return real(fd, part, at)

    monkeypatch.setattr(posix, "pwrite", picky)
    await save(store, 1, data)
    assert refused == [0]
    assert await load(store, 1) == data


@pytest.mark.asyncio
async def test_direct_writes_that_are_refused_at_the_open_go_through_the_cache(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", Failing(fcntl.fcntl, 2, errno.EINVAL))
    data = aligned(LARGE)
    await save(store, 1, data)
    assert await load(store, 1) == data


@pytest.mark.asyncio
async def test_memory_that_is_not_aligned_is_written_too(store: LocalStore) -> None:
    data = aligned(LARGE)
    for view in (data[1:], data[:-1].toreadonly(), data[: 2 << 20], memoryview(bytes(data))):
        await save(store, 1, view)
        assert await load(store, 1) == view


RLIMIT = """
import asyncio, resource, sys
sys.path[:0] = [{tests!r}]
from tests.storage.disk_saving import aligned, load, save
from async_ckpt.errors import SaveError
from async_ckpt.storage import bulk
from async_ckpt.storage.local import LocalStore

bulk._fallocate = None  # so that the limit is met in the middle of a write

async def main():
    store = LocalStore({place!r})
    await store.open()
    await save(store, 1, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_001, resource.RLIM_INFINITY))
    for size in (600_000, 3 << 20):
        try:
            await save(store, 2, aligned(size))
        except SaveError as error:
            assert "File too large" in str(error) and error.outcome == "failed", error
        else:
            raise SystemExit("a short write was taken for a whole one")
    assert await store.steps() == [1]
    await store.aclose()

asyncio.run(main())
"""


def test_a_real_short_write_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    script = RLIMIT.format(tests=str(Path(__file__).parents[2]), place=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.asyncio
async def test_a_checkpoint_that_cannot_be_removed_says_so(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await save(store, 1)
    await save(store, 2)
    with monkeypatch.context() as patched:
        patched.setattr(posix, "rename", Failing(posix.rename, 1, errno.EACCES))
        with pytest.raises(SaveError, match="Permission denied"):
            await store.remove(1)
    assert await store.steps() == [1, 2]
    with monkeypatch.context() as patched:
        patched.setattr(posix, "remove_tree", Failing(posix.remove_tree, 1, errno.EIO))
        assert await store.remove(1) is True
        await store._crew.idle()
    assert "cannot remove .trash-step-00000001" in caplog.text
    assert await store.remove(2) is True
    await store._crew.idle()
    assert names(store.location, ".trash-") == [], "the next removal takes the rest along"


@pytest.mark.asyncio
async def test_an_added_file_that_may_not_last_is_unknown(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1)
    monkeypatch.setattr(posix, "fsync", Failing(posix.fsync, 2, errno.EIO))
    with pytest.raises(SaveError) as caught:
        await store.add(1, "report.json", b"r")
    assert caught.value.outcome == "unknown"
    assert await store.read(1, "report.json", limit=9) == b"r"


@pytest.mark.asyncio
async def test_an_error_from_close_counts(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = await store.begin(1)
    monkeypatch.setattr(bulk, "close", Failing(os.close, 1, errno.EDQUOT, after=True))
    with pytest.raises(SaveError, match="quota"):
        await store.write(attempt, "x", aligned(LARGE), progress=nothing, stopped=never)
    await store.discard(attempt)
