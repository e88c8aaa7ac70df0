"""Many ranges of a checkpoint's files: past the page cache or through it, in order, by several threads."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from async_ckpt.errors import DamagedCheckpointError, RestoreError
from async_ckpt.storage import gathering, pins, posix, uncached
from async_ckpt.storage.gathering import READERS
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.ranges import WHOLE
from async_ckpt.system.pages import resident

from .disk_saving import save

pytestmark = pytest.mark.asyncio

SIZE = 12 * WHOLE + 77
NAME = "x.safetensors"


class Piece:
    """A range that keeps what it sees."""

    def __init__(self, offset: int, size: int, *, target: bool, name: str = NAME) -> None:
        self.name = name
        self.offset = offset
        self.size = size
        self.seen = bytearray()
        self.parts: list[int] = []
        self.threads: set[int] = set()
        self.memory = np.zeros(size, np.uint8) if target else None

    def target(self) -> memoryview | None:
        self.threads.add(threading.get_ident())
        return None if self.memory is None else self.memory.data

    def take(self, at: int, data: memoryview) -> None:
        assert at == len(self.seen)
        self.threads.add(threading.get_ident())
        self.parts.append(len(data))
        self.seen += data


@pytest.fixture(scope="module")
def content() -> bytes:
    return np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()


def file_of(store: LocalStore) -> Path:
    return Path(store.location) / "step-00000001" / NAME


def forget(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cached(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return resident(fd, 0, SIZE, 50)
    finally:
        os.close(fd)


@pytest_asyncio.fixture(params=["cold", "warm"])
async def filled(request: pytest.FixtureRequest, store: LocalStore, content: bytes) -> LocalStore:
    await save(store, 1, content)
    if request.param == "cold":
        forget(file_of(store))
    else:
        file_of(store).read_bytes()
    return store


def pieces(*, target: bool) -> list[Piece]:
    """Every byte once, and odd places besides."""
    cuts = [0, 1, 4_095, 200_000, 4 * WHOLE, 4 * WHOLE + 1, 9 * WHOLE - 513, SIZE]
    ranges = [Piece(start, end - start, target=target) for start, end in pairwise(cuts)]
    return [*ranges, Piece(4_096, 8 * WHOLE, target=target), Piece(77, 0, target=target)]


@pytest.mark.parametrize("target", [True, False])
async def test_ranges_show_the_bytes_of_the_file(filled: LocalStore, content: bytes, *, target: bool) -> None:
    ranges = pieces(target=target)
    async with filled.lease(1):
        await filled.read_ranges(1, ranges)
    for piece in ranges:
        assert piece.seen == content[piece.offset : piece.offset + piece.size]
        if piece.memory is not None:
            assert piece.memory.tobytes() == piece.seen
        elif 0 < piece.size <= WHOLE:
            assert piece.parts == [piece.size]
        assert len(piece.threads) == 1


async def test_at_the_end_of_a_file_whose_length_is_odd(filled: LocalStore, content: bytes) -> None:
    for size in (1, 78, 200_000, 5 * WHOLE):
        piece = Piece(SIZE - size, size, target=True)
        async with filled.lease(1):
            await filled.read_ranges(1, [piece])
        assert piece.seen == content[-size:]


async def test_what_is_cold_stays_cold_and_what_is_cached_comes_from_there(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, content)
    past: list[int] = []
    real = posix.open_file

    def watched(name: str, directory: int, flags: int = os.O_RDONLY) -> int:
        if flags & uncached.O_DIRECT:
            past.append(flags)
        return real(name, directory, flags)

    monkeypatch.setattr(posix, "open_file", watched)
    forget(file_of(store))
    async with store.lease(1):
        await store.read_ranges(1, [Piece(0, SIZE, target=True)])
    assert past
    assert not cached(file_of(store))
    past.clear()
    file_of(store).read_bytes()
    async with store.lease(1):
        await store.read_ranges(1, [Piece(0, SIZE, target=True)])
    assert past == []


@pytest.mark.parametrize("why", ["another reader", "no lease"])
async def test_files_that_others_read_too_are_read_through_the_page_cache(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Eight processes of one job that restore the same checkpoint read it from the device once."""
    await save(store, 1, content)
    forget(file_of(store))
    other = LocalStore(store.location)
    piece = Piece(0, SIZE, target=True)
    if why == "no lease":
        monkeypatch.setattr(pins, "take_lease", lambda *_: None)
        async with store.lease(1):
            await store.read_ranges(1, [piece])
    else:
        async with store.lease(1), other.lease(1):
            await store.read_ranges(1, [piece])
    assert piece.seen == content
    assert cached(file_of(store))
    await other.aclose()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EMFILE])
