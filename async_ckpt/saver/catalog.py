"""What checkpoints say about themselves, read from the store and remembered by content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from async_ckpt.errors import DamagedCheckpointError, FormatVersionError, NoCheckpointError, RestoreError
from async_ckpt.saver.records import Checkpoint, Skipped
from async_ckpt.state.plain import decode_plain
from async_ckpt.storage.manifest import MANIFEST_LIMIT, REPORT_LIMIT, decode_manifest, decode_report, digest
from async_ckpt.storage.names import MANIFEST, REPORT, step_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from async_ckpt.storage.records import FileEntry, Manifest, Report
    from async_ckpt.storage.store import Store
    from async_ckpt.system.threads import Worker

__all__ = ["Catalog", "Entry", "plain", "plain_metrics"]


_AT_ONCE = 1 << 20
"""Bytes of a manifest that are digested where they arrive: that takes less than a hop to a thread."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest without its tensors: small enough to be kept for every checkpoint."""

    step: int
    files: tuple[FileEntry, ...]
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    created: float
    expects_report: bool


class Catalog:
    """The checkpoints of one store, as far as their manifests and reports tell."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self._store = store
        self._worker = worker
        self._known: dict[int, tuple[str, Entry]] = {}

    def path(self, step: int, name: str = "") -> str:
        """Where a checkpoint, or a file in it, lies; for messages."""
        directory = f"{self._store.location}/{step_name(step)}"
        return f"{directory}/{name}" if name else directory

    def remember(
        self,
        content: str,
        *,
        step: int,
        files: tuple[FileEntry, ...],
        created: float,
        expects_report: bool,
        metrics: Any,
        metadata: Any,
    ) -> None:
        """Take note of a manifest that this process has just committed, so that it need not be decoded again.

        It is still read from the disk, and counts as known only if its bytes have this digest.

        Args:
            content: The digest of the whole file, by :func:`async_ckpt.storage.manifest.digest`.
            step: This and all others as in the manifest.
            files: As there.
            created: As there.
            expects_report: As there.
            metrics: As there, encoded.
            metadata: As there, encoded.
        """
        path = self.path(step, MANIFEST)
        entry = _entry(step, path, files, created, metrics, metadata, expects_report=expects_report)
        self._known[step] = content, entry

    async def manifest(self, step: int) -> Manifest:
        """Read and judge a manifest.

        Raises:
            NoCheckpointError: There is no such checkpoint.
            DamagedCheckpointError: Its manifest is missing, or not what was written.
            FormatVersionError: It is of a newer format.
        """
        data = await self._store.read(step, MANIFEST, limit=MANIFEST_LIMIT)
        return await self._worker.call(self._decode, step, data)

    def _decode(self, step: int, data: bytes) -> Manifest:
        return decode_manifest(data, path=self.path(step, MANIFEST), step=step)

    async def report(self, step: int) -> Report | None:
        """Read the report of a checkpoint; None if there is none.

        Raises:
            RestoreError: There is one, and it is damaged or of a newer format.
        """
        try:
            data = await self._store.read(step, REPORT, limit=REPORT_LIMIT)
        except DamagedCheckpointError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        return await self._worker.call(self._decode_report, step, data)

    def _decode_report(self, step: int, data: bytes) -> Report:
        path = self.path(step, REPORT)
        report = decode_report(data, path=path, step=step)
        # Judged here, so that a report counts as a whole or not at all.
        plain_metrics(report.metrics, step=step, path=path)
        for state in report.listeners.values():
            plain(state, step=step, path=path)
        return report

    async def report_or_reason(self, step: int) -> tuple[Report | None, RestoreError | None]:
        """Read the report; one that is damaged counts as none, and the reason is given beside it."""
        try:
            return await self.report(step), None
        except (DamagedCheckpointError, FormatVersionError) as error:
            return None, error

    async def entry(self, step: int) -> Entry:
        """Read what a checkpoint says, and check that its files are there and of the right size.

        Raises:
            RestoreError: As for :meth:`manifest`, or a file is missing or of another size.
        """
        data = await self._store.read(step, MANIFEST, limit=MANIFEST_LIMIT)
        entry = self._recalled(step, data) if len(data) <= _AT_ONCE else None
        if entry is None:
            entry = await self._worker.call(self._entry, step, data)
        await self.check_sizes(step, entry.files)
        return entry

    def _recalled(self, step: int, data: bytes) -> Entry | None:
        content, entry = self._known.get(step, ("", None))
        return entry if content == digest(data) else None

    def _entry(self, step: int, data: bytes) -> Entry:
        entry = self._recalled(step, data)
        if entry is None:
            entry = self.entry_of(self._decode(step, data))
            self._known[step] = digest(data), entry
        return entry

    def entry_of(self, manifest: Manifest) -> Entry:
        """Give the entry of a manifest that was read already."""
        return _entry(
            manifest.step,
            self.path(manifest.step, MANIFEST),
            manifest.files,
            manifest.created,
            manifest.metrics,
            manifest.metadata,
            expects_report=manifest.expects_report,
        )

    async def check_sizes(self, step: int, files: tuple[FileEntry, ...]) -> None:
        """Check that every file is there and as long as the manifest says.

        Raises:
            DamagedCheckpointError: One is not.
        """
        for file in files:
            size = await self._store.size(step, file.name)
            if size != file.bytes:
                path = self.path(step, file.name)
                message = f"{path}: {size} bytes instead of {file.bytes}"
                raise DamagedCheckpointError(message, step=step, path=path)

    def checkpoint(self, entry: Entry, report: Report | None) -> Checkpoint:
        """Give the public record of a checkpoint."""
        reported = {} if report is None else plain_metrics(report.metrics, step=entry.step, path=None)
        return Checkpoint(
            step=entry.step,
            path=self.path(entry.step),
            bytes=sum(file.bytes for file in entry.files),
            metrics={**entry.metrics, **reported},
            metadata=dict(entry.metadata),
            created=entry.created,
        )

    async def listing(self) -> tuple[list[Checkpoint], list[Skipped]]:
        """Read all checkpoints: the valid ones ascending, and those that are not, with the reason.

        Raises:
            RestoreError: One cannot be looked at for a reason that says nothing about its bytes, such as
                a lack of permission.
        """
        valid: list[Checkpoint] = []
        damaged: list[Skipped] = []
        steps = await self._store.steps()
        for gone in self._known.keys() - set(steps):
            del self._known[gone]
        for step in steps:
            try:
                entry = await self.entry(step)
                report, _ = await self.report_or_reason(step)
            except NoCheckpointError:
                continue  # deleted since it was listed
            except (DamagedCheckpointError, FormatVersionError) as error:
                damaged.append(Skipped(step, error))
            else:
                valid.append(self.checkpoint(entry, report))
        return valid, damaged


def _entry(
    step: int,
    path: str,
    files: tuple[FileEntry, ...],
    created: float,
    metrics: Any,
    metadata: Any,
    *,
    expects_report: bool,
) -> Entry:
    table = plain(metadata, step=step, path=path)
    if not isinstance(table, dict):
        raise DamagedCheckpointError(f"{path}: the metadata is not a table", step=step, path=path)
    return Entry(
        step=step,
        files=files,
        metrics=plain_metrics(metrics, step=step, path=path),
        metadata=table,
        created=created,
        expects_report=expects_report,
    )


def plain(data: Any, *, step: int, path: str | None) -> Any:
    """Decode a plain value out of a record.

    Raises:
        DamagedCheckpointError: It is not one.
    """
    try:
        return decode_plain(data)
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(f"{path}: {error}", step=step, path=path) from error


def plain_metrics(data: Any, *, step: int, path: str | None) -> dict[str, float]:
    """Decode metrics out of a record; raises as :func:`plain` does."""
    value = plain(data, step=step, path=path)
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(metric, float) for name, metric in value.items()
    ):
        raise DamagedCheckpointError(f"{path}: the metrics are not a table of floats", step=step, path=path)
    return value
