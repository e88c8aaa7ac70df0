"""What the subcommands read of a directory: its checkpoints with all that is known of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from async_ckpt.cli.outcome import one_line
from async_ckpt.cli.output import note
from async_ckpt.errors import DamagedCheckpointError, FormatVersionError, NoCheckpointError, RestoreError
from async_ckpt.saver.catalog import Catalog
from async_ckpt.storage.local import LocalStore
from async_ckpt.system.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from async_ckpt.cli.place import Place
    from async_ckpt.storage.records import Manifest

__all__ = ["Directory", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint as ``ls`` shows it.

    Attributes:
        step: Its step.
        path: Its directory.
        pinned: Whether it is pinned, or being read right now.
        reason: Why it is not valid, or None.
        bytes: Of its tensor files; None, as all below, if it is not valid.
        reused_bytes: Of those, what is shared with other checkpoints and takes no room of its own.
        created: When its save was asked for, in seconds since the epoch.
        metrics: Those of the save, overlaid with the reported ones.
        metadata: What the user attached.
    """

    step: int
    path: str
    pinned: bool
    reason: str | None
    bytes: int | None = None
    reused_bytes: int | None = None
    created: float | None = None
    metrics: Mapping[str, float] | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def valid(self) -> bool:
        """Whether it can be restored, as far as is known without reading every byte."""
        return self.reason is None


class Directory:
    """A directory of checkpoints, opened for reading: takes no lock. An async context manager."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.store = LocalStore(place.directory)
        self.worker = Worker("async-ckpt-cli")
        self.catalog = Catalog(self.store, self.worker)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.store.aclose()
        self.worker.close()

    async def rows(self) -> list[Row]:
        """List the checkpoints, damaged ones too, newest first."""
        pinned = await self.store.pinned()
        found = []
        for step in sorted(await self.store.steps(), reverse=True):
            path = self.catalog.path(step)
            try:
                entry = await self.catalog.entry(step)
            except NoCheckpointError:
                continue  # deleted since it was listed
            except (DamagedCheckpointError, FormatVersionError) as error:
                found.append(Row(step, path, step in pinned, str(error)))
                continue
            report, _ = await self.catalog.report_or_reason(step)
            checkpoint = self.catalog.checkpoint(entry, report)
            names = [file.name for file in entry.files]
            found.append(
                Row(
                    step,
                    path,
                    step in pinned,
                    None,
                    bytes=checkpoint.bytes,
                    reused_bytes=await self.worker.call(_shared_bytes, path, names),
                    created=checkpoint.created,
                    metrics=checkpoint.metrics,
                    metadata=checkpoint.metadata,
                )
            )
        return found

    async def step(self) -> int:
        """The step of the place: the one it names, else the newest valid one.

        Newer ones that were passed over are named on standard error.

        Raises:
            RestoreError: There is none.
        """
        if self.place.step is not None:
            return self.place.step
        reasons: list[RestoreError] = []
        for step in sorted(await self.store.steps(), reverse=True):
            try:
                found = (await self.catalog.entry(step)).step
            except NoCheckpointError:
                continue
            except (DamagedCheckpointError, FormatVersionError) as error:
                reasons.append(error)
                continue
            for reason in reasons:
                note(f"step {reason.step} is passed over: {one_line(reason)}")
            return found
        where = self.place.directory
        if reasons:
            message = f"{where}: none of its {len(reasons)} checkpoints is valid; the newest: {reasons[0]}"
            raise DamagedCheckpointError(message, path=str(where)) from reasons[0]
        raise NoCheckpointError(f"{where} holds no checkpoint", path=str(where))

    async def manifest(self, step: int) -> Manifest:
        """Read the manifest of a checkpoint, and check that its files are there.

        Raises:
            RestoreError: There is no such checkpoint, or it is damaged.
        """
        manifest = await self.catalog.manifest(step)
        await self.catalog.check_sizes(step, manifest.files)
        return manifest


def _shared_bytes(path: str, names: list[str]) -> int:
    total = 0
    for name in names:
        try:
            found = os.stat(os.path.join(path, name), follow_symlinks=False)  # noqa: PTH116, PTH118
        except FileNotFoundError:
            continue  # replaced or deleted meanwhile
        if found.st_nlink > 1:
            total += found.st_size
    return total
