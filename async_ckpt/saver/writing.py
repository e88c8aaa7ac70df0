"""From a live state to a durable checkpoint: stage, digest and write, manifest last, rename."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from async_ckpt.errors import DirectoryLockedError, SaveError, UnsupportedLeafError
from async_ckpt.saver.files import Before, Files, Stop
from async_ckpt.saver.records import Checkpoint
from async_ckpt.saver.reuse import before_of, latest_before
from async_ckpt.saver.staged import Plan, Staged
from async_ckpt.saver.warming import Warming
from async_ckpt.state import cuda
from async_ckpt.state.arrivals import Arrivals
from async_ckpt.state.jax_arrays import Donations
from async_ckpt.state.staging import stage
from async_ckpt.storage.manifest import digest
from async_ckpt.storage.names import MANIFEST, step_name
from async_ckpt.system.threads import Outcome, finish, insist, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from async_ckpt.saver.catalog import Catalog
    from async_ckpt.saver.engine import Engine
    from async_ckpt.saver.gate import Gate, Place
    from async_ckpt.saver.pending import PendingSave
    from async_ckpt.state.digesting import Digests
    from async_ckpt.state.dtypes import Json
    from async_ckpt.state.tree import Flat
    from async_ckpt.storage.store import Store
    from async_ckpt.system.threads import Worker

__all__ = ["Job", "Labels", "Options", "Writer"]


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
        attempt: Its attempt at the store, once there is one.
        staged: Its state in memory, once it is there.
    """

    pending: PendingSave
    place: Place
    flatten: Callable[[], Flat]
    labels: Labels
    held: bool
    attempt: str | None = field(default=None)
    staged: Staged | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Options:
    """How a saver writes; see :class:`async_ckpt.saver.Saver`."""

    max_shard_bytes: int | None = None
    reuse_unchanged: bool = False
    validate_staging: bool = False
    beside_steps: bool = False


Outcomes: TypeAlias = Literal["failed", "unknown"]

_TOGETHER = 64 * 2**20
"""Bytes from which a state is written while it is being copied; a smaller one is copied in a blink."""


