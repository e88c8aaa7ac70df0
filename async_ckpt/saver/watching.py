"""New checkpoints as they come, for whoever evaluates them beside the training, mostly in another process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from async_ckpt.errors import DamagedCheckpointError, FormatVersionError, NoCheckpointError, ProtocolError
from async_ckpt.saver.catalog import Catalog
from async_ckpt.saver.records import Checkpoint
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Worker, finish, spawn

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["CheckpointWatch", "watch_checkpoints"]


def watch_checkpoints(
    directory: str | os.PathLike[str] | Store,
    *,
    min_interval_secs: float = 0.0,
    timeout_secs: float | None = None,
    poll_secs: float = 1.0,
) -> CheckpointWatch:
    """Give the newest valid checkpoint of a directory, and each newer one once it is durable.

    Counterpart of ``tf.train.checkpoints_iterator``. Whoever takes longer than the next save gets the newest
    one then, and not those between::

        async with watch_checkpoints("runs/digits") as watch:
            async for checkpoint in watch:
                await evaluate(checkpoint.path)

    While a checkpoint is looked at, until the next one is asked for, a lease keeps retention from deleting
    it, in whichever process that runs. Takes no lock; the directory need not be there yet. A checkpoint saved
    again under its step is new; damaged ones are passed over, and looked at again when something changes.

    Args:
        directory: Where the checkpoints lie, or a store.
        min_interval_secs: Least time from one checkpoint given to the next, by the loop's clock.
        timeout_secs: How long to wait for a checkpoint before the iteration ends; None for ever.
        poll_secs: How often to look. With the ``watch`` extra (watchfiles) a local directory that is there
            tells by itself when it changes, and is looked at once then, too.

    Raises:
        ValueError: A number is out of range.
    """
    return CheckpointWatch(
        directory, min_interval_secs=min_interval_secs, timeout_secs=timeout_secs, poll_secs=poll_secs
    )


class CheckpointWatch(AsyncIterator[Checkpoint]):
    """What :func:`watch_checkpoints` gives: an async iterator, and a context manager that ends its lease.

    Cancelling whoever waits for the next checkpoint loses none.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | Store,
        *,
        min_interval_secs: float,
        timeout_secs: float | None,
        poll_secs: float,
    ) -> None:
        self._min_interval = _secs("min_interval_secs", min_interval_secs, least=0.0)
        self._timeout = math.inf if timeout_secs is None else _secs("timeout_secs", timeout_secs, least=0.0)
        self._poll = _secs("poll_secs", poll_secs, least=1e-3)
        self._store: Store = LocalStore(directory) if isinstance(directory, str | os.PathLike) else directory
        self._owned = self._store if isinstance(directory, str | os.PathLike) else None
        self._worker = Worker("async-ckpt-watch")
        self._catalog = Catalog(self._store, self._worker)
        self._lease: AbstractAsyncContextManager[None] | None = None
        self._given: tuple[int, float] | None = None
        self._given_at = -math.inf
        #: what lay below the one given last: nobody wants it when that one is deleted or damaged
        self._passed: set[int] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the lease of the last checkpoint, and the iteration. May be called twice."""
        self._closed = True
        await self._end_lease()
        if self._owned is not None:
            await self._owned.aclose()
        self._worker.close()

    async def __anext__(self) -> Checkpoint:
        """Wait for the next checkpoint.

        Raises:
            StopAsyncIteration: None came in time; the watch is closed.
            ProtocolError: The watch was closed before.
            RestoreError: The directory cannot be read.
        """
        if self._closed:
            raise ProtocolError("the watch is closed")
        await self._end_lease()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        early = self._given_at + self._min_interval - loop.time()
        if early > 0:
            await asyncio.sleep(min(early, self._timeout))  # nothing that comes now is given now
        while True:
            if loop.time() >= self._given_at + self._min_interval:
                found = await self._newest()
                if found is not None:
                    self._given, self._given_at = (found.step, found.created), loop.time()
                    return found
            left = deadline - loop.time()
            if left <= 0:
                await self.aclose()
                raise StopAsyncIteration
            await _changed(self._store.location if self._owned else None, min(self._poll, left))

    async def _newest(self) -> Checkpoint | None:
        """Lease the newest valid checkpoint, if it is not the one given last."""
        steps = sorted(await self._store.steps(), reverse=True)
        for step in steps:
            if step in self._passed:
                return None
            lease = self._store.lease(step)
            try:
                await lease.__aenter__()
            except NoCheckpointError:
                continue  # deleted since it was listed
            kept = False
            try:
                entry = await self._catalog.entry(step)
                if (step, entry.created) == self._given:
                    return None
                report, _ = await self._catalog.report_or_reason(step)
                kept, self._lease = True, lease
                self._passed = {other for other in steps if other < step}
                return self._catalog.checkpoint(entry, report)
            except (NoCheckpointError, DamagedCheckpointError, FormatVersionError):
                continue
            finally:
                if not kept:
                    await lease.__aexit__(None, None, None)
        return None

    async def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.__aexit__(None, None, None)


def _secs(name: str, value: float, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} has to be a number of seconds, not {value!r}")
    if not value >= least or math.isnan(value):
        raise ValueError(f"{name} has to be at least {least:g}, not {value!r}")
    return float(value)


async def _changed(directory: str | None, secs: float) -> None:
    """Wait so long, or until something changes in a directory that can be watched."""
    if directory is None or importlib.util.find_spec("watchfiles") is None or not os.path.isdir(directory):  # noqa: ASYNC240, PTH112 - one look
        await asyncio.sleep(secs)
        return
    stop = asyncio.Event()
    # In a task of its own, which is told to end and waited for: cancelled, it would leave its thread behind.
    watching = spawn(_first_change(directory, stop), name="async_ckpt watch")
    try:
        await asyncio.wait([watching], timeout=secs)
    finally:
        stop.set()
        await finish(watching)


async def _first_change(directory: str, stop: asyncio.Event) -> None:
    import watchfiles  # noqa: PLC0415 - optional, and not light

    changes: Any = watchfiles.awatch(
        directory, recursive=False, stop_event=stop, step=10, debounce=50, rust_timeout=100, watch_filter=None
    )
    # A directory that goes away while it is watched is found out by the next look.
    with contextlib.suppress(OSError):
        async with contextlib.aclosing(changes):
            async for _ in changes:
                return
