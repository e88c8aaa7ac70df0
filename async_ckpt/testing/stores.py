"""The promises of a store, as code: hand it a way to make one, and it tries them all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from async_ckpt.errors import (
    DamagedCheckpointError,
    DirectoryLockedError,
    NoCheckpointError,
    ProtocolError,
    SaveError,
)
from async_ckpt.storage.ranges import WHOLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from async_ckpt.storage.store import Store

__all__ = ["check_store"]

E = TypeVar("E", bound=BaseException)

_MANIFEST = "manifest.json"
_DATA = "data-00001-of-00001.safetensors"
_LARGE = (2 << 20) + 777


async def check_store(make: Callable[[], Store]) -> None:
    """Try every promise of :class:`~async_ckpt.storage.store.Store`.

    It runs under any asyncio loop, and leaves no checkpoints, pins or locks behind.

    Args:
        make: Returns a fresh store at each call, over the same place or over a new one. Stores over
            one place say so by an equal ``location``; the promises that need two stores at one
            place are only tried then. The place is emptied first.

    Raises:
        AssertionError: A promise is broken; the message is the promise.
    """
    first, second = make(), make()
    shared = first.location == second.location
    for check in (*_ALONE, *(_TOGETHER if shared else ())):
        stores: list[Store] = []
        store = _made(make, stores)
        await store.open()
        try:
            await _empty(store)
            await check(store, lambda stores=stores: _made(make, stores))
        finally:
            for other in reversed(stores):
                await other.aclose()
    last = make()
    await last.open()
    await _empty(last)
    await last.aclose()
    await first.aclose()
    await second.aclose()


def _made(make: Callable[[], Store], stores: list[Store]) -> Store:
    stores.append(make())
    return stores[-1]


async def _empty(store: Store) -> None:
    for step in await store.steps():
        await store.unpin(step)
        await store.remove(step)


def _nothing(_: int) -> None:
    """Progress that nobody follows."""


def _never() -> bool:
    return False


async def _write(store: Store, attempt: str, name: str, data: bytes) -> None:
    await store.write(attempt, name, memoryview(data), progress=_nothing, stopped=_never)


async def _save(store: Store, step: int, data: bytes = b"data", manifest: bytes = b"{}") -> None:
    attempt = await store.begin(step)
    await _write(store, attempt, _DATA, data)
    await _write(store, attempt, _MANIFEST, manifest)
    await store.commit(attempt, step)


def _that(holds: object, promise: str) -> None:
    if not holds:
        raise AssertionError(promise)


async def _raises(kind: type[E], doing: Awaitable[object], promise: str) -> E:
    try:
        await doing
    except kind as error:
        return error
    raise AssertionError(promise)


async def _check_empty_place(store: Store, make: Callable[[], Store]) -> None:
    reader = make()
    _that(await reader.steps() == [], "an empty place holds no checkpoints")
    _that(await reader.pinned() == set(), "an empty place holds no pins")
    _that(await store.abandon(0) == [], "there is nothing to abandon")
    _that(await store.remove(1) is False, "removing what is not there is False")
    await store.unpin(1)
    for doing in (reader.read(1, _MANIFEST, limit=9), reader.size(1, _MANIFEST), reader.pin(1)):
        error = await _raises(NoCheckpointError, doing, "what is not there cannot be read or pinned")
        _that(error.step == 1, "the error names the step")


async def _check_commit(store: Store, make: Callable[[], Store]) -> None:
    del make
    attempt = await store.begin(3)
    large = bytes(range(256)) * (_LARGE // 256) + b"end"
    seen: list[int] = []
    await store.write(attempt, _DATA, memoryview(large), progress=seen.append, stopped=_never)
    _that(seen and seen[-1] == len(large) and seen == sorted(seen), "progress grows to the size")
    _that(await store.steps() == [], "an attempt is not listed")
    await _write(store, attempt, _MANIFEST, b"{}")
    await store.commit(attempt, 3)
    _that(await store.steps() == [3], "a commit is listed")
    _that(await store.size(3, _DATA) == len(large), "the size is that of the data")
    target = bytearray(len(large) - 5)
    await store.read_into(3, _DATA, 5, memoryview(target))
    _that(target == large[5:], "what is read is what was written")
    _that(await store.read(3, _MANIFEST, limit=2) == b"{}", "a small file is read whole")
    await store.discard(attempt)
    _that(await store.steps() == [3], "discarding a committed attempt does nothing")


async def _check_order(store: Store, make: Callable[[], Store]) -> None:
    del make
    for step in (100_000_000, 2, 10, 0):
        await _save(store, step)
    _that(await store.steps() == [0, 2, 10, 100_000_000], "steps are listed in ascending order")
    for step in (-1, 10**19):
        await _raises(ValueError, store.begin(step), "a step has at most 19 digits and no sign")


async def _check_protocol(store: Store, make: Callable[[], Store]) -> None:
    del make
    attempt = await store.begin(1)
    await _raises(ProtocolError, store.commit(attempt, 1), "no commit without a manifest")
    await _write(store, attempt, _MANIFEST, b"{}")
    await _write(store, attempt, _DATA, b"x")
    await _raises(ProtocolError, store.commit(attempt, 1), "no commit unless the manifest came last")
    for name in ("", ".", "..", "a/b", "/etc/x", ".hidden", "a\0b", "\uff11", "a\n", "-x", "x" * 300):
        doing = store.write(attempt, name, memoryview(b""), progress=_nothing, stopped=_never)
        await _raises(ValueError, doing, f"the file name {name!r} is refused")
    await store.discard(attempt)
    await store.discard(attempt)
    await store.discard("unknown")
    await _raises(ProtocolError, store.commit(attempt, 1), "a discarded attempt is over")
    await _raises(ProtocolError, _write(store, attempt, "x", b""), "a discarded attempt is over")
    _that(await store.steps() == [], "what was discarded is not listed")


async def _check_failed_write(store: Store, make: Callable[[], Store]) -> None:
    del make
    attempt = await store.begin(1)
    await _write(store, attempt, "a", b"1")
    error = await _raises(SaveError, _write(store, attempt, "a", b"2"), "a file is written once")
    _that(error.outcome == "failed" and error.step == 1 and error.path, "the error names step and path")
    _that(isinstance(error.__cause__, OSError), "the error keeps its cause")
    await _raises(ProtocolError, _write(store, attempt, _MANIFEST, b""), "a failed write ends the attempt")
    await store.discard(attempt)


class _Pieces:
    """A large file in pieces, the last of them short; breaks after some of them if told to."""

    def __init__(self, data: bytes, *, good: int = 99) -> None:
        self.nbytes = len(data)
        self.going = False
        self._data = memoryview(data)
        self._good = good

    def __iter__(self) -> Iterator[memoryview]:
        self.going = True
        try:
            for number, start in enumerate(range(0, self.nbytes, 1 << 20)):
                if number == self._good:
                    raise LookupError("no such piece")
                yield self._data[start : start + (1 << 20)]
        finally:
            self.going = False


async def _check_pieces(store: Store, make: Callable[[], Store]) -> None:
    del make
    attempt = await store.begin(3)
    large = bytes(range(256)) * (_LARGE // 256) + b"end"
    seen: list[int] = []
    await store.write(attempt, _DATA, _Pieces(large), progress=seen.append, stopped=_never)
    _that(seen and seen[-1] == len(large) and seen == sorted(seen), "progress grows to the size")
    await _write(store, attempt, _MANIFEST, b"{}")
    await store.commit(attempt, 3)
    target = bytearray(len(large))
    await store.read_into(3, _DATA, 0, memoryview(target))
    _that(target == large, "a file made in pieces is their bytes, one after the other")
    for pieces, stopped, kind in (
        (_Pieces(large, good=1), _never, LookupError),
        (_Pieces(large), lambda: True, SaveError),
    ):
        attempt = await store.begin(4)
        doing = store.write(attempt, _DATA, pieces, progress=_nothing, stopped=stopped)
        await _raises(kind, doing, "a piece that cannot be made, or is not wanted, ends the write")
        _that(not pieces.going, "the pieces are closed when nobody takes them any more")
        await _raises(ProtocolError, _write(store, attempt, "x", b""), "and the attempt")
        await store.discard(attempt)
    _that(await store.steps() == [3], "what was given up is not listed")


async def _check_link(store: Store, make: Callable[[], Store]) -> None:
    del make
    await _save(store, 1, b"data")
    attempt = await store.begin(2)
    for step, name, size in ((9, _DATA, 4), (1, "other", 4), (1, _DATA, 5)):
        linked = await store.link(attempt, step, name, size)
        _that(linked is False, "what is not there, or of another size, is not linked")
    linked = await store.link(attempt, 1, _DATA, 4)
    if not linked:
        await _write(store, attempt, _DATA, b"data")
    await _write(store, attempt, _MANIFEST, b"{}")
    await store.commit(attempt, 2)
    _that(await store.remove(1) is True, "what shares a file with another checkpoint can be removed")
    _that(await store.read(2, _DATA, limit=9) == b"data", "and the other one keeps it")
    await _raises(ProtocolError, store.link("unknown", 2, _DATA, 4), "an attempt that is over takes no files")


async def _check_stopped(store: Store, make: Callable[[], Store]) -> None:
    del make
    for size in (10, _LARGE):
        attempt = await store.begin(1)
        doing = store.write(attempt, _DATA, memoryview(bytes(size)), progress=_nothing, stopped=lambda: True)
        error = await _raises(SaveError, doing, "a stopped write ends")
        _that(error.outcome == "cancelled", "a stopped write is cancelled, not failed")
        await store.discard(attempt)
    _that(await store.steps() == [], "what was cancelled is not listed")


async def _check_replace(store: Store, make: Callable[[], Store]) -> None:
    reader = make()
    await _save(store, 5, b"old")
    async with store.lease(5):
        await _save(store, 5, b"newer")
        target = bytearray(3)
        await store.read_into(5, _DATA, 0, memoryview(target))
        _that(bytes(target) == b"old", "a lease reads what was there when it began")
    _that(await store.read(5, _DATA, limit=9) == b"newer", "a step that is saved again is replaced")
    _that(await store.steps() == [5], "a step that is saved again is listed once")
    _that(await reader.pinned() == set(), "the lease has ended")


async def _check_add(store: Store, make: Callable[[], Store]) -> None:
    del make
    await _save(store, 5)
    await store.add(5, "report.json", b"one")
    await store.add(5, "report.json", b"two!")
    _that(await store.read(5, "report.json", limit=4) == b"two!", "an added file replaces the one before")
    await _raises(NoCheckpointError, store.add(6, "report.json", b""), "nothing is added to nothing")
    await _raises(ValueError, store.add(5, _MANIFEST, b""), "the manifest is written once")


async def _check_reading(store: Store, make: Callable[[], Store]) -> None:
    del make
    await _save(store, 5, b"12345")
    missing = await _raises(
        DamagedCheckpointError, store.read(5, "report.json", limit=9), "a missing file is damage"
    )
    _that(isinstance(missing.__cause__, FileNotFoundError), "a missing file is told by the cause")
    _that(missing.step == 5 and missing.path, "the error names step and path")
    await _raises(DamagedCheckpointError, store.read(5, _DATA, limit=4), "the limit is kept")
    target = bytearray(b".....")
    for offset in (1, 6, 2**60, -1):
        doing = store.read_into(5, _DATA, offset, memoryview(target))
        await _raises(DamagedCheckpointError, doing, "a file that ends too early is damaged")
    _that(target == b".....", "nothing is read from a file that ends too early")
    for name in ("../step-00000005/" + _DATA, ".", "/etc/hostname"):
        await _raises(ValueError, store.read(5, name, limit=9), f"the file name {name!r} is refused")


class _Range:
    """A range that notes what it is given, or fails."""

    def __init__(
        self, offset: int, size: int, *, into: bytearray | None = None, error: BaseException | None = None
    ) -> None:
        self.name = _DATA
        self.offset = offset
        self.size = size
        self.begun = False
        self.seen = bytearray()
        self.parts = 0
        self._into = into
        self._error = error

    def target(self) -> memoryview | None:
        self.begun = True
        return None if self._into is None else memoryview(self._into)

    def take(self, at: int, data: memoryview) -> None:
        _that(at == len(self.seen), "the parts of a range come in order and leave nothing out")
        if self._error is not None:
            raise self._error
        self.seen += data
        self.parts += 1


async def _check_ranges(store: Store, make: Callable[[], Store]) -> None:
    del make
    whole = bytes(range(251)) * (3 * WHOLE // 251)
    await _save(store, 5, whole)
    places = [(0, 10), (1, WHOLE), (7, 2 * WHOLE + 5), (len(whole) - 1, 1), (40, 0), (WHOLE - 3, 6)]
    for lent in (True, False):
        ranges = [_Range(at, size, into=None if lent else bytearray(size)) for at, size in places]
        await store.read_ranges(5, ranges)
        for item in ranges:
            end = item.offset + item.size
            _that(item.seen == whole[item.offset : end], "a range is shown every byte of its own")
            _that(lent or item._into == item.seen, "what a range is shown is in its target")
            _that(item.size > WHOLE or item.parts <= 1, "a small range is shown at once")
    await store.read_ranges(5, [])
    late = _Range(len(whole), 1)
    await _raises(DamagedCheckpointError, store.read_ranges(5, [late]), "a range beyond the end is damage")
    before = _Range(-1, 5)
    await _raises(DamagedCheckpointError, store.read_ranges(5, [before]), "so is one before the start")
    _that(not late.seen and not before.seen, "nothing is shown of what is not there")
    await _raises(NoCheckpointError, store.read_ranges(6, [_Range(0, 1)]), "what is not there is not read")


async def _check_failing_ranges(store: Store, make: Callable[[], Store]) -> None:
    del make
    await _save(store, 5, bytes(WHOLE))
    wrong = [ZeroDivisionError(str(number)) for number in range(3)]
    fine = [_Range(0, WHOLE) for _ in range(300)]
    ranges = [fine[0], *(_Range(0, 9, error=error) for error in wrong), *fine[1:]]
    found = await _raises(ZeroDivisionError, store.read_ranges(5, ranges), "what a range raises is raised")
    _that(found is wrong[0], "of several failures the foremost is raised")
    _that(len(fine[0].seen) == WHOLE, "what was begun before a failure is read to its end")
    _that(not fine[-1].begun, "after a failure nothing new is begun")
    reading = asyncio.ensure_future(store.read_ranges(5, fine))
    await asyncio.sleep(0)
    if reading.cancel():
        await _raises(asyncio.CancelledError, reading, "a cancelled reader is told so")


async def _check_map(store: Store, make: Callable[[], Store]) -> None:
    del make
    await _save(store, 5, b"12345")
    seen = await store.map(5, _DATA)
    _that(await store.remove(5) is True, "a checkpoint that is mapped can be removed")
    _that(bytes(seen) == b"12345", "what was mapped outlives it")
    del seen
    await _save(store, 5, b"")
    _that(bytes(await store.map(5, _DATA)) == b"", "an empty file can be mapped")
    again = await store.map(5, _MANIFEST)
    if not again.readonly:
        again[0] = 0
    _that(await store.read(5, _MANIFEST, limit=9) == b"{}", "nobody else sees what is written to a map")
    await _raises(DamagedCheckpointError, store.map(5, "report.json"), "a missing file is damage")
    await _raises(NoCheckpointError, store.map(6, _DATA), "what is not there is not mapped")


async def _check_pins(store: Store, make: Callable[[], Store]) -> None:
    del make
    await _save(store, 5)
    await _save(store, 6)
    await store.pin(5)
    await store.pin(5)
    _that(await store.pinned() == {5}, "a pin is listed")
    _that(await store.remove(5) is False, "a pinned checkpoint stays")
    await store.unpin(5)
    _that(await store.remove(5) is True, "without its pin it goes")
    _that(await store.steps() == [6], "what was removed is not listed")
    async with store.lease(6), store.lease(6):
        _that(await store.pinned() == {6}, "a lease is listed")
        _that(await store.remove(6) is False, "a checkpoint that is being read stays")
    _that(await store.remove(6) is True, "after the lease it goes")


async def _check_abandon(store: Store, make: Callable[[], Store]) -> None:
    del make
    for step in (1, 2, 3):
        await _save(store, step)
    await store.pin(3)
    _that(await store.abandon(1) == [2, 3], "all steps above are abandoned")
    _that(await store.steps() == [1], "what was abandoned is not listed")
    _that(await store.pinned() == set(), "pins of what was abandoned end")
    await _save(store, 3)
    _that(await store.abandon(1) == [3], "a step may be abandoned again")


async def _check_cancelled_waiter(store: Store, make: Callable[[], Store]) -> None:
    del make
    attempt = await store.begin(1)
    task = asyncio.ensure_future(_write(store, attempt, _DATA, bytes(_LARGE)))
    await asyncio.sleep(0)
    if task.cancel():
        await _raises(asyncio.CancelledError, task, "a cancelled waiter is told so")
    await store.discard(attempt)
    await _save(store, 1)
    _that(await store.steps() == [1], "after a cancelled attempt the step can be saved")


async def _check_closing(store: Store, make: Callable[[], Store]) -> None:
    del make
    await store.open()
    await store.aclose()
    await store.aclose()
    for doing in (store.begin(1), store.remove(1), store.abandon(1), store.add(1, "x", b"")):
        await _raises(ProtocolError, doing, "a closed store does not write")
    _that(await store.steps() == [], "a closed store still reads")
    await store.open()
    await _save(store, 1)


async def _check_one_writer(store: Store, make: Callable[[], Store]) -> None:
    other = make()
    error = await _raises(DirectoryLockedError, other.open(), "there is one writer at a time")
    _that(error.path == store.location, "the error names the place")
    await _save(store, 1)
    _that(await other.steps() == [1], "others read without a lock")
    await other.pin(1)
    _that(await store.remove(1) is False, "others pin without a lock")
    await other.unpin(1)
    async with other.lease(1):
        _that(await store.remove(1) is False, "others lease without a lock")
    await store.aclose()
    await other.open()
    _that(await other.remove(1) is True, "the next writer takes over")


async def _check_leftovers(store: Store, make: Callable[[], Store]) -> None:
    attempt = await store.begin(1)
    await _write(store, attempt, _DATA, b"x")
    await store.aclose()
    other = make()
    await other.open()
    _that(await other.steps() == [], "what a writer left unfinished is not listed")
    await _raises(ProtocolError, other.commit(attempt, 1), "nobody finishes another's attempt")
    await _save(other, 1)


_ALONE = (
    _check_commit,
    _check_order,
    _check_protocol,
    _check_failed_write,
    _check_stopped,
    _check_pieces,
    _check_link,
    _check_add,
    _check_reading,
    _check_ranges,
    _check_failing_ranges,
    _check_map,
    _check_pins,
    _check_abandon,
    _check_cancelled_waiter,
    _check_closing,
)
_TOGETHER = (_check_empty_place, _check_replace, _check_one_writer, _check_leftovers)
