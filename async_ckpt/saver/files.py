"""The tensor files of one save: digested, linked if nothing changed, else written, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import anyio

from async_ckpt.saver.engine import FILES_ABREAST, Engine
from async_ckpt.saver.pending import PendingSave
from async_ckpt.saver.staged import Staged
from async_ckpt.state.arrays import Bytes
from async_ckpt.state.arrivals import Arrivals, ArrivingImage
from async_ckpt.state.digesting import Digests, FileDigests
from async_ckpt.state.staging import digest_image
from async_ckpt.state.streaming import StreamedFile
from async_ckpt.storage.store import Pieces, Store
from async_ckpt.system.threads import Outcome, finish

if TYPE_CHECKING:
    from async_ckpt.state.layout import FilePlan

__all__ = ["Before", "Files", "Stop"]

_PIECE = 32 * 2**20
"""Bytes per write; a multiple of what is copied in one go."""


class Before(NamedTuple):
    """An earlier checkpoint, whose files need not be written again where nothing changed.

    Attributes:
        step: Its step.
        files: Its files by name: their size, and the digests of all their bytes.
    """

    step: int
    files: Mapping[str, tuple[int, FileDigests]]


@dataclass(slots=True)
class Stop:
    """Whether to stop, for threads that ask."""

    now: bool = False


class Files:
    """Brings the files of one attempt to the disk.

    Args:
        store: Where to.
        engine: Its threads and its bandwidth are used.
        attempt: The attempt at the store.
        staged: The state.
        pending: Is told of the progress, and may stop it.
        before: Where unchanged files may be had, or None.
        copied: Called in a thread when a living state is no longer needed.
        arrivals: Tells what has been copied to memory already; None if all of it has.
        stop: Ends the writing when it is set.
        judge: Raises if leaves of a living state changed while they were read; None does not look.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        attempt: str,
        staged: Staged,
        pending: PendingSave,
        before: Before | None,
        copied: Callable[[], None],
        *,
        judge: Callable[[list[int]], None] | None = None,
        arrivals: Arrivals | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._arrivals = arrivals
        self._stop = stop or Stop()
        self._judge = judge
        self._store = store
        self._engine = engine
        self._attempt = attempt
        self._staged = staged
        self._pending = pending
        self._before = before
        self._files = staged.plan.layout.files
        self._making = _Countdown(len(self._files), copied) if staged.plan.placing.live else None
        self._failures: list[BaseException] = []
        self._digests: list[FileDigests | None] = [None] * len(self._files)

    async def write(self) -> Digests:
        """Write them all, each complete and durable on return.

        The first file that fails stops the others; all of them are waited for, so no thread still works
        for this save when it returns.

        Raises:
            BaseException: What the first file that failed raised.
            SaveError: The save was cancelled.
        """
        waiting = iter(range(len(self._files)))
        slots = self._staged.slots()

        async def write_some() -> None:
            for number in waiting:
                if self._stopped():
                    return
                try:
                    await self._write(number, slots)
                except BaseException as error:  # noqa: BLE001 - raised below, when every thread has ended
                    self._note(error)
                    return

        abreast = min(FILES_ABREAST, len(self._files))
        if slots:
            # So nobody has to wait for slots that somebody else of this save holds.
            abreast = min(abreast, len(slots))
        async with anyio.create_task_group() as group:
            for _ in range(abreast):
                group.start_soon(write_some)
        if self._failures:
            raise self._failures[0]
        done = tuple(digests for digests in self._digests if digests is not None)
        if len(done) < len(self._files):
            raise self._pending._cancelled()
        return done

    def _note(self, error: BaseException) -> None:
        if not any(known is error for known in self._failures):
            self._failures.append(error)

    def _stopped(self) -> bool:
        return self._stop.now or bool(self._failures) or self._pending._stopped()

    async def _write(self, number: int, slots: list[tuple[Bytes, Bytes]]) -> None:
        image = self._staged.image(number)
        if image is not None:
            await self._write_image(number, image)
            return
        pair = slots.pop()
        try:
            await self._write_stream(number, pair)
        finally:
            slots.append(pair)

    # -- files that lie in memory --------------------------------------------------------------------

    async def _write_image(self, number: int, image: Bytes) -> None:
        file, arrivals = self._files[number], self._arrivals
        data: memoryview | Pieces = memoryview(image.data)
        arrived = _here
        if arrivals is not None:
            # The training waits for the copy, and a digest beside it would take its share of the memory.
            arrived = arrivals.wait_for_all
            data = ArrivingImage(memoryview(image.data), arrivals, number, _PIECE)
        digesting = self._engine._digester.submit(_digest, file, image, self._stopped, arrived)
        if self._before is not None and file.name in self._before.files:
            outcome: Outcome[FileDigests | None] = await finish(digesting)
            self._digests[number] = outcome.unwrap()
            if self._stopped() or await self._linked(number):
                return
        try:
            await self._put(number, self._engine._paced(self._store, data, self._stopped))
        finally:
            outcome = await finish(digesting)
        self._digests[number] = outcome.unwrap()

    # -- files that are made while they are written --------------------------------------------------

    async def _write_stream(self, number: int, pair: tuple[Bytes, Bytes]) -> None:
        file = self._files[number]
        if self._before is not None and file.name in self._before.files:
            trial = self._stream(file, pair, _nothing)
            await self._engine._digester.call(_exhaust, trial, self._stopped)
            if self._stopped():
                return
            self._digests[number] = trial.digests()
            if await self._linked(number):
                self._made()
                return
        looked_at = self._judge is not None and self._making is not None
        stream = self._stream(file, pair, _nothing if looked_at else self._made)
        await self._put(number, self._engine._paced(self._store, stream, self._stopped))
        self._digests[number] = stream.digests()
        if looked_at:
            await self._look_again(number, pair)
            self._made()

    async def _look_again(self, number: int, pair: tuple[Bytes, Bytes]) -> None:
        """Read the living arrays of a file once more, and compare."""
        file, first = self._files[number], self._digests[number]
        again = self._stream(file, pair, _nothing)
        await self._engine._digester.call(_exhaust, again, self._stopped)
        if self._stopped():
            return
        assert self._judge is not None and first is not None  # noqa: S101, PT018 - asked by the caller
        pairs = zip(file.tensors, first.tensors, again.digests().tensors, strict=True)
        self._judge([placed.index for placed, one, other in pairs if one != other])

    def _stream(self, file: FilePlan, pair: tuple[Bytes, Bytes], made: Callable[[], None]) -> StreamedFile:
        return StreamedFile(file, self._staged.copier, pair, self._engine._filler.pool, made)

    def _made(self) -> None:
        if self._making is not None:
            self._making.count()

    # -- both ----------------------------------------------------------------------------------------

    async def _put(self, number: int, data: memoryview | Pieces) -> None:
        try:
            async with self._engine._abreast:
                await self._store.write(
                    self._attempt,
                    self._files[number].name,
                    data,
                    progress=self._pending._progress(number),
                    stopped=self._stopped,
                )
        except BaseException as error:
            # Before its digest is waited for: others fail because this one did, and would be the cause then.
            self._note(error)
            raise

    async def _linked(self, number: int) -> bool:
        """Take the file of the earlier checkpoint if it holds the same bytes."""
        before, file = self._before, self._files[number]
        assert before is not None  # noqa: S101 - looked at by the callers
        if before.files[file.name] != (file.size, self._digests[number]):
            return False
        if not await self._store.link(self._attempt, before.step, file.name, file.size):
            return False
        self._pending._reuse(number, file.size)
        return True


class _Countdown:
    """Calls somebody once, when the last of several threads has counted."""

    def __init__(self, count: int, reached: Callable[[], None]) -> None:
        self._left: Iterator[int] = iter(range(count - 1, -1, -1))
        self._reached = reached

    def count(self) -> None:
        # `next` on a range's iterator is one step, so no two threads get the same number.
        if next(self._left) == 0:
            self._reached()


def _here(_start: int, _stop: int) -> bool:
    return True


def _digest(
    file: FilePlan, image: Bytes, stopped: Callable[[], bool], arrived: Callable[[int, int], bool]
) -> FileDigests | None:
    return digest_image(file, image, stopped=stopped, arrived=arrived)


def _exhaust(pieces: StreamedFile, stopped: Callable[[], bool]) -> None:
    for _ in pieces:
        if stopped():
            return


def _nothing() -> None:
    """A file that is only looked at leaves nothing behind."""
