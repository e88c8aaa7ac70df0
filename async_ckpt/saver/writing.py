"""From a live state to a durable checkpoint: stage, digest and write, manifest last, rename."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from async_ckpt.errors import DirectoryLockedError, SaveError, UnsupportedLeafError
from async_ckpt.saver.image import Image, Label
from async_ckpt.saver.records import Checkpoint
from async_ckpt.state.arena import Arena
from async_ckpt.state.layout import Layout, plan
from async_ckpt.state.staging import stage_across
from async_ckpt.storage.manifest import encode_manifest
from async_ckpt.storage.names import MANIFEST, step_name
from async_ckpt.storage.records import Manifest
from async_ckpt.system.threads import Worker, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from async_ckpt.saver.gate import Gate, Place
    from async_ckpt.saver.pending import PendingSave
    from async_ckpt.state.dtypes import Json
    from async_ckpt.state.tree import Flat
    from async_ckpt.storage.records import FileEntry, TensorEntry
    from async_ckpt.storage.store import Store

__all__ = ["FILES_ABREAST", "Job", "Labels", "Writer"]

COPY_THREADS = 4
"""More threads than this do not copy faster: they share the memory's bandwidth."""


FILES_ABREAST = 4
"""How many files of one checkpoint are written at the same time."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What goes into the manifest besides the state.

    Attributes:
        metrics: As the caller gave them.
        metadata: As the caller gave them.
        listeners: States of listeners, already encoded.
        expects_report: Whether a report is to follow.
        created: Wall clock in seconds.
        encoded: ``metrics`` and ``metadata`` as JSON.
    """

    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    listeners: Mapping[str, Json]
    expects_report: bool
    created: float
    encoded: tuple[Json, Json]


@dataclass(slots=True)
class Job:
    """One save as it was asked for.

    Attributes:
        pending: What its owner holds.
        place: Its place in the gate, taken when it was asked for.
        flatten: Gives the state, taken apart. A state that somebody was changing at the time of asking
            is taken apart again when the copy starts.
        labels: What else goes into the manifest.
        held: Whether it waits for permission to rename and is released by hand.
    """

    pending: PendingSave
    place: Place
    flatten: Callable[[], Flat]
    labels: Labels
    held: bool
    attempt: str | None = field(default=None)


