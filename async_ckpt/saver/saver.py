"""The saver: one directory's saves, one after the other, and everything that reads them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from async_ckpt.core.retention import Policy
from async_ckpt.errors import ProtocolError
from async_ckpt.saver.arguments import (
    encoded_listeners,
    encoded_metadata,
    encoded_metrics,
    step_number,
    what_to_keep,
)
from async_ckpt.saver.catalog import Catalog
from async_ckpt.saver.engine import Engine
from async_ckpt.saver.gate import Gate, Mutation
from async_ckpt.saver.keeping import Keeper
from async_ckpt.saver.line import Line
from async_ckpt.saver.pending import PendingSave
from async_ckpt.saver.records import Checkpoint, Restored, VerifyResult
from async_ckpt.saver.restoring import Reader
from async_ckpt.saver.writing import Labels, Options, Writer
from async_ckpt.state import cuda
from async_ckpt.state.tree import Flat, Flattener
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.records import Report
from async_ckpt.storage.store import Store
from async_ckpt.system.clock import Clock, RealClock
from async_ckpt.system.threads import TRIES, Worker, spawn, spend

__all__ = ["Saver"]

log = logging.getLogger("async_ckpt")


class Saver:
    """Saves a state into a directory in the background, and reads it back.

    An async context manager; without ``async with``, call :meth:`aclose`. Reading takes no lock, so any
    number of savers may read a directory; the lock is taken at the first write, or by :meth:`open`.
    All methods belong on one event loop; a plain ``with saver.mutating()`` may be used in any thread.

    Args:
        directory: Where the checkpoints lie, or a store.
        max_to_keep: How many of the newest to keep after each save; None or 0 keeps all.
        keep: Retention policies, of which any one suffices to keep a checkpoint. Replaces ``max_to_keep``.
        keep_checkpoint_every_n_hours: Of those that ``max_to_keep`` would delete, one for every so many
            hours stays.
        staging: ``"copy"`` or ``"overlap"``: whether a session waits within the step until the state is
            copied, or lets the copy go on while the next step computes. Here it only says so: awaiting
            ``staged()`` is the caller's affair, and :meth:`mutating` is safe either way.
        clock: Where ``created`` comes from.
        max_shard_bytes: Bytes of tensors per file; None writes one file per top-level key.
        staging_bytes: Bytes of memory that a state may be staged in, at least 1 MiB; None for as many as
            it needs. A larger state goes through that much memory while it is written, so it may only
            change again when nearly all of it is on disk.
        io_bytes_per_sec: Bytes per second that are written; None for no limit.
        reuse_unchanged: Link files in which no byte changed since the checkpoint before, instead of
            writing them again. Every checkpoint stays complete by itself when others are deleted; damage
            to such a file on disk is damage to all that share it.
        validate_staging: Read the state again after each copy, and fail a save whose state was changed
            under the copy; names the tensors. Costs another pass over the state.
        engine: Threads, memory and bandwidth shared with other savers; it brings its own limits, and is
            closed by whoever made it. None makes one for this saver alone.

    Raises:
        ValueError: A number is out of range, or ``keep`` is combined with
            ``keep_checkpoint_every_n_hours``, or ``engine`` with ``staging_bytes`` or
            ``io_bytes_per_sec``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | Store,
        *,
        max_to_keep: int | None = 5,
        keep: Policy | Iterable[Policy] | None = None,
        keep_checkpoint_every_n_hours: float | None = None,
        staging: Literal["copy", "overlap"] = "copy",
        clock: Clock | None = None,
        max_shard_bytes: int | None = None,
        staging_bytes: int | None = None,
        io_bytes_per_sec: float | None = None,
        reuse_unchanged: bool = False,
        validate_staging: bool = False,
        engine: Engine | None = None,
    ) -> None:
        if staging not in ("copy", "overlap"):
            raise ValueError(f"staging is 'copy' or 'overlap', not {staging!r}")
        if max_shard_bytes is not None and not max_shard_bytes > 0:
            raise ValueError(f"max_shard_bytes must be above zero, not {max_shard_bytes!r}")
        if engine is not None and not (staging_bytes is None and io_bytes_per_sec is None):
            raise ValueError("staging_bytes and io_bytes_per_sec belong to the engine given")
        self.staging = staging
        self._owns_engine = engine is None
        self._engine = engine or Engine(staging_bytes=staging_bytes, io_bytes_per_sec=io_bytes_per_sec)
        self._flattener = Flattener()
        policy = what_to_keep(max_to_keep, keep, keep_checkpoint_every_n_hours)
        self._clock: Clock = RealClock() if clock is None else clock
        self._store: Store = LocalStore(directory) if isinstance(directory, str | os.PathLike) else directory
        self._gate = Gate()
        self._worker = Worker("async-ckpt-read")
        self._catalog = Catalog(self._store, self._worker)
        self._reader = Reader(self._store, self._catalog, self._worker)
        options = Options(
            max_shard_bytes=max_shard_bytes,
            reuse_unchanged=bool(reuse_unchanged),
            validate_staging=bool(validate_staging),
            beside_steps=staging == "overlap",
        )
        self._writer = Writer(self._store, self._gate, self._catalog, self._engine, options)
        self._line = Line(self._gate, self._writer, self._settle, self._store.location)
        self._keeper = Keeper(self._store, self._catalog, self._worker, policy, self._line.uncertain)
        self._closing: asyncio.Task[None] | None = None
        self._unclosed: Exception | None = None

    @property
    def location(self) -> str:
        """The directory, in words."""
        return self._store.location

    def __repr__(self) -> str:
        return f"<Saver {self._store.location}>"

    @property
    def _note(self) -> Callable[[bytes], Awaitable[None]] | None:
        """What appends lines to the event log of the directory, if the store keeps one."""
        return getattr(self._store, "note", None)

    # -- saving --------------------------------------------------------------------------------------

    def start_save(
        self,
        state: Any,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> PendingSave:
        """Start a save and return at once. Saves of one saver are taken one after the other.

        Plain values are captured now. Arrays are copied in a thread: change them only after
        ``await pending.staged()``, or inside :meth:`mutating`, which waits for the copy.

        Args:
            state: A tree of containers, arrays and plain values.
            step: What the checkpoint is called; one that exists is replaced once the new one is durable.
            metrics: Numbers that retention may rank by; NaN is kept.
            metadata: Plain values.

        Raises:
            UnsupportedLeafError: The state or the metadata cannot be saved. Nothing was written.
            ValueError: The step is out of range.
            TypeError: The step is not an integer, or a metric is not a number.
            ProtocolError: Inside :meth:`mutating`, or the saver is closed.
        """
        labels = self._labels(metrics, metadata)
        number = self._check_start(step)
        # Whoever is changing the state right now was first, and what they change belongs in this copy.
        changing = self._gate.changing()
        flat = self._flatten(state)
        take = (lambda: self._flatten(state)) if changing else (lambda: flat)
        return self._line.join(take, number, labels, held=False)

    async def save(
        self,
        state: Any,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Save and wait until the checkpoint is durable; see :meth:`start_save`.

        Raises:
            SaveError: It is not; ``outcome`` says more.
            DirectoryLockedError: Another writer holds the directory.

        Cancellation: the save goes on.
        """
        return await self.start_save(state, step, metrics=metrics, metadata=metadata)

    async def drain(self) -> None:
        """Wait until nothing is in flight. Failures are for those who await the saves, and :meth:`aclose`."""
        await self._line.drain()

    async def prepare(self, state: Any) -> None:
        """Have places and memory ready for a state of this structure, before its first save.

        Fresh memory is many times slower at its first use. A save that is asked for meanwhile goes first.
        May be called again, and does nothing while a save is in flight.

        Args:
            state: As for :meth:`start_save`. It is looked at in a thread and not kept; its arrays may change
                meanwhile, its containers may not.

        Raises:
            UnsupportedLeafError: The state cannot be saved.
            OSError: The operating system has no such memory.
            ProtocolError: The saver is closed.

        Cancellation: what was made ready stays so; no thread is left behind.
        """
        self._check_open()
        await self._prepare_flat(await self._worker.call(self._flatten, state))

    def mutating(self) -> Mutation:
        """A block of code that changes the state: ``async with``, or plain ``with`` in a thread.

        Entering waits for every copy asked for so far; a copy asked for later waits for the block. In
        the block saves cannot be started by whoever is in it.
        """
        return Mutation(self._gate)

    async def open(self) -> None:
        """Take the directory's lock, as the first write would.

        Raises:
            DirectoryLockedError: Another writer holds it.
            SaveError: The directory cannot be made or written to.
            ProtocolError: The saver is closed.
        """
        self._check_open()
        await self._store.open()

    async def aclose(self) -> None:
        """Finish what was started, then give the lock back. A second call does nothing.

        A held save that was never allowed to commit is cancelled: nobody is left to allow it.

        Raises:
            SaveError: A save failed and nobody awaited it; raised once. Further ones are its notes.

        Cancellation: closing goes on in the background; only the waiting ends.
        """
        if self._closing is None:
            self._closing = spawn(self._close(), name=f"async-ckpt close {self._store.location}")
        await asyncio.shield(self._closing)
        self._raise_unseen()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tries = TRIES
        while True:
            try:
                await self.aclose()
            except Exception as later:
                tries -= 1
                if isinstance(later, MemoryError) and tries and not self._closed:
                    continue  # it lacked for the closing to begin, or for the waiting
                if error is None:
                    raise
                # The block's own error is the one that leaves.
                error.add_note(f"while closing the saver: {later!r}")
            return

    # -- reading -------------------------------------------------------------------------------------

    async def restore(
        self,
        step: int | None = None,
        into: Any = None,
        only: str | Iterable[str] | None = None,
        strict: bool = True,
        mmap: bool = False,
    ) -> Restored:
        """Read a checkpoint back, comparing every byte with its digest on the way.

        Args:
            step: Which one; None takes the newest valid one and says which newer ones were passed over.
            into: A state to be filled in place; None builds plain containers.
            only: Globs over paths, such as ``"model/**"``; nothing else is read.
            strict: Whether ``into`` and the checkpoint must have the same leaves.
            mmap: Read nothing now, and give views of the files instead: read-only numpy arrays, also in the
                place of jax arrays, and torch tensors to which one may write without changing the file.
                They outlive the checkpoint's deletion. Sizes, the manifest and the headers are checked;
                the tensors' digests are not (see :meth:`verify`), and bytes that the disk cannot give
                when they are looked at end the process, as with any mapped file.

        Raises:
            ValueError: ``mmap`` and ``into`` together.
            NoCheckpointError: There is none, or not of that step.
            DamagedCheckpointError: The given step is damaged, or every checkpoint is. Arrays of ``into``
                may have been overwritten then, and the message says so.
            FormatVersionError: The given step was written by a newer release, or every one was.
            StructureMismatchError: It is intact and does not fit ``into``; nothing was changed, unless
                the message says so.
        """
        self._check_open()
        if mmap and into is not None:
            raise ValueError("mmap gives views of the files; nothing can be read into a state")
        wanted = None if step is None else step_number(step)
        globs = only if only is None or isinstance(only, str) else tuple(only)
        restored = await self._reader.restore(wanted, into, globs, strict=strict, mmap=mmap)
        for skipped in restored.skipped:
            log.warning(
                "checkpoint %s of %s was passed over: %s", skipped.step, self.location, skipped.reason
            )
        self._keeper.restored_from = restored.step
        return restored

    async def checkpoints(self) -> list[Checkpoint]:
        """List the valid checkpoints, ascending: manifests intact, files there and of the right size."""
        self._check_open()
        return (await self._catalog.listing())[0]

    async def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint, or None."""
        found = await self.checkpoints()
        return found[-1] if found else None

    async def verify(self, step: int) -> VerifyResult:
        """Read every byte of a checkpoint and check it against its digest.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            DamagedCheckpointError: A byte is not what was saved; ``path`` names the file.
            FormatVersionError: It was written by a newer release.
        """
        self._check_open()
        return await self._reader.verify(step_number(step))

    # -- keeping and deleting ------------------------------------------------------------------------

    async def delete(self, step: int) -> None:
        """Delete one checkpoint.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            ProtocolError: It is pinned, being read, or the one that was restored from.
            SaveError: It may still be there.
            DirectoryLockedError: Another writer holds the directory.
        """
        self._check_open()
        await self._keeper.delete(step_number(step))

    async def pin(self, step: int) -> None:
        """Protect a checkpoint from deletion, by whomever, until :meth:`unpin`.

        Raises:
            NoCheckpointError: There is no such checkpoint.
        """
        self._check_open()
        await self._store.pin(step_number(step))

    async def unpin(self, step: int) -> None:
        """End a pin; without one nothing happens."""
        self._check_open()
        await self._store.unpin(step_number(step))

    async def prune(self, protect: Collection[int] = ()) -> list[int]:
        """Delete what the retention policies do not keep, oldest first. Every save but a held one does it.

        Damaged checkpoints neither count nor go; nor do the newest, pinned ones, those being read, the
        one restored from, and ``protect``.

        Returns:
            The steps that were deleted.
        """
        self._check_open()
        return await self._keeper.prune(protect)

    # -- for the saver hook --------------------------------------------------------------------------

    async def _prepare_flat(self, flat: Flat) -> None:
        """Do what :meth:`prepare` does, for a state that was taken apart."""
        await self._writer.prepare(flat)

    def _flatten(self, state: Any) -> Flat:
        """Take a state apart, in any thread; a state on GPUs in the one that changes it."""
        flat = self._flattener.flatten(state)
        if cuda.in_use():
            flat.mark = cuda.mark(cuda.devices(flat.values))
        return flat

    def _start(
        self,
        flat: Flat,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        listeners: Mapping[str, Any] | None = None,
        expects_report: bool = False,
    ) -> PendingSave:
        """Start a held save: it waits for ``allow_commit()``, keeps its memory until ``release()``."""
        labels = self._labels(metrics, metadata, listeners, expects_report=expects_report)
        return self._line.join(lambda: flat, self._check_start(step), labels, held=True)

    async def _add_report(
        self,
        step: int,
        votes: Iterable[Mapping[str, Any]] = (),
        metrics: Mapping[str, float] | None = None,
        listeners: Mapping[str, Any] | None = None,
    ) -> Report:
        """Write the report of a checkpoint, durably and at one stroke.

        Args:
            step: Of a durable checkpoint.
            votes: One JSON object per vote.
            metrics: Overlay those of the save.
            listeners: States of listeners and hooks, by key.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            SaveError: It could not be written.
            UnsupportedLeafError: A listener's state cannot be saved.
        """
        self._check_open()
        return await self._keeper.add_report(step, votes, metrics, listeners)

    async def _abandon_above(self, step: int) -> list[int]:
        """Put every checkpoint above ``step`` aside; returns their steps."""
        self._check_open()
        return await self._keeper.abandon_above(step)

    async def _copies_done(self) -> None:
        """Wait until every copy asked for by now is over."""
        await self._gate.copies_done()

    # -- inside --------------------------------------------------------------------------------------

    def _labels(
        self,
        metrics: Mapping[str, float] | None,
        metadata: Mapping[str, Any] | None,
        listeners: Mapping[str, Any] | None = None,
        *,
        expects_report: bool = False,
    ) -> Labels:
        plain_metrics, metrics_json = encoded_metrics(metrics)
        plain_metadata, metadata_json = encoded_metadata(metadata)
        return Labels(
            metrics=plain_metrics,
            metadata=plain_metadata,
            listeners=encoded_listeners(listeners),
            expects_report=expects_report,
            created=self._clock.wall(),
            encoded=(metrics_json, metadata_json),
        )

    def _check_start(self, step: int) -> int:
        self._check_open()
        if Mutation.inside(self._gate):
            raise ProtocolError(
                "a save cannot be started inside mutating(): its copy would wait for the block"
            )
        return step_number(step)

    def _raise_unseen(self) -> None:
        unseen = self._line.unseen()
        if self._unclosed is not None:
            unseen.append(self._unclosed)
            self._unclosed = None
        if unseen:
            for later in unseen[1:]:
                unseen[0].add_note(f"and later: {later!r}")
            raise unseen[0]

    async def _settle(self) -> None:
        await self._keeper.prune_quietly()

    async def _close(self) -> None:
        tries = TRIES
        try:
            while True:
                try:
                    self._line.let_go()
                    await self._line.drain()
                    await self._store.aclose()
                    break
                except MemoryError:
                    # The lock would stay with a process that may live for long.
                    tries = spend(tries)
        except Exception as error:  # noqa: BLE001 - raised by `aclose`, once
            self._unclosed = error
        finally:
            self._writer.close()
            self._worker.close()
            if self._owns_engine:
                self._engine._close()

    @property
    def _closed(self) -> bool:
        return self._closing is not None and self._closing.done()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise ProtocolError(f"the saver of {self._store.location} is closed")