@pytest.mark.parametrize("when", ["open", "read"])
async def test_where_reading_past_the_cache_is_refused_it_goes_through_it(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch, code: int, when: str
) -> None:
    await save(store, 1, content)
    forget(file_of(store))
    opened, read = posix.open_file, posix.preadv
    direct: set[int] = set()
    refused: list[int] = []

    def refuse() -> None:
        refused.append(code)
        raise OSError(code, os.strerror(code))

    def open_file(name: str, directory: int, flags: int = os.O_RDONLY) -> int:
        if flags & uncached.O_DIRECT and when == "open":
            refuse()
        fd = opened(name, directory, flags)
        (direct.add if flags & uncached.O_DIRECT else direct.discard)(fd)
        return fd

    def preadv(fd: int, target: memoryview, offset: int) -> int:
        if fd in direct:
            refuse()
        return read(fd, target, offset)

    monkeypatch.setattr(posix, "open_file", open_file)
    monkeypatch.setattr(posix, "preadv", preadv)
    ranges = pieces(target=True)
    async with store.lease(1):
        await store.read_ranges(1, ranges)
    assert all(piece.seen == content[piece.offset : piece.offset + piece.size] for piece in ranges)
    assert 0 < len(refused) <= READERS, "each thread asks once at most"


async def test_another_error_of_the_device_is_no_refusal(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, content)
    forget(file_of(store))
    real = posix.open_file

    def open_file(name: str, directory: int, flags: int = os.O_RDONLY) -> int:
        if flags & uncached.O_DIRECT:
            raise OSError(errno.EACCES, "Permission denied")
        return real(name, directory, flags)

    monkeypatch.setattr(posix, "open_file", open_file)
    async with store.lease(1):
        with pytest.raises(RestoreError, match="Permission denied") as caught:
            await store.read_ranges(1, [Piece(0, SIZE, target=True)])
    assert type(caught.value) is RestoreError
    assert caught.value.path == str(file_of(store))


