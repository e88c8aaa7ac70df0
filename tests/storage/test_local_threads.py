"""A cancelled waiter leaves no thread behind, and a lock lasts as long as the last of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from async_ckpt.errors import DirectoryLockedError, ProtocolError, SaveError
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import LARGE, aligned, load, names, never, put, save, until

if TYPE_CHECKING:
    from tests.storage.conftest import Gate


async def stuck_write(store: LocalStore, gate: Gate) -> tuple[str, asyncio.Task[Any]]:
    attempt = await store.begin(1)
    task = asyncio.create_task(put(store, attempt, "x.safetensors", aligned(LARGE)))
    await until(gate.reached.is_set)
    return attempt, task


@pytest.mark.asyncio
async def test_a_cancelled_write_ends_with_its_thread(store: LocalStore, gate: Gate) -> None:
    attempt, task = await stuck_write(store, gate)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.finished.is_set()
    with pytest.raises(ProtocolError):
        await put(store, attempt, "manifest.json", b"{}")


@pytest.mark.asyncio
async def test_the_loop_runs_while_the_disk_is_stuck(store: LocalStore, gate: Gate) -> None:
    _, task = await stuck_write(store, gate)
    assert await store.steps() == []
    assert await store.pinned() == set()
    gate.opened.set()
    await task


@pytest.mark.asyncio
async def test_discard_waits_for_the_thread_before_it_deletes(store: LocalStore, gate: Gate) -> None:
    attempt, task = await stuck_write(store, gate)
    discard = asyncio.create_task(store.discard(attempt))
    await asyncio.sleep(0)
    discard.cancel()
    await asyncio.sleep(0)
    assert len(names(store.location, ".tmp-")) == 1
    assert not discard.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await discard
    assert names(store.location, ".tmp-") == []
    await task


@pytest.mark.asyncio
async def test_the_lock_stays_until_the_last_thread_has_ended(store: LocalStore, gate: Gate) -> None:
    _, task = await stuck_write(store, gate)
    other = LocalStore(store.location)
    closing = asyncio.create_task(store.aclose())
    await until(lambda: not store.is_open)
    assert not closing.done()
    with pytest.raises(DirectoryLockedError):
        await other.open()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(DirectoryLockedError):
        await other.open()
    gate.opened.set()
    await task
    await store.aclose()
    await other.open()
    assert await other.steps() == []
    assert names(store.location, ".tmp-") == []
    await other.aclose()


def test_a_loop_that_ends_during_a_write_leaves_neither_a_lock_nor_a_torn_step(
    tmp_path: Path, gate: Gate
) -> None:
    kept: list[asyncio.Task[Any]] = []

    async def first() -> None:
        store = LocalStore(tmp_path)
        await store.open()
        _, task = await stuck_write(store, gate)
        kept.extend((task, asyncio.create_task(store.aclose())))
        await until(lambda: not store.is_open)
        asyncio.get_running_loop().call_later(0.01, gate.opened.set)

    async def second() -> None:
        store = LocalStore(tmp_path)
        await store.open()
        assert await store.steps() == []
        await save(store, 1, b"x")
        await store.aclose()

    asyncio.run(first())
    assert [task.cancelled() for task in kept] == [True, True]
    assert gate.finished.is_set()
    asyncio.run(second())


@pytest.mark.asyncio
@pytest.mark.parametrize("at", range(12))
async def test_a_save_cancelled_at_any_moment_is_whole_or_absent(at: int, store: LocalStore) -> None:
    await save(store, 1, b"old")
    task = asyncio.create_task(save(store, 2, b"new"))
    for _ in range(at):
        await asyncio.sleep(0.0002)
    if not task.cancel():
        await task
    else:
        with pytest.raises(asyncio.CancelledError):
            await task
    steps = await store.steps()
    assert steps in ([1], [1, 2])
    if steps == [1, 2]:
        assert await load(store, 2) == b"new"
    assert names(store.location, ".tmp-") == []
    await save(store, 2, b"newer")


@pytest.mark.asyncio
async def test_opening_that_is_cancelled_holds_no_lock(tmp_path: Path) -> None:
    store, other = LocalStore(tmp_path), LocalStore(tmp_path)
    task = asyncio.create_task(store.open())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other.open()
    await other.aclose()
    await store.open()
    await store.aclose()


@pytest.mark.asyncio
async def test_a_lease_that_is_cancelled_while_it_is_taken_is_void(store: LocalStore) -> None:
    await save(store, 1)

    async def hold() -> None:
        async with store.lease(1):
            await asyncio.sleep(3600)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.pinned() == set()
    assert await store.remove(1) is True


@pytest.mark.asyncio
async def test_a_callback_s_error_is_the_caller_s(store: LocalStore) -> None:
    def broken(_: int) -> None:
        raise ZeroDivisionError

    for size in (10, LARGE):
        attempt = await store.begin(1)
        with pytest.raises(ZeroDivisionError):
            await store.write(attempt, "x", aligned(size), progress=broken, stopped=never)
        await store.discard(attempt)


@pytest.mark.asyncio
async def test_a_large_write_stops_between_chunks(store: LocalStore) -> None:
    attempt = await store.begin(1)
    seen: list[int] = []
    data = aligned(80 << 20)
    with pytest.raises(SaveError) as caught:
        await store.write(attempt, "x", data, progress=seen.append, stopped=lambda: len(seen) == 1)
    assert caught.value.outcome == "cancelled"
    assert seen == [32 << 20]
    await store.discard(attempt)
    assert names(store.location, ".tmp-") == []


@pytest.mark.asyncio
async def test_files_are_written_side_by_side(store: LocalStore) -> None:
    attempt = await store.begin(1)
    files = [f"f{i}" for i in range(9)]
    await asyncio.gather(*(put(store, attempt, name, aligned(LARGE)) for name in files))
    await put(store, attempt, "manifest.json", b"{}")
    await store.commit(attempt, 1)
    assert names(f"{store.location}/step-00000001") == [*files, "manifest.json"]


def test_many_stores_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    async def one(number: int) -> None:
        store = LocalStore(tmp_path / str(number))
        await store.open()
        for step in range(3):
            await save(store, step, b"%d" % number)
        assert [await load(store, step) for step in await store.steps()] == [b"%d" % number] * 3
        await store.aclose()

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(16)))

    asyncio.run(main())
