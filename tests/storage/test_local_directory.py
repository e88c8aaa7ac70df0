"""One writer, readers who need no lock, names that mean what they say, links that lead nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from async_ckpt.errors import (
    DamagedCheckpointError,
    DirectoryLockedError,
    NoCheckpointError,
    ProtocolError,
    SaveError,
)
from async_ckpt.storage import posix
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import LARGE, aligned, load, names, save

ROOT = str(Path(__file__).parents[2])

CHILD = """
import asyncio, sys
sys.path[:0] = [{root!r}]
from async_ckpt.errors import DirectoryLockedError
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import save

async def main():
    store = LocalStore({place!r})
    {body}

def ready():
    print("ready", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@asynccontextmanager
async def child(place: Path, body: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that does ``body`` up to ``ready()`` and then waits; killed at the end."""
    script = CHILD.format(root=ROOT, place=str(place), body=body)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


def record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write down every wait for the disk and every rename, in order."""
    log: list[str] = []
    fsync, rename, exchange = posix.fsync, posix.rename, posix.exchange

    def fsynced(fd: int) -> None:
        fsync(fd)
        log.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")

    def renamed(source: str, target: str, directory: int) -> None:
        rename(source, target, directory)
        log.append(f"rename {target}")

    def exchanged(one: str, other: str, directory: int) -> bool:
        done = exchange(one, other, directory)
        log.append(f"exchange {other}")
        return done

    monkeypatch.setattr(posix, "fsync", fsynced)
    monkeypatch.setattr(posix, "rename", renamed)
    monkeypatch.setattr(posix, "exchange", exchanged)
    return log


@pytest.mark.asyncio
async def test_the_order_is_files_directory_rename_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = record(monkeypatch)
    store = LocalStore(tmp_path / "new" / "runs")
    await store.open()
    assert log == [f"fsync {name}" for name in (tmp_path.parent.name, tmp_path.name, "new", "runs")]
    for again in (False, True):
        log.clear()
        await save(store, 3, aligned(LARGE))
        temp = log[2].removeprefix("fsync ")
        assert temp.startswith(".tmp-step-00000003-")
        assert log[:5] == [
            "fsync x.safetensors",
            "fsync manifest.json",
            f"fsync {temp}",
            "exchange step-00000003" if again else "rename step-00000003",
            "fsync runs",
        ]
        assert [line.rpartition("-")[0] for line in log[5:]] == (
            ["rename .trash-step-00000003"] if again else []
        )
    log.clear()
    await store.add(3, "report.json", b"r")
    assert log[0].startswith("fsync .tmp-report.json-")
    assert log[1:] == ["rename report.json", "fsync step-00000003"]
    log.clear()
    await store.remove(3)
    assert log[0].startswith("rename .trash-step-00000003-")
    assert log[1:] == ["fsync runs"]
    await store.aclose()


@pytest.mark.asyncio
async def test_every_byte_was_handed_over_before_its_fsync(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, sizes = posix.fsync, dict[str, int]()

    def fsynced(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        sizes[path.name] = os.fstat(fd).st_size
        fsync(fd)

    monkeypatch.setattr(posix, "fsync", fsynced)
    await save(store, 1, aligned(LARGE))
    assert sizes["x.safetensors"] == LARGE
    assert sizes["manifest.json"] == 2


@pytest.mark.asyncio
async def test_a_second_writer_in_this_process_is_told_at_once(store: LocalStore) -> None:
    other = LocalStore(store.location)
    with pytest.raises(DirectoryLockedError) as caught:
        await other.open()
    assert caught.value.path == store.location
    assert caught.value.owner is not None
    assert str(os.getpid()) in caught.value.owner
    assert store.location in str(caught.value)
    assert caught.value.owner in str(caught.value)
    await other.aclose()
    await save(store, 1)


@pytest.mark.asyncio
async def test_a_writer_in_another_process_excludes_us_until_it_dies(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    async with child(
        tmp_path, "await store.open(); await save(store, 1); await store.begin(2); ready()"
    ) as other:
        with pytest.raises(DirectoryLockedError, match=f"process {other.pid} on "):
            await store.open()
        assert await store.steps() == [1]
        assert len(names(tmp_path, ".tmp-step-00000002-")) == 1
    await store.open()
    assert names(tmp_path, ".tmp-") == [], "what the dead writer left is swept"
    await save(store, 2)
    await store.aclose()


@pytest.mark.asyncio
async def test_the_owner_s_words_are_only_words(tmp_path: Path) -> None:
    async with child(tmp_path, "await store.open(); ready()"):
        for text in (b"", b"\xff", b"[]", b'{"pid":1}', b"[" * 5000, b'{"pid":1,"pid":2,"host":3,"since":4}'):
            (tmp_path / ".lock").write_bytes(text)
            store = LocalStore(tmp_path)
            with pytest.raises(DirectoryLockedError) as caught:
                await store.open()
            assert caught.value.owner is None
            await store.aclose()


@pytest.mark.asyncio
async def test_a_lock_file_that_was_removed_is_made_anew(store: LocalStore) -> None:
    assert json.loads((Path(store.location) / ".lock").read_bytes())["pid"] == os.getpid()
    await store.aclose()
    (Path(store.location) / ".lock").unlink()
    await store.open()
    other = LocalStore(store.location)
    with pytest.raises(DirectoryLockedError):
        await other.open()
    await other.aclose()


FORK = """
import asyncio, os, sys
sys.path[:0] = [{root!r}]
from async_ckpt.errors import DirectoryLockedError, ProtocolError
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import save

async def child(store):
    for call in (store.open, store.steps, lambda: store.begin(5)):
        try:
            await call()
        except ProtocolError:
            continue
        raise SystemExit("a forked child used its parent's store")
    await store.aclose()
    other = LocalStore(store.location)
    try:
        await other.open()
    except DirectoryLockedError:
        return await other.aclose()
    raise SystemExit("a forked child took the lock")

async def main(store):
    await store.open()
    async with store.lease(1):
        reader, writer = os.pipe()
        checked, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            # In a thread of its own, since this one still belongs to the parent's loop.
            import threading
            failed = []
            def run():
                try:
                    asyncio.new_event_loop().run_until_complete(child(store))
                except BaseException as error:
                    failed.append(error)
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            print(failed, flush=True)
            os.close(done)
            os.read(reader, 1)
            os._exit(len(failed))
        os.close(reader)
        os.close(done)
        assert os.read(checked, 1) == b"", "it says so by ending its side"
        await save(store, 2)
    await store.aclose()
    assert await store.pinned() == set(), "a child keeps no lease alive"
    again = LocalStore(store.location)
    await again.open()
    await again.aclose()
    await store.aclose()
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

async def prepare(store):
    await store.open()
    await save(store, 1)
    await store.aclose()

store = LocalStore({place!r})
asyncio.run(prepare(store))
asyncio.run(main(store))
"""


def test_a_forked_child_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    script = FORK.format(root=ROOT, place=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.asyncio
async def test_the_lease_of_a_dead_reader_is_void_and_swept(store: LocalStore) -> None:
    await save(store, 1)
    hold = "lease = store.lease(1); await lease.__aenter__(); ready()"
    async with child(Path(store.location), hold):
        assert await store.pinned() == {1}
        assert await store.remove(1) is False
        assert len(names(Path(store.location) / ".pins")) == 1
    assert await store.pinned() == set()
    assert names(Path(store.location) / ".pins") == []
    assert await store.remove(1) is True


@pytest.mark.asyncio
async def test_what_somebody_reads_is_not_swept_by_the_next_writer(store: LocalStore) -> None:
    await save(store, 1, b"old")
    reader = LocalStore(store.location)
    async with reader.lease(1):
        await save(store, 1, b"new")
        await store.aclose()
        await store.open()
        assert await load(reader, 1) == b"old"
        assert await load(store, 1) == b"new"
    assert len(names(store.location, ".trash-")) == 1
    await save(store, 1, b"newest")
    await store._crew.idle()
    assert names(store.location, ".trash-") == []
    await reader.aclose()


@pytest.mark.asyncio
async def test_a_reader_that_comes_between_look_and_removal_keeps_its_checkpoint(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, b"x")
    rename, pin = posix.rename, Path(store.location) / ".pins" / "pin-step-00000001"

    def late(source: str, target: str, directory: int) -> None:
        if target.startswith(".trash-"):
            pin.parent.mkdir(exist_ok=True)
            pin.touch()
        rename(source, target, directory)

    monkeypatch.setattr(posix, "rename", late)
    assert await store.remove(1) is False
    assert await load(store, 1) == b"x"


FOREIGN = [
    "step-1",
    "step-000000010",
    "step-\uff10\uff10\uff10\uff10\uff10\uff10\uff10\uff13",
    "step-0000000_1",
    "step-00000001 ",
    "step-00000001\n",
    "step-00000001.bak",
    "step--0000001",
    "step-+0000001",
    "STEP-00000001",
    "step-00000000000000000001",
    "checkpoint-100",
    ".tmp-mine",
    ".trash-mine",
    ".tmp-step-1-x",
]


@pytest.mark.asyncio
async def test_what_is_not_ours_is_neither_listed_nor_removed(tmp_path: Path) -> None:
    for name in FOREIGN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    (tmp_path / "step-00000009").write_text("a file")
    store = LocalStore(tmp_path)
    await store.open()
    await save(store, 4)
    assert await store.steps() == [4]
    with pytest.raises(SaveError, match="something that is not a checkpoint"):
        await save(store, 9)
    with pytest.raises(NoCheckpointError):
        await store.read(9, "manifest.json", limit=9)
    assert await store.abandon(0) == [4]
    await store.aclose()
    assert set(FOREIGN) < set(names(tmp_path))
    assert (tmp_path / "step-00000009").read_text() == "a file"


@pytest.mark.asyncio
async def test_links_are_neither_followed_nor_listed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "runs"
    outside.mkdir()
    (outside / "manifest.json").write_text("secret")
    root.mkdir()
    (root / "step-00000001").symlink_to(outside)
    (root / ".tmp-step-00000002-00ff").symlink_to(outside)
    (root / ".trash-step-00000002-00ff").mkdir()
    (root / ".trash-step-00000002-00ff" / "link").symlink_to(outside)
    (root / ".trash-step-00000002-00ff" / "below").mkdir()
    (root / ".trash-step-00000002-00ff" / "below" / "link").symlink_to(outside / "manifest.json")
    store = LocalStore(root)
    await store.open()
    assert names(root, ".trash-") == []
    assert await store.steps() == []
    with pytest.raises(NoCheckpointError):
        await store.read(1, "manifest.json", limit=99)
    with pytest.raises(SaveError, match="something that is not a checkpoint"):
        await store.remove(1)
    await save(store, 3)
    inside = root / "step-00000003" / "report.json"
    inside.symlink_to(outside / "manifest.json")
    with pytest.raises(DamagedCheckpointError):
        await store.read(3, "report.json", limit=99)
    await store.add(3, "report.json", b"ours")
    assert await store.remove(3) is True
    assert (outside / "manifest.json").read_text() == "secret"
    await store.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", [".lock", ".pins"])
async def test_a_link_in_place_of_our_own_files_is_refused(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious") if name == ".lock" else outside.mkdir()
    root = tmp_path / "runs"
    root.mkdir()
    store = LocalStore(root)
    if name == ".pins":
        await store.open()
        await save(store, 1)
    (root / name).symlink_to(outside)
    with pytest.raises(SaveError):
        await (store.open() if name == ".lock" else store.pin(1))
    await store.aclose()
    assert outside.read_text() == "precious" if name == ".lock" else names(outside) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
async def test_what_is_not_a_plain_file_is_damage_and_nobody_waits_for_it(
    make: Callable[[str], None], store: LocalStore
) -> None:
    await save(store, 1)
    make(f"{store.location}/step-00000001/report.json")
    with pytest.raises(DamagedCheckpointError, match=r"report\.json"):
        await store.read(1, "report.json", limit=99)


@pytest.mark.asyncio
async def test_a_file_that_shrinks_while_it_is_leased_is_damaged(store: LocalStore) -> None:
    await save(store, 1, bytes(5000))
    async with store.lease(1):
        assert len(await load(store, 1)) == 5000
        os.truncate(f"{store.location}/step-00000001/x.safetensors", 4000)
        with pytest.raises(DamagedCheckpointError, match="it has 4000 bytes"):
            await store.read_into(1, "x.safetensors", 0, memoryview(bytearray(5000)))


@pytest.mark.asyncio
async def test_modes_are_up_to_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store = LocalStore(tmp_path / "runs")
        await store.open()
        await save(store, 1, aligned(LARGE))
        await store.aclose()
    finally:
        os.umask(before)
    step = tmp_path / "runs" / "step-00000001"
    assert stat.S_IMODE(step.stat().st_mode) == 0o750
    assert {stat.S_IMODE((step / name).stat().st_mode) for name in names(step)} == {0o640}


@pytest.mark.asyncio
async def test_the_directory_may_be_reached_through_links_and_the_current_directory_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    store = LocalStore("link/runs")
    monkeypatch.chdir("/")
    await store.open()
    await save(store, 1)
    assert names(tmp_path / "real" / "runs", "step-") == ["step-00000001"]
    await store.aclose()


@pytest.mark.asyncio
async def test_a_directory_that_was_deleted_under_a_writer_is_an_error(store: LocalStore) -> None:
    shutil.rmtree(store.location)
    with pytest.raises(SaveError, match="was moved, deleted or replaced") as caught:
        await save(store, 1)
    assert caught.value.path is not None
    assert caught.value.path.startswith(store.location)


@pytest.mark.asyncio
async def test_a_store_that_is_not_open_does_not_write(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "runs")
    with pytest.raises(ProtocolError, match="only an open store"):
        await store.begin(1)
    assert await store.steps() == []
    assert not (tmp_path / "runs").exists()
    await store.aclose()


@pytest.mark.asyncio
async def test_abandoned_checkpoints_are_kept(store: LocalStore) -> None:
    for step in (1, 2, 3):
        await save(store, step)
    assert await store.abandon(1) == [2, 3]
    kept = names(store.location, ".abandoned-")
    assert [name[:25] for name in kept] == [".abandoned-step-00000002-", ".abandoned-step-00000003-"]
    assert names(Path(store.location) / kept[0]) == ["manifest.json", "x.safetensors"]
    await store.aclose()
    await store.open()
    assert names(store.location, ".abandoned-") == kept


@pytest.mark.asyncio
async def test_a_mounted_file_system_inside_the_rubbish_is_left_alone(tmpfs: Path, tmp_path: Path) -> None:
    precious = tmpfs / "precious"
    precious.touch()
    trash = tmp_path / ".trash-step-00000001-00ff"
    (trash / "mounted").mkdir(parents=True)
    bind = [["mount", "--bind", str(tmpfs), str(trash / "mounted")], ["umount", str(trash / "mounted")]]
    assert await (await asyncio.create_subprocess_exec(*bind[0])).wait() == 0
    store = LocalStore(tmp_path)
    try:
        await store.open()
        await store.aclose()
    finally:
        await (await asyncio.create_subprocess_exec(*bind[1])).wait()
    assert precious.exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("there", ["nothing", "another directory", "a file"])
async def test_a_directory_that_was_moved_away_is_not_saved_into_under_its_old_name(
    store: LocalStore, tmp_path: Path, there: str
) -> None:
    await save(store, 1)
    old, new = tmp_path / "runs", tmp_path / "moved"
    old.rename(new)
    if there == "another directory":
        old.mkdir()
    elif there == "a file":
        old.touch()
    with pytest.raises(SaveError, match="was moved, deleted or replaced") as caught:
        await save(store, 2)
    assert caught.value.outcome == "failed"
    assert caught.value.path == str(old)
    assert not [name for name in names(new) if "00000002" in name]
    assert not old.is_dir() or not list(old.iterdir())
    if old.is_dir():
        old.rmdir()
    old.unlink(missing_ok=True)
    new.rename(old)
    await save(store, 2)
    assert await store.steps() == [1, 2]