class Writer:
    """Writes the saves of one saver, one at a time."""

    def __init__(self, store: Store, gate: Gate, catalog: Catalog, engine: Engine, options: Options) -> None:
        self._store = store
        self._gate = gate
        self._catalog = catalog
        self._engine = engine
        self._options = options
        self._plan: Plan | None = None
        self._before: Before | None = None
        self._donations = Donations()
        self._gpus = cuda.Copier()
        self._warming = Warming(engine, self)
        self._busy = False

    def close(self) -> None:
        """Let the memory go; nothing may be in flight."""
        self._engine._memory.forget(self)

    async def prepare(self, flat: Flat) -> None:
        """See :meth:`Saver.prepare`."""
        self._engine._check_open()
        await self._engine._load()
        if not self._busy:
            plan = await self._planned(flat)
            if not self._busy:
                await self._warming.warm(plan.placing.nbytes)

    async def save(self, job: Job) -> Checkpoint:
        """Take one save from the live state to the rename.

        Raises:
            SaveError: It failed, was cancelled, or its outcome is unknown. Unless it is unknown, nothing
                of it is left on disk.
            DirectoryLockedError: Another writer holds the directory.
            BaseException: The task itself was ended; nothing of the save is left either.
        """
        self._busy = True
        try:
            await self._warming.end()
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
            # Where it was while the names changed, nobody knows what it left.
            outcome: Outcomes = "unknown" if job.pending._phase == "committing" else "failed"
            raise self._as_save_error(job.pending.step, error, outcome) from error
        finally:
            self._busy = False
            self._let_go_of_memory(job)

    async def _save(self, job: Job) -> Checkpoint:
        pending, step = job.pending, job.pending.step
        staged = await self._place(job)
        if staged.plan.placing.live:
            digests = await self._bring(job, staged)
        elif staged.plan.placing.window is None and staged.bytes >= _TOGETHER:
            digests = await self._copy_and_bring(job, staged)
        else:
            await self._copy(job, staged)
            digests = await self._bring(job, staged)
        assert job.attempt is not None  # noqa: S101 - the files are in it
        content = await self._write_manifest(job, job.attempt, staged, digests)
        self._check(pending)
        pending._move("written")
        self._offer_memory(job, staged)
        await pending._allowed.wait()
        self._check(pending)
        # No await between the last look and this: `cancel()` is answered by what happens next.
        pending._move("committing")
        # Unless the commit succeeds, what lies under this step is not known without a look.
        self._before = None
        await self._store.commit(job.attempt, step)
        if self._options.reuse_unchanged:
            self._before = before_of(step, staged.plan.layout, digests)
        self._catalog.remember(
            content,
            step=step,
            files=staged.plan.template.files,
            created=job.labels.created,
            expects_report=job.labels.expects_report,
            metrics=job.labels.encoded[0],
            metadata=job.labels.encoded[1],
        )
        return Checkpoint(
            step=step,
            path=f"{self._store.location}/{step_name(step)}",
            bytes=staged.bytes,
            metrics=dict(job.labels.metrics),
            metadata=dict(job.labels.metadata),
            created=job.labels.created,
        )

    # -- into memory ---------------------------------------------------------------------------------

    async def _place(self, job: Job) -> Staged:
        """Wait until the state may be looked at, and find a place for it."""
        pending = job.pending
        await self._gate.entered(job.place)
        self._check(pending)
        pending._move("staging")
        self._engine._check_open()
        await self._engine._load()
        flat = job.flatten()
        self._donations.look(flat.values)
        plan = await self._planned(flat)
        loan = await self._engine._memory.lend(plan.placing.nbytes, self)
        staged = job.staged = Staged(plan, flat, loan)
        if any(plan.constant):
            await self._engine._copier.call(staged.hold)
        if plan.placing.live and flat.mark is not None:
            await self._engine._copier.call(flat.mark.wait)
        pending._plan([file.size for file in plan.layout.files])
        return staged

    async def _copy(self, job: Job, staged: Staged, arrivals: Arrivals | None = None) -> None:
        """Copy what may change to memory; then it may."""
        engine, plan = self._engine, staged.plan
        if staged.flat.mark is not None:
            await engine._copier.call(staged.fetch, self._gpus)
        await stage(
            plan.layout,
            plan.placing,
            staged.copier,
            staged.memory,
            worker=self._copying,
            threads=engine._copy_threads,
            arrivals=arrivals,
        )
        assert staged.loan is not None  # noqa: S101 - given back when the save is over
        staged.loan.arena.warm = plan.placing.nbytes
        if self._options.validate_staging:
            self._judge(staged, await engine._copier.call(staged.changed))
        staged.detach()
        self._copied(job, staged)

    async def _copy_and_bring(self, job: Job, staged: Staged) -> Digests:
        """Write what has been copied while the rest is being copied."""
        arrivals = Arrivals([file.size for file in staged.plan.layout.files])
        stop = Stop()
        copying = spawn(self._copy_beside(job, staged, arrivals, stop), name="async-ckpt copy")
        try:
            digests = await self._bring(job, staged, arrivals, stop)
        except GeneratorExit:
            raise
        except BaseException:
            # Its error is the cause of whatever else went wrong, so it is the one that leaves.
            (await finish(copying)).unwrap()
            raise
        (await finish(copying)).unwrap()
        return digests

    async def _copy_beside(self, job: Job, staged: Staged, arrivals: Arrivals, stop: Stop) -> Outcome[None]:
        end = arrivals.end  # looked up before, for memory may lack behind the copy
        try:
            await self._copy(job, staged, arrivals)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the outcome
            stop.now = True
            return Outcome(error=error)
        finally:
            # The threads that write would wait for ever.
            insist(end)
        return Outcome()

    async def _bring(
        self, job: Job, staged: Staged, arrivals: Arrivals | None = None, stop: Stop | None = None
    ) -> Digests:
        """Open an attempt, and write the files."""
        await self._store.open()
        before = await self._unchanged_files()
        job.attempt = await self._store.begin(job.pending.step)
        loop = asyncio.get_running_loop()

        def copied() -> None:
            if not job.pending.done():
                self._copied(job, staged)

        files = Files(
            self._store,
            self._engine,
            job.attempt,
            staged,
            job.pending,
            before,
            _in_loop(loop, copied),
            judge=partial(self._judge, staged) if self._options.validate_staging else None,
            arrivals=arrivals,
            stop=stop or Stop(),
        )
        return await files.write()

    async def _planned(self, flat: Flat) -> Plan:
        last, donated = self._plan, self._donations.seen
        if last is None or last.outline is not flat.outline or last.donated is not donated:
            self._plan = last = await self._engine._copier.call(self._make_plan, flat, donated)
            if last.placing.nbytes >= _TOGETHER:
                await self._engine._hire(self._copying, self._engine._digester)
                hire = getattr(self._store, "hire", None)
                if hire is not None:
                    await hire()
        return last

    @property
    def _copying(self) -> Worker:
        """Who copies: beside a step that computes, those who take what the step leaves."""
        return self._engine._filler if self._options.beside_steps else self._engine._copier

    def _make_plan(self, flat: Flat, donated: bool) -> Plan:
        options, limit = self._options, self._engine.staging_bytes
        return Plan(flat, donated=donated, max_shard_bytes=options.max_shard_bytes, limit=limit)

    def _copied(self, job: Job, staged: Staged) -> None:
        """From here on the live state may change."""
        self._gate.leave(job.place)
        job.pending._move("writing")
        job.pending._offer(staged.view())

    def _judge(self, staged: Staged, indices: list[int]) -> None:
        if indices:
            paths = staged.plan.outline.paths
            names = ", ".join(paths[index] for index in indices[:10])
            more = f" and {len(indices) - 10} more" if len(indices) > 10 else ""
            message = (
                f"{names}{more} changed while being copied; change the state inside mutating(), "
                "or after staged()"
            )
            raise SaveError(message)

    # -- memory --------------------------------------------------------------------------------------

    def _offer_memory(self, job: Job, staged: Staged) -> None:
        """Everything is on disk: memory that others wait for is theirs, and the view is read from there."""
        if staged.loan is not None:

            def give_up() -> None:
                job.pending._lose_view()
                self._give_back(staged)

            self._engine._memory.may_give_up(staged.loan, give_up)

    def _let_go_of_memory(self, job: Job) -> None:
        """No thread works for the save any more: its memory is free as soon as nobody may look at it."""
        staged, job.staged = job.staged, None
        if staged is not None:
            job.pending._when_released(lambda: self._give_back(staged))

    def _give_back(self, staged: Staged) -> None:
        loan = staged.drop()
        if loan is not None:
            self._engine._memory.give_back(loan)

    # -- to the disk ---------------------------------------------------------------------------------

    async def _unchanged_files(self) -> Before | None:
        if not self._options.reuse_unchanged:
            return None
        if self._before is None:
            self._before = await latest_before(self._catalog, self._store)
        return self._before

    async def _write_manifest(self, job: Job, attempt: str, staged: Staged, digests: Digests) -> str:
        """Write it, and give its digest."""
        data, content = await self._engine._digester.call(self._manifest, job, attempt, staged, digests)
        await self._store.write(
            attempt,
            MANIFEST,
            memoryview(data),
            progress=_ignore,
            stopped=job.pending._stopped,
        )
        return content

    def _manifest(self, job: Job, attempt: str, staged: Staged, digests: Digests) -> tuple[bytearray, str]:
        labels, plan = job.labels, staged.plan
        data = plan.template.encode(
            [found.tensors for found in digests],
            staged.flat.holes,
            step=job.pending.step,
            attempt=attempt,
            created=labels.created,
            expects_report=labels.expects_report,
            metrics=labels.encoded[0],
            metadata=labels.encoded[1],
            listeners=labels.listeners,
        )
        return data, digest(data)

    def _check(self, pending: PendingSave) -> None:
        if pending._stopped():
            raise pending._cancelled()

    def _as_save_error(self, step: int, error: Exception, outcome: Outcomes) -> SaveError:
        where = getattr(error, "filename", None)
        path = where if isinstance(where, str) else f"{self._store.location}/{step_name(step)}"
        message = f"the save of step {step} failed: {str(error) or type(error).__name__}"
        return SaveError(message, step=step, path=path, outcome=outcome)


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> Callable[[], None]:
    """Give what a thread may call to have ``call`` called on the loop."""

    def tell() -> None:
        loop.call_soon_threadsafe(call)

    return tell


def _ignore(_done: int) -> None:
    """The manifest is not counted among the bytes of a save."""