class Writer:
    """Writes the saves of one saver, one at a time."""

    def __init__(self, store: Store, gate: Gate, *, max_shard_bytes: int | None) -> None:
        self._store = store
        self._gate = gate
        self._max_shard_bytes = max_shard_bytes
        self._arena = Arena()
        self._layout: tuple[tuple[Any, ...], Layout] | None = None
        self._copy_threads = min(COPY_THREADS, os.cpu_count() or 1)
        self._copier = Worker("async-ckpt-copy", threads=self._copy_threads)
        self._digester = Worker("async-ckpt-digest")

    def close(self) -> None:
        """Let threads and memory go; nothing may be in flight."""
        self._copier.close()
        self._digester.close()
        self._arena.close()

    async def save(self, job: Job) -> Checkpoint:
        """Take one save from the live state to the rename.

        Raises:
            SaveError: It failed, was cancelled, or its outcome is unknown. Unless it is unknown, nothing
                of it is left on disk.
            DirectoryLockedError: Another writer holds the directory.
            BaseException: The task itself was ended; nothing of the save is left either.
        """
        try:
            return await self._save(job)
        except GeneratorExit:
            raise  # the loop is gone, and nothing can be awaited any more
        except BaseException as error:
            if job.attempt is not None:
                # After the rename it only closes what is open: the checkpoint is no longer the attempt's.
                await self._store.discard(job.attempt)
            if isinstance(error, SaveError):
                error.step = job.pending.step if error.step is None else error.step
                error.path = self._store.location if error.path is None else error.path
                raise
            if isinstance(error, DirectoryLockedError | UnsupportedLeafError):
                raise
            if not isinstance(error, Exception):
                raise
            raise self._as_save_error(job.pending.step, error) from error

    async def _save(self, job: Job) -> Checkpoint:
        pending, step = job.pending, job.pending.step
        image = await self._stage(job)
        pending._offer(image.view)
        self._check(pending)
        await self._store.open()
        job.attempt = await self._store.begin(step)
        pending._move("writing")
        files, tensors = await self._write_files(job, job.attempt, image)
        await self._write_manifest(job, job.attempt, image, files, tensors)
        self._check(pending)
        pending._move("written")
        await pending._allowed.wait()
        self._check(pending)
        # No await between the last look and this: `cancel()` is answered by what happens next.
        pending._move("committing")
        await self._store.commit(job.attempt, step)
        return Checkpoint(
            step=step,
            path=f"{self._store.location}/{step_name(step)}",
            bytes=image.bytes,
            metrics=dict(job.labels.metrics),
            metadata=dict(job.labels.metadata),
            created=job.labels.created,
        )

    async def _stage(self, job: Job) -> Image:
        pending = job.pending
        await self._gate.entered(job.place)
        self._check(pending)
        pending._move("staging")
        flat = job.flatten()
        image = await self._copier.call(self._prepare, flat)
        pending._plan([file.size for file in image.layout.files])
        await stage_across(
            image.layout, flat.leaves, image.memory, worker=self._copier, threads=self._copy_threads
        )
        self._gate.leave(job.place)
        return image

    def _prepare(self, flat: Flat) -> Image:
        """Find the places and the memory. Runs in a thread; a layout is planned once per structure."""
        specs = flat.specs
        key = Layout.key(specs)
        if self._layout is None or self._layout[0] != key:
            self._layout = (key, plan(specs, max_shard_bytes=self._max_shard_bytes))
        layout = self._layout[1]
        labels = [Label(leaf.path, leaf.name, leaf.spec) for leaf in flat.leaves]
        return Image(layout, specs, labels, flat.structure, self._arena.reserve(layout.total))

    async def _write_files(
        self, job: Job, attempt: str, image: Image
    ) -> tuple[tuple[FileEntry, ...], tuple[TensorEntry, ...]]:
        """Write the tensor files side by side, and digest them meanwhile.

        The first file that fails stops the others; all of them are waited for, so no thread still writes
        when this returns.
        """
        pending = job.pending
        failures: list[BaseException] = []

        def stopped() -> bool:
            return bool(failures) or pending._stopped()

        waiting = iter(enumerate(image.layout.files))

        async def write_some() -> None:
            for number, file in waiting:
                if stopped():
                    return
                try:
                    await self._store.write(
                        attempt,
                        file.name,
                        image.file(file),
                        progress=pending._progress(number),
                        stopped=stopped,
                    )
                except BaseException as error:  # noqa: BLE001 - raised below, when every thread has ended
                    failures.append(error)
                    return

        digesting = self._digester.submit(image.entries, stopped)
        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(FILES_ABREAST, len(image.layout.files))):
                    group.start_soon(write_some)
        finally:
            outcome = await finish(digesting)
        if failures:
            raise failures[0]
        entries = outcome.unwrap()
        if entries is None:
            raise pending._cancelled()
        return entries

    async def _write_manifest(
        self,
        job: Job,
        attempt: str,
        image: Image,
        files: tuple[FileEntry, ...],
        tensors: tuple[TensorEntry, ...],
    ) -> None:
        labels, pending = job.labels, job.pending
        manifest = Manifest(
            step=pending.step,
            attempt=attempt,
            created=labels.created,
            expects_report=labels.expects_report,
            metrics=labels.encoded[0],
            metadata=labels.encoded[1],
            files=files,
            tensors=tensors,
            tree=image.structure,
            listeners=dict(labels.listeners),
        )
        data = await self._digester.call(encode_manifest, manifest)
        await self._store.write(
            attempt,
            MANIFEST,
            memoryview(data),
            progress=_ignore,
            stopped=pending._stopped,
        )

    def _check(self, pending: PendingSave) -> None:
        if pending._stopped():
            raise pending._cancelled()

    def _as_save_error(self, step: int, error: Exception) -> SaveError:
        where = getattr(error, "filename", None)
        path = where if isinstance(where, str) else f"{self._store.location}/{step_name(step)}"
        message = f"the save of step {step} failed: {error or type(error).__name__}"
        return SaveError(message, step=step, path=path)


def _ignore(_done: int) -> None:
    """The manifest is not counted among the bytes of a save."""
