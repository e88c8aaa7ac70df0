"""What happens to checkpoints after they were committed: reports, pins, retention, deletion."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from async_ckpt.core.retention import Candidate, Policy, surplus
from async_ckpt.errors import NoCheckpointError, ProtocolError
from async_ckpt.saver.arguments import encoded_listeners, encoded_metrics
from async_ckpt.saver.catalog import Catalog
from async_ckpt.storage.manifest import encode_report
from async_ckpt.storage.names import REPORT
from async_ckpt.storage.records import Report
from async_ckpt.storage.store import Store
from async_ckpt.system.threads import Worker

__all__ = ["Keeper"]

log = logging.getLogger("async_ckpt")


class Keeper:
    """Adds to checkpoints and deletes them, one change at a time.

    Attributes:
        restored_from: The step that is never deleted because a state came from it, or None.
        uncertain: Steps whose rename may not survive a power cut: they neither count nor go.
    """

    def __init__(
        self, store: Store, catalog: Catalog, worker: Worker, policy: Policy, uncertain: Collection[int]
    ) -> None:
        self.restored_from: int | None = None
        self.uncertain = uncertain
        self._store = store
        self._catalog = catalog
        self._worker = worker
        self._policy = policy
        self._changing = asyncio.Lock()

    async def prune(self, protect: Collection[int] = ()) -> list[int]:
        """See :meth:`Saver.prune`."""
        await self._store.open()
        async with self._changing:
            found, _ = await self._catalog.listing()
            candidates = [
                Candidate(c.step, c.created, c.metrics) for c in found if c.step not in self.uncertain
            ]
            protected = {*protect, *await self._store.pinned()}
            if self.restored_from is not None:
                protected.add(self.restored_from)
            gone = surplus(candidates, self._policy, protected=protected)
            return [step for step in gone if await self._store.remove(step)]

    async def prune_quietly(self) -> None:
        """Prune after a save, which is durable whatever becomes of the older ones."""
        try:
            await self.prune()
        except Exception as error:  # noqa: BLE001 - said aloud, and tried again
            log.warning("old checkpoints of %s were not deleted: %s", self._store.location, error)

    async def delete(self, step: int) -> None:
        """See :meth:`Saver.delete`."""
        await self._store.open()
        async with self._changing:
            if step not in await self._store.steps():
                message = f"{self._store.location}: there is no checkpoint of step {step}"
                raise NoCheckpointError(message, step=step, path=self._catalog.path(step))
            if step == self.restored_from:
                raise ProtocolError(f"step {step} is the one that was restored from; it is not deleted")
            if not await self._store.remove(step):
                raise ProtocolError(f"step {step} is pinned or being read; it is not deleted")

    async def add_report(
        self,
        step: int,
        votes: Iterable[Mapping[str, Any]],
        metrics: Mapping[str, float] | None,
        listeners: Mapping[str, Any] | None,
    ) -> Report:
        """See :meth:`Saver._add_report`."""
        report = Report(
            step=step,
            votes=[dict(vote) for vote in votes],
            metrics=encoded_metrics(metrics)[1],
            listeners=encoded_listeners(listeners),
        )
        await self._store.open()
        async with self._changing:
            await self._store.add(step, REPORT, await self._worker.call(encode_report, report))
        return report

    async def abandon_above(self, step: int) -> list[int]:
        """See :meth:`Saver._abandon_above`."""
        await self._store.open()
        async with self._changing:
            return await self._store.abandon(step)