async def test_short_reads_are_continued(
    filled: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = posix.preadv

    def short(fd: int, target: memoryview, offset: int) -> int:
        return real(fd, target[: max(4096, len(target) // 8192 * 4096)], offset)

    monkeypatch.setattr(posix, "preadv", short)
    ranges = [*pieces(target=True), *pieces(target=False)]
    async with filled.lease(1):
        await filled.read_ranges(1, ranges)
    assert all(piece.seen == content[piece.offset : piece.offset + piece.size] for piece in ranges)


@pytest.mark.parametrize("target", [True, False])
async def test_a_file_that_ends_in_the_middle_of_a_range_is_damage(
    filled: LocalStore, monkeypatch: pytest.MonkeyPatch, *, target: bool
) -> None:
    real = posix.preadv
    piece = Piece(0, SIZE, target=target)

    def cutting(fd: int, memory: memoryview, offset: int) -> int:
        if offset:
            os.truncate(file_of(filled), 5 * WHOLE)
        return real(fd, memory, offset)

    monkeypatch.setattr(posix, "preadv", cutting)
    async with filled.lease(1):
        with pytest.raises(DamagedCheckpointError, match=f"{NAME}: it ends") as caught:
            await filled.read_ranges(1, [piece])
    assert caught.value.path == str(file_of(filled))
    assert len(piece.seen) == 4 * WHOLE


async def test_a_replaced_step_is_read_as_it_was_leased(store: LocalStore, content: bytes) -> None:
    await save(store, 1, content)
    async with store.lease(1):
        await save(store, 1, bytes(SIZE))
        piece = Piece(0, SIZE, target=True)
        await store.read_ranges(1, [piece])
    assert piece.seen == content


async def test_names_are_those_of_files_in_the_checkpoint(store: LocalStore) -> None:
    await save(store, 1, b"x")
    for name in ("../step-00000001/x.safetensors", "", "/etc/hostname"):
        with pytest.raises(ValueError, match="file name"):
            await store.read_ranges(1, [Piece(0, 1, target=True, name=name)])
    (file_of(store).parent / "link").symlink_to("/etc/hostname")
    with pytest.raises(DamagedCheckpointError, match="link"):
        await store.read_ranges(1, [Piece(0, 1, target=True, name="link")])
    with pytest.raises(DamagedCheckpointError, match="No such file"):
        await store.read_ranges(1, [Piece(0, 1, target=True, name="absent")])
    with pytest.raises(ValueError, match="step"):
        await store.read_ranges(-1, [Piece(0, 1, target=True)])


async def test_closing_the_store_waits_for_readers(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, content)
    reached, go = threading.Event(), threading.Event()
    real = posix.preadv

    def held(fd: int, target: memoryview, offset: int) -> int:
        reached.set()
        assert go.wait(30)
        return real(fd, target, offset)

    monkeypatch.setattr(posix, "preadv", held)
    piece = Piece(0, SIZE, target=True)
    reading = asyncio.create_task(store.read_ranges(1, [piece]))
    async with asyncio.timeout(30):
        while not reached.is_set():
            await asyncio.sleep(0)
    closing = asyncio.create_task(store.aclose())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    await reading
    assert piece.seen == content


async def test_no_descriptor_is_left_open(filled: LocalStore) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    async with filled.lease(1):
        await filled.read_ranges(1, pieces(target=True))
        with pytest.raises(DamagedCheckpointError):
            await filled.read_ranges(1, [*pieces(target=True), Piece(SIZE, 1, target=True)])
        seen = await filled.map(1, NAME)
    assert count() == before
    assert len(seen) == SIZE


async def test_a_map_reads_what_is_looked_at(store: LocalStore, content: bytes) -> None:
    await save(store, 1, content)
    forget(file_of(store))
    seen = await store.map(1, NAME)
    assert not cached(file_of(store))
    await save(store, 1, bytes(9))
    assert seen.tobytes() == content


async def test_no_more_threads_work_on_what_came_than_there_are_processors(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 1, content)
    forget(file_of(store))
    monkeypatch.setattr(gathering, "processors", lambda: 1)
    real = posix.preadv
    came = threading.Semaphore(0)
    working = most = 0

    def counted(fd: int, target: memoryview, offset: int) -> int:
        count = real(fd, target, offset)
        came.release()
        return count

    class Busy(Piece):
        def take(self, at: int, data: memoryview) -> None:
            nonlocal working, most
            working += 1
            most = max(most, working)
            # Until another thread has something to work on, and for as long as it takes to begin.
            for _ in range(2):
                assert self.offset or came.acquire(timeout=30)
            for _ in range(1000):
                os.sched_yield()
            super().take(at, data)
            working -= 1

    monkeypatch.setattr(posix, "preadv", counted)
    async with store.lease(1):
        await store.read_ranges(1, [Busy(at, WHOLE, target=True) for at in range(0, 8 * WHOLE, WHOLE)])
    assert most == 1


class Slow(Piece):
    """Gives other threads the time to begin."""

    def take(self, at: int, data: memoryview) -> None:
        for _ in range(1000):
            os.sched_yield()
        super().take(at, data)


async def test_what_is_in_memory_is_read_by_as_many_threads_as_there_are_processors(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More would only take turns."""
    await save(store, 1, content)
    file_of(store).read_bytes()
    monkeypatch.setattr(gathering, "processors", lambda: 1)
    ranges = [Slow(at, WHOLE, target=True) for at in range(0, 8 * WHOLE, WHOLE)]
    async with store.lease(1):
        await store.read_ranges(1, ranges)
    assert all(piece.seen == content[piece.offset : piece.offset + piece.size] for piece in ranges)
    assert len(set[int]().union(*(piece.threads for piece in ranges))) == 1


async def test_threads_that_were_not_needed_end_with_those_that_failed(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Slow):
        def take(self, at: int, data: memoryview) -> None:
            super().take(at, data)
            raise LookupError

    await save(store, 1, content)
    file_of(store).read_bytes()
    monkeypatch.setattr(gathering, "processors", lambda: 1)
    ranges = [Failing(at, WHOLE, target=True) for at in range(0, 8 * WHOLE, WHOLE)]
    async with asyncio.timeout(30), store.lease(1):
        with pytest.raises(LookupError):
            await store.read_ranges(1, ranges)
    assert [len(piece.seen) for piece in ranges] == [WHOLE, *7 * [0]]


@pytest.mark.parametrize("target", [True, False])
async def test_a_few_cold_bytes_do_not_go_through_the_page_cache_either(
    store: LocalStore, content: bytes, *, target: bool
) -> None:
    """Whoever waits for the device must not keep a processor from others."""
    await save(store, 1, content)
    forget(file_of(store))
    piece = Piece(5_000, 77, target=target)
    async with store.lease(1):
        await store.read_ranges(1, [piece])
    assert piece.seen == content[5_000:5_077]
    fd = os.open(file_of(store), os.O_RDONLY)
    try:
        assert not resident(fd, 5_000, 77, 2)
    finally:
        os.close(fd)


@pytest.mark.parametrize("distance", [0, 1, 16, 63, 64, 2048, 4095])
async def test_a_warm_range_is_read_by_way_of_elsewhere_only_where_the_processor_copies_slowly(
    store: LocalStore, content: bytes, monkeypatch: pytest.MonkeyPatch, distance: int
) -> None:
    await save(store, 1, content)
    piece = Piece(4096, WHOLE - 77, target=True)
    memory = np.zeros(len(content) + 8192, np.uint8)
    start = (distance - memory.ctypes.data) % 4096
    piece.memory = memory[start : start + piece.size]
    inside = range(piece.memory.ctypes.data, piece.memory.ctypes.data + piece.size)
    straight: list[bool] = []
    real = posix.preadv

    def seen(fd: int, target: memoryview, offset: int) -> int:
        straight.append(np.frombuffer(target, np.uint8).ctypes.data in inside)
        return real(fd, target, offset)

    monkeypatch.setattr(posix, "preadv", seen)
    async with store.lease(1):
        await store.read_ranges(1, [piece])
    assert piece.memory.tobytes() == content[4096 : 4096 + piece.size]
    assert not memory[:start].any()
    assert not memory[start + piece.size :].any()
    assert set(straight) == {not 0 < distance < 64}
