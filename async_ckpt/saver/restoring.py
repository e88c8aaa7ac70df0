"""Reading a checkpoint back: the newest that is intact, or one that was named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from async_ckpt.errors import (
    DamagedCheckpointError,
    FormatVersionError,
    NoCheckpointError,
    RestoreError,
    StructureMismatchError,
)
from async_ckpt.saver.catalog import Catalog, plain
from async_ckpt.saver.filling import fill
from async_ckpt.saver.mapping import Mapped
from async_ckpt.saver.records import Restored, Skipped, VerifyResult
from async_ckpt.saver.targets import Fresh, Into, Target
from async_ckpt.saver.verifying import verify_files
from async_ckpt.state.into import plan_into
from async_ckpt.storage.names import MANIFEST, REPORT
from async_ckpt.storage.records import Manifest, Report
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Worker

__all__ = ["Reader"]

Only = str | tuple[str, ...] | None
Planned = TypeVar("Planned", bound=Target | Mapped)

OVERWRITTEN = "arrays given to into= may have been overwritten"


class Reader:
    """Reads the checkpoints of one store. Takes a lease while it reads, and no lock."""

    def __init__(self, store: Store, catalog: Catalog, worker: Worker) -> None:
        self._store = store
        self._catalog = catalog
        self._worker = worker

    async def restore(
        self, step: int | None, into: Any, only: Only, *, strict: bool, mmap: bool = False
    ) -> Restored:
        """See :meth:`Saver.restore`."""
        touched: set[str] = set()
        skipped: list[Skipped] = []
        candidates = [step] if step is not None else sorted(await self._store.steps(), reverse=True)
        for candidate in candidates:
            try:
                restored = await self._restore(candidate, into, only, touched, strict=strict, mmap=mmap)
            except NoCheckpointError:
                if step is not None:
                    raise
                # Deleted since it was listed.
            except (DamagedCheckpointError, FormatVersionError) as error:
                if step is not None:
                    if not touched:
                        raise
                    raise type(error)(f"{error}; {OVERWRITTEN}", step=step, path=error.path) from error
                skipped.append(Skipped(candidate, error))
            else:
                return replace(restored, skipped=tuple(skipped))
        raise self._nothing(skipped, touched)

    async def verify(self, step: int) -> VerifyResult:
        """See :meth:`Saver.verify`."""
        async with self._store.lease(step):
            manifest = await self._catalog.manifest(step)
            self._catalog.entry_of(manifest)
            await self._catalog.check_sizes(step, manifest.files)
            await self._worker.call(self._plan, manifest, set(), lambda: Fresh(manifest, None))
            await verify_files(self._store, self._catalog, self._worker, manifest)
            _, reason = await self._catalog.report_or_reason(step)
        return VerifyResult(
            step=step,
            files=tuple(file.name for file in manifest.files),
            bytes=sum(file.bytes for file in manifest.files),
            report_error=reason,
        )

    async def mapped(self, step: int, only: Only = None) -> Any:
        """Give views of a checkpoint's mapped files, as ``restore(mmap=True)`` does, and nothing about it.

        Raises:
            RestoreError: As for ``restore`` of a given step.
        """
        async with self._store.lease(step):
            manifest = await self._catalog.manifest(step)
            await self._catalog.check_sizes(step, manifest.files)
            target = await self._map(manifest, only)
        return await self._worker.call(self._finish, target, step)

    async def _map(self, manifest: Manifest, only: Only) -> Mapped:
        make = partial(Mapped, manifest, only)
        target: Mapped = await self._worker.call(self._plan, manifest, set(), make)
        await target.attach(self._store, self._catalog)
        return target

    async def _fill(
        self, manifest: Manifest, into: Any, only: Only, touched: set[str], *, strict: bool
    ) -> Target:
        find = partial(_places, manifest, into, only, strict=strict)
        target: Target = await self._worker.call(self._plan, manifest, touched, find)
        await fill(self._store, self._catalog, self._worker, manifest, target, touched)
        return target

    async def _restore(
        self, step: int, into: Any, only: Only, touched: set[str], *, strict: bool, mmap: bool
    ) -> Restored:
        catalog = self._catalog
        async with self._store.lease(step):
            manifest = await catalog.manifest(step)
            entry = catalog.entry_of(manifest)
            await catalog.check_sizes(step, manifest.files)
            report, reason = await catalog.report_or_reason(step)
            listeners = self._listeners(manifest, report)
            target: Target | Mapped
            if mmap:
                target = await self._map(manifest, only)
            else:
                target = await self._fill(manifest, into, only, touched, strict=strict)
        return Restored(
            step=step,
            state=await self._worker.call(self._finish, target, step),
            checkpoint=catalog.checkpoint(entry, report),
            listeners=listeners,
            votes=() if report is None else tuple(report.votes),
            expects_report=manifest.expects_report,
            report=report,
            report_error=reason,
        )

    def _plan(self, manifest: Manifest, touched: set[str], find: Callable[[], Planned]) -> Planned:
        """Find a place for every leaf. Runs in a thread; touches nothing."""
        step, path = manifest.step, self._catalog.path(manifest.step, MANIFEST)
        try:
            target = find()
        except DamagedCheckpointError as error:
            raise DamagedCheckpointError(f"{path}: {error}", step=step, path=path) from error
        except StructureMismatchError as error:
            _located(error, step, self._catalog.path(step), touched)
            raise
        left = touched - {manifest.tensors[index].path for index in target.indices}
        if left:
            # A newer one that turned out damaged was read into arrays that this one does not have.
            message = f"{path}: it lacks {', '.join(sorted(left))}; {OVERWRITTEN}"
            raise StructureMismatchError(message, step=step, path=path, missing=sorted(left))
        return target

    def _finish(self, target: Target | Mapped, step: int) -> Any:
        """Put the state together. Runs in a thread."""
        try:
            return target.finish()
        except DamagedCheckpointError as error:
            path = self._catalog.path(step, MANIFEST)
            raise DamagedCheckpointError(f"{path}: {error}", step=step, path=path) from error
        except RestoreError as error:
            error.step = step
            error.path = self._catalog.path(step)
            raise

    def _listeners(self, manifest: Manifest, report: Report | None) -> dict[str, Any]:
        """Decode the states of the listeners: the report's, for it is the later one, else the manifest's."""
        name, source = (MANIFEST, manifest.listeners) if report is None else (REPORT, report.listeners)
        path = self._catalog.path(manifest.step, name)
        return {key: plain(state, step=manifest.step, path=path) for key, state in source.items()}

    def _nothing(self, skipped: list[Skipped], touched: set[str]) -> RestoreError:
        where = self._store.location
        if not skipped:
            return NoCheckpointError(f"{where} holds no checkpoint", path=where)
        kind = DamagedCheckpointError
        if all(isinstance(item.reason, FormatVersionError) for item in skipped):
            kind = FormatVersionError  # type: ignore[assignment]
        reasons = "; ".join(f"step {item.step}: {item.reason}" for item in skipped)
        message = f"{where}: none of its {len(skipped)} checkpoints can be restored: {reasons}"
        if touched:
            message = f"{message}; {OVERWRITTEN}"
        error = kind(message, step=skipped[0].step, path=where)
        error.__cause__ = skipped[0].reason
        return error


def _places(manifest: Manifest, into: Any, only: Only, *, strict: bool) -> Target:
    if into is None:
        return Fresh(manifest, only)
    return Into(plan_into(into, manifest.tree, manifest.tensors, strict=strict, only=only), into)


def _located(error: StructureMismatchError, step: int, path: str, touched: set[str]) -> None:
    more = f"; {OVERWRITTEN} by a newer checkpoint that is damaged" if touched else ""
    error.args = (f"{path}: {error}{more}",)
    error.step = step
    error.path = path
