"""The memory store fails where it is told to, in the clothes a disk would wear."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable

import pytest

from async_ckpt.errors import (
    DamagedCheckpointError,
    DirectoryLockedError,
    ProtocolError,
    RestoreError,
    SaveError,
)
from async_ckpt.storage.memory import MemoryPlace, MemoryStore
from tests.storage.disk_saving import load, never, nothing, put, save, until


class Faults:
    """Fails one operation and remembers all of them."""

    def __init__(self, op: str, error: BaseException) -> None:
        self.op, self.error = op, error
        self.seen: list[tuple[str, int | None, str | None]] = []

    def __call__(self, op: str, step: int | None, name: str | None) -> BaseException | None:
        self.seen.append((op, step, name))
        return self.error if op == self.op else None


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.asyncio
@pytest.mark.parametrize("op", ["begin", "write", "commit", "committed"])
@pytest.mark.parametrize("hops", [False, True])
async def test_a_fault_while_saving_is_a_save_error(*, op: str, hops: bool) -> None:
    store = MemoryStore(hops=hops)
    await store.open()
    await save(store, 1, b"old")
    store.faults = Faults(op, full())
    with pytest.raises(SaveError, match="No space left on device") as caught:
        await save(store, 2)
    assert caught.value.outcome == ("unknown" if op == "committed" else "failed")
    assert caught.value.step == 2
    assert isinstance(caught.value.__cause__, OSError)
    store.faults = None
    assert await store.steps() == ([1, 2] if op == "committed" else [1])
    assert not store.place.attempts
    await save(store, 2, b"again")
    assert await load(store, 2) == b"again"
    await store.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("op", ["add", "added", "remove", "abandon", "pin", "unpin", "open"])
async def test_a_fault_in_a_change_is_a_save_error(op: str) -> None:
    store = MemoryStore()
    await store.open()
    await save(store, 1)
    store.faults = Faults(op, full())
    doing = {
        "add": lambda: store.add(1, "report.json", b""),
        "added": lambda: store.add(1, "report.json", b""),
        "remove": lambda: store.remove(1),
        "abandon": lambda: store.abandon(0),
        "pin": lambda: store.pin(1),
        "unpin": lambda: store.unpin(1),
        "open": store.open,
    }
    with pytest.raises(SaveError) as caught:
        await doing[op]()
    assert caught.value.outcome == ("unknown" if op == "added" else "failed")
    await store.aclose()


async def enter(store: MemoryStore) -> None:
    async with store.lease(1):
        pass


READS: dict[str, Callable[[MemoryStore], Awaitable[object]]] = {
    "steps": lambda store: store.steps(),
    "size": lambda store: store.size(1, "manifest.json"),
    "read": lambda store: store.read(1, "manifest.json", limit=9),
    "read_into": lambda store: store.read_into(1, "manifest.json", 0, memoryview(bytearray(1))),
    "pinned": lambda store: store.pinned(),
    "lease": enter,
}


@pytest.mark.asyncio
@pytest.mark.parametrize("op", READS)
async def test_a_fault_while_reading_is_damage_only_if_it_is_about_the_bytes(op: str) -> None:
    store = MemoryStore()
    await store.open()
    await save(store, 1)
    await READS[op](store)
    for code, kind in ((errno.EIO, DamagedCheckpointError), (errno.EACCES, RestoreError)):
        store.faults = Faults(op, OSError(code, os.strerror(code)))
        with pytest.raises(RestoreError) as caught:
            await READS[op](store)
        assert type(caught.value) is kind
    await store.aclose()


@pytest.mark.asyncio
async def test_discard_raises_no_oserror_and_other_faults_are_raised_as_they_are() -> None:
    store = MemoryStore(faults=Faults("discard", full()))
    await store.open()
    await store.discard(await store.begin(1))
    store.faults = Faults("begin", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await store.begin(1)
    await store.aclose()


@pytest.mark.asyncio
async def test_faults_are_asked_once_per_operation_and_piece() -> None:
    faults = Faults("none", full())
    store = MemoryStore(faults=faults, chunk=2)
    await store.open()
    await save(store, 1, b"12345")
    assert faults.seen == [
        ("open", None, None),
        ("begin", 1, None),
        *[("write", 1, "x.safetensors")] * 3,
        ("write", 1, "manifest.json"),
        ("commit", 1, None),
        ("committed", 1, None),
    ]
    await store.aclose()


@pytest.mark.asyncio
async def test_stores_share_a_place_and_its_lock() -> None:
    place = MemoryPlace()
    first, second = MemoryStore(place), MemoryStore(place)
    await first.open()
    with pytest.raises(DirectoryLockedError):
        await second.open()
    await save(first, 1)
    assert await second.steps() == [1]
    await first.aclose()
    await second.open()
    await second.aclose()
    assert MemoryStore().location != MemoryStore().location


@pytest.mark.asyncio
async def test_a_write_is_stopped_and_discarded_between_pieces() -> None:
    store = MemoryStore(chunk=1)
    await store.open()
    attempt = await store.begin(1)
    seen: list[int] = []
    with pytest.raises(SaveError) as caught:
        await store.write(
            attempt, "x", memoryview(b"123"), progress=seen.append, stopped=lambda: len(seen) == 2
        )
    assert caught.value.outcome == "cancelled"
    await store.discard(attempt)

    held, attempt = threading.Event(), await store.begin(1)
    store.faults = lambda op, _step, _name: None if op != "write" else (held.wait(30), None)[1]
    task = asyncio.create_task(put(store, attempt, "x", b"123"))
    await until(lambda: store.place.attempts[attempt].writing == 1)
    discard = asyncio.create_task(store.discard(attempt))
    await asyncio.sleep(0)
    assert not discard.done()
    held.set()
    await discard
    with pytest.raises(ProtocolError):
        await task
    await store.aclose()


@pytest.mark.asyncio
async def test_without_hops_nothing_yields_to_the_loop() -> None:
    store = MemoryStore(hops=False)
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await store.open()
    await save(store, 1, b"data")
    async with store.lease(1):
        assert await load(store, 1) == b"data"
    await store.write(await store.begin(2), "x", memoryview(b""), progress=nothing, stopped=never)
    await store.aclose()
    assert turns == []
